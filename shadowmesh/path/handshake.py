"""The re-handshake that makes an address trustworthy: REQUEST, RESPONSE, COMPLETE.

    REQUEST   challenge a                  ->        35 bytes of payload, 64 on the wire
                                           <-        RESPONSE  echo a, challenge b, where REQUEST came from
    COMPLETE  echo b, where RESPONSE came from  ->

All three are sealed in lane 0 of the session, which binds them to it and makes each count once.  A
challenge is bound to the way that it was sent on: only its echo from there proves that way.  No clock
goes over the wire.  Nobody answers with more bytes than he received, and REQUEST and RESPONSE to one
address are limited, so that a peer can't use us against a third party.

Takes and gives payloads; sealing and sending is the caller's.  Decides nothing about paths.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from shadowmesh.errors import BadPacket
from shadowmesh.path.way import Way
from shadowmesh.units import Address
from shadowmesh.wire.payload import (
    NONCE_SIZE,
    encode_path_complete,
    encode_path_request,
    encode_path_response,
    parse_path_complete,
    parse_path_request,
    parse_path_response,
)

MIN_GAP = 0.2
"""Seconds between two REQUESTs, and between two RESPONSEs, to one address: 5/s."""
CHALLENGE_LIFE = 5.0
"""Seconds for which an echo counts; longer than any round trip that is of use."""
MAX_CHALLENGES = 256
"""Challenges that wait for their echo; the oldest is forgotten. 16 candidates at 5/s fill it in 3 s."""
MAX_ADDRESSES = 64
"""Addresses whose last packet is remembered for the rate; candidates, guessed ports and strangers."""


class Proved(NamedTuple):
    """An address has echoed our challenge: it may get packets of full size."""

    way: Way
    rtt: float
    observed: Address
    """Where the peer sees us on this way."""
    answer: bytes | None
    """COMPLETE, to be sent on `way`."""


class _Rate:
    """When each address was last sent to; bounded, so whoever floods is refused and not remembered."""

    def __init__(self) -> None:
        self._last: OrderedDict[Way, float] = OrderedDict()

    def take(self, way: Way, now: float) -> bool:
        """Whether a packet may go there now; counts it if so."""
        last = self._last.get(way)
        if last is not None and now - last < MIN_GAP - 1e-6:
            return False
        if last is None and len(self._last) >= MAX_ADDRESSES:
            oldest = next(iter(self._last))
            if now - self._last[oldest] < MIN_GAP:
                return False
            del self._last[oldest]
        self._last[way] = now
        self._last.move_to_end(way)
        return True


class Handshake:
    """All re-handshakes with one peer.

    :param random: returns n random bytes.
    """

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self._waiting: OrderedDict[bytes, tuple[Way, float]] = OrderedDict()
        self._requests = _Rate()
        self._responses = _Rate()

    def create_request(self, way: Way, now: float) -> bytes | None:
        """A REQUEST to send on `way`; None if that had one less than `MIN_GAP` ago."""
        if not self._requests.take(way, now):
            return None
        return encode_path_request(self._challenge(way, now))

    def handle_request_untrusted(self, payload: bytes, way: Way, now: float) -> bytes | None:
        """The RESPONSE to send back on `way`; None if it came too soon after another. Raises BadPacket."""
        echo = parse_path_request(payload)
        if not self._responses.take(way, now):
            return None
        return encode_path_response(echo, self._challenge(way, now), way.address)

    def handle_response_untrusted(self, payload: bytes, way: Way, now: float) -> Proved:
        """The proof that a RESPONSE is. Raises BadPacket("malformed" | "wrong_echo")."""
        response = parse_path_response(payload)
        rtt = self._redeem(response.echo, way, now)
        return Proved(way, rtt, response.observed, encode_path_complete(response.challenge, way.address))

    def handle_complete_untrusted(self, payload: bytes, way: Way, now: float) -> Proved:
        """The proof that a COMPLETE is. Raises BadPacket("malformed" | "wrong_echo")."""
        complete = parse_path_complete(payload)
        return Proved(way, self._redeem(complete.echo, way, now), complete.observed, None)

    def _challenge(self, way: Way, now: float) -> bytes:
        while self._waiting:
            oldest = next(iter(self._waiting))
            if len(self._waiting) < MAX_CHALLENGES and now - self._waiting[oldest][1] < CHALLENGE_LIFE:
                break
            del self._waiting[oldest]
        challenge = self._random(NONCE_SIZE)
        self._waiting[challenge] = (way, now)
        return challenge

    def _redeem(self, echo: bytes, way: Way, now: float) -> float:
        """The seconds since this challenge went out on this way; each counts once."""
        sent_on, sent_at = self._waiting.get(echo, (None, 0.0))
        if sent_on != way or now - sent_at > CHALLENGE_LIFE:
            raise BadPacket("wrong_echo")
        del self._waiting[echo]
        return now - sent_at
