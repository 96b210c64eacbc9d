"""How an HTTP interface of ours says that it can't: one struct, whatever was asked."""

from __future__ import annotations

from typing import Literal

import msgspec

ErrorKind = Literal[
    "unknown-peer",
    "no-reply",
    "refused",
    "forbidden",
    "busy",
    "bad-request",
    "too-large",
    "not-found",
    "failed",
]


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Body of every answer that is not 2xx. `error` is for programs, `message` for people.

    `ids` has the entry in docs/errors.md of each line of the message, where it has one.
    """

    error: ErrorKind
    message: str
    ids: list[str] = []
