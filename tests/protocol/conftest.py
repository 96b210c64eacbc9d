"""Fixtures of the protocol tests."""

from __future__ import annotations

import pytest

from tests.protocol.mesh import Mesh


@pytest.fixture
def mesh() -> Mesh:
    """A relay that admits everybody and no client yet."""
    made = Mesh()
    made.start_relay()
    return made
