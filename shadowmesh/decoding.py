"""What msgspec raises for bytes that are damaged or made up: more than its own errors. Decodes nothing."""

from __future__ import annotations

import msgspec

UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""Of bytes that are no document at all, of text that is not UTF-8, and of a thousand nested lists."""
