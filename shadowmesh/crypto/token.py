"""Proof that a client holds a relay's admission token, without showing the token.

    proof (32)    HMAC-SHA256 (RFC 2104) under the token over
                  "shadowmesh token" || nonce of HELLO (32) || client's NodeID (32) || relay's NodeID (32)

HELLO leaves before the client is sure that the relay is the one it means, so the token itself must not be in
it.  The proof is of use to nobody else: HELLO is signed by the client, and its nonce is in both.  Whoever
receives it may try tokens against it at leisure, so a token has to be random.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from shadowmesh.units import NodeId

MIN_SIZE = 20
"""Characters: as base64 some 120 random bits."""
MAX_SIZE = 512
_LABEL = b"shadowmesh token"


def token_proof(token: bytes, nonce: bytes, client: NodeId, relay: NodeId) -> bytes:
    """What HELLO carries in `token`."""
    return hmac.digest(token, _LABEL + nonce + client + relay, hashlib.sha256)


def proven_token(
    tokens: Iterable[bytes], proof: bytes, nonce: bytes, client: NodeId, relay: NodeId
) -> bytes | None:
    """The one of `tokens` that `proof` was made with; takes as long whichever it is, and if none is."""
    found = None
    for token in tokens:
        if hmac.compare_digest(token_proof(token, nonce, client, relay), proof):
            found = token
    return found
