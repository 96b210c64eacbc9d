"""Direct paths to one peer: whose addresses are asked, and which of them are proved.

    candidates of the peer  |
    packets from elsewhere  |->  rounds of REQUEST  ->  the address echoed a challenge  ->  a full-size probe
    guessed ports           |

Sans-I/O, as `paths.py`, whose part it is.  Neither measures a path nor chooses one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from shadowmesh.path.candidates import Candidate, CandidateKind, is_private
from shadowmesh.path.handshake import Handshake, Proved
from shadowmesh.path.path import Path, PathState
from shadowmesh.path.rounds import Rounds, guesses
from shadowmesh.path.way import Way
from shadowmesh.wire.messages import MAX_CANDIDATES
from shadowmesh.wire.payload import Kind

MAX_STRANGERS = 4
"""Addresses that authentic packets came from though nobody named them; the oldest that works least goes."""
STRANGER_GAP = 1.0
"""Seconds between REQUESTs to a failed address from which something authentic comes."""
MOVING_NAT = "mapping address-"
"""How a NAT that maps each destination anew is described in `nat` (RFC 4787 section 4.1)."""

NewPath = Callable[[Way, CandidateKind | None, str, float], Path]


class Finder:
    """The direct paths of one peer.

    :param random: returns n random bytes.
    :param new_path: (way, kind, name, now) -> a path.
    :param strangers: whether addresses become candidates only because the peer's packets came from there.
    """

    def __init__(self, random: Callable[[int], bytes], new_path: NewPath, strangers: bool) -> None:
        self.found: dict[Way, Path] = {}
        self.rounds = Rounds(random)
        self.peer_nat = ""
        self.own_nat = ""
        self.own_hosts: frozenset[str] = frozenset()
        """Addresses of our own interfaces, textual."""
        self._new_path = new_path
        self._strangers = strangers
        self._listed: list[Candidate] = []
        self._handshake = Handshake(random)
        self._outbox: list[tuple[bytes, Way]] = []

    @property
    def works(self) -> bool:
        """Whether frames could go directly."""
        return any(path.usable for path in self.found.values())

    def clear(self) -> None:
        """The session is gone: what was proved no longer counts."""
        self.rounds.stop()
        self.rounds.refresh()
        self.found.clear()
        self._listed = [one for one in self._listed if one.kind is CandidateKind.STATIC]
        self._outbox.clear()

    # Addresses.

    def set_candidates(self, listed: Iterable[Candidate]) -> None:
        """All usable addresses of the peer that we know of; `follow` acts on them."""
        self._listed = list(listed)[:MAX_CANDIDATES]

    def follow(self, current: Path | None, now: float) -> None:
        """Make the paths agree with the candidates; those that work are kept in any case."""
        wanted = {Way(one.address): one.kind for one in self._listed}
        for way, path in list(self.found.items()):
            if way in wanted:
                path.kind = wanted[way]
            elif path.state in (PathState.USABLE, PathState.CHECKING):
                path.kind = CandidateKind.PEER
                path.hurry(now)  # the peer may have left it
            else:
                del self.found[way]
        for way, kind in wanted.items():
            if way not in self.found:
                self._add(way, kind, now)
                self.request(way, now)
        self._limit_strangers(current)

    def handle_source(self, way: Way, current: Path | None, now: float) -> None:
        """Something authentic came directly on this way: a reason to ask there, if it is no path yet."""
        path = self.found.get(way)
        if path is None:
            if self._strangers:
                self._adopt(way, current, now)
                self.request(way, now)
        elif path.state is PathState.TRYING or (
            path.state is PathState.FAILED and now - path.asked_at >= STRANGER_GAP
        ):
            self.request(way, now)

    def handle_handshake_untrusted(
        self, kind: int, payload: bytes, way: Way, current: Path | None, now: float
    ) -> None:
        """REQUEST, RESPONSE or COMPLETE. Raises BadPacket."""
        if kind == Kind.PATH_REQUEST:
            response = self._handshake.handle_request_untrusted(payload, way, now)
            if response is not None:
                self._outbox.append((response, way))
            return
        if kind == Kind.PATH_RESPONSE:
            proved = self._handshake.handle_response_untrusted(payload, way, now)
        else:
            proved = self._handshake.handle_complete_untrusted(payload, way, now)
        if proved.answer is not None:
            self._outbox.append((proved.answer, way))
        self._handle_proved(proved, current, now)

    # Rounds.

    def ask(self, now: float) -> bool:
        """Send the volley that is due; returns whether it was the last of its round."""
        if not self.rounds.volley(now):
            return False
        for path in list(self.found.values()):
            if path.state in (PathState.TRYING, PathState.FAILED) and not path.unproved_stranger:
                path.state = PathState.TRYING
                self.request(path.way, now)
        if MOVING_NAT in self.peer_nat and MOVING_NAT not in self.own_nat and self.rounds.guessing:
            observed = [one.address for one in self._listed if one.kind is CandidateKind.OBSERVED]
            for address in guesses(observed, self.rounds.volleys):
                self.request(Way(address), now)
        return not self.rounds.running

    def give_up(self) -> None:
        """The round is over: what has not answered has failed."""
        for path in self.found.values():
            if path.state is PathState.TRYING:
                path.fail(path.detail or "no answer")

    def request(self, way: Way, now: float) -> None:
        """Ask one address, unless it was asked just now."""
        request = self._handshake.create_request(way, now)
        if request is None:
            return
        self._outbox.append((request, way))
        path = self.found.get(way)
        if path is not None:
            path.asked_at = now

    def poll_transmit(self) -> list[tuple[bytes, Way]]:
        """Payloads to seal in lane 0 and send, each on its way."""
        outbox, self._outbox = self._outbox, []
        return outbox

    # Inside.

    def _handle_proved(self, proved: Proved, current: Path | None, now: float) -> None:
        path = self.found.get(proved.way)
        if path is None and not self._strangers:
            return
        if path is None:
            path = self._adopt(proved.way, current, now)
        path.handle_proved(proved.rtt, proved.observed, now)
        path.untranslated = is_private(path.way.address.host) and proved.observed.host in self.own_hosts
        self._outbox += [(payload, path.way) for payload in path.poll(now)]

    def _adopt(self, way: Way, current: Path | None, now: float) -> Path:
        """An address that nobody named has become a candidate."""
        path = self._add(way, CandidateKind.PEER, now)
        self._limit_strangers(current)
        return path

    def _add(self, way: Way, kind: CandidateKind, now: float) -> Path:
        path = self.found[way] = self._new_path(way, kind, f"direct {way.address}", now)
        return path

    def _limit_strangers(self, current: Path | None) -> None:
        strangers = [one for one in self.found.values() if one.kind is CandidateKind.PEER]
        ranked = sorted(strangers, key=lambda one: (one is current, one.usable, one.heard_at))
        for path in ranked[: max(0, len(strangers) - MAX_STRANGERS)]:
            del self.found[path.way]
