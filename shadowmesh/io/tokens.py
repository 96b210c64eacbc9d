"""Admission tokens in files: one a line, of printable ASCII; blank lines and comments (#) don't count.

A relay takes every token of its file, so that one can be replaced without a gap; a client shows the first.
"""

from __future__ import annotations

from pathlib import Path

from shadowmesh.crypto.identity import check_private
from shadowmesh.crypto.token import MAX_SIZE, MIN_SIZE
from shadowmesh.errors import ConfigError, IdentityError

MAX_TOKENS = 64
"""Each is tried against each proof."""


def load_tokens(path: Path) -> tuple[bytes, ...]:
    """The tokens in a file, one at least. Raises ConfigError; a file that everybody may read is refused."""
    try:
        check_private(path, 0o007, "read by everybody, so its tokens may be known", "640")
        text = path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "has more in it than ASCII"
        raise ConfigError(f"{path}: {why}", "config.unreadable") from None
    except IdentityError as error:
        raise ConfigError(str(error), error.error_id) from None
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    tokens = [(number, line) for number, line in lines if line and not line.startswith("#")]
    for number, token in tokens:
        if not MIN_SIZE <= len(token) <= MAX_SIZE or not token.isprintable():
            raise ConfigError(
                f"{path}:{number}: a token has {MIN_SIZE} to {MAX_SIZE} printable characters, this has "
                f"{len(token)}; make one: openssl rand -base64 32",
                "config.token-file",
            )
    if not 1 <= len(tokens) <= MAX_TOKENS:
        text = f"{path}: has {len(tokens)} tokens; 1 to {MAX_TOKENS} would be right"
        raise ConfigError(text, "config.token-file")
    return tuple(token.encode() for _, token in tokens)
