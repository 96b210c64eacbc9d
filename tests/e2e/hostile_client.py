"""The client with its own checks of its certificate taken out: what a hostile member would run."""

import sys

from shadowmesh.cli.main import main
from shadowmesh.io import membership

if __name__ == "__main__":
    membership._require_own = lambda *_: None
    sys.exit(main())
