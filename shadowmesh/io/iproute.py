"""The parts of pyroute2 that we use.

Its package imports all of it: a database, test tools and more, 5 MB and a tenth of a second.  So it is
put in place here without running its `__init__`, unless somebody has imported it already.
"""

# ruff: noqa: E402
from __future__ import annotations

import importlib.util
import sys

_NAME = "pyroute2"

if _NAME not in sys.modules:
    _spec = importlib.util.find_spec(_NAME)
    if _spec is not None:
        sys.modules[_NAME] = importlib.util.module_from_spec(_spec)

from pyroute2.iproute.linux import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

__all__ = ["IPRoute", "NetlinkError"]
