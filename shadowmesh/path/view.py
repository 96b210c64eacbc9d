"""How this side sees its paths, as PATH_VIEW tells it to the peer: for people, never to decide anything."""

from __future__ import annotations

from shadowmesh.path.path import Path, PathState
from shadowmesh.path.paths import PathSet
from shadowmesh.wire.messages import MAX_CANDIDATES, PathView, Tried

TEXT_LIMIT = 200
"""Characters of a text in a message."""


def view(paths: PathSet, nat: str) -> PathView:
    """The path in use, the reason, and what became of the peer's addresses. Without figures: a new message
    should mean that something changed."""
    current = paths.current
    return PathView(
        path=_cut(current.name if current is not None else "none"),
        reason=_cut(paths.reason),
        tried=[_tried(path) for path in paths.paths if not path.relayed][:MAX_CANDIDATES],
        nat=_cut(nat),
    )


def _tried(path: Path) -> Tried:
    # A round tries the failed ones again and again: that is no news.
    trying = path.state is PathState.TRYING and path.detail
    state = PathState.FAILED if trying else path.state
    return Tried(address=str(path.way.address), state=state.value, detail=_cut(path.detail))


def _cut(text: str) -> str:
    return text[:TEXT_LIMIT]
