"""Prints docs/errors.md."""

from __future__ import annotations

from shadowmesh.catalogue import page

print(page(), end="")
