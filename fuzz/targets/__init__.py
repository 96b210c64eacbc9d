"""One fuzz target per module; fuzz/targets/__init__.py says nothing of its own, see ../README.md."""
