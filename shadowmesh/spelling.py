"""What somebody who mistyped a word may have meant. Knows no words itself."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of `known` that `word` is most like; None if it is like none."""
    import difflib  # most commands have nothing mistyped

    close = difflib.get_close_matches(word.lower(), [name for name in known if name], n=1)
    return close[0] if close else None


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """ "did you mean NAME?" for errors, else `otherwise`."""
    name = nearest(word, known)
    return f"did you mean {name}?" if name else otherwise
