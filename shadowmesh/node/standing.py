"""What `status`, `why` and `netcheck` say of our membership and of the clocks; words and numbers only.

A relay's word on the time is a hint for people: no certificate is held against it.
"""

from __future__ import annotations

import datetime as dt
import math
import time
from collections.abc import Iterable, Iterator

from shadowmesh.api.schema import NetworkStatus
from shadowmesh.core.expiry import warn_before
from shadowmesh.core.node import Core
from shadowmesh.core.peers import PeerClient
from shadowmesh.core.relays import RelayClient
from shadowmesh.crypto.identity import node_id_text
from shadowmesh.errors import Failure, NotMember, told
from shadowmesh.membership.certificate import CertificateBody, date_text
from shadowmesh.membership.guard import EXPIRY_GRACE, Membership
from shadowmesh.node.subnets import not_forwarded

SKEW = 300.0
"""Seconds that the clock may differ from a relay's before `status` says so: far above what any network adds
to the reading, and what Kerberos (RFC 4120 section 1.6) takes for loosely synchronised."""


def network_status(core: Core, interface: str) -> NetworkStatus | None:
    """This node's membership; None without a network. `interface` is that of the overlay."""
    membership = core.members.membership
    if membership is None:
        return None
    body, current = membership.certificate.body, membership.revocations.current
    now = membership.clock.now()
    warnings = [one.told for one in _warnings(core, membership, interface, now)]
    return NetworkStatus(
        name=membership.network.name,
        network_id=node_id_text(membership.network.id),
        member=body.name,
        groups=body.groups,
        serial=body.serial,
        authority_key=len(membership.network.links) + 1,
        expires_in=body.not_after - now,
        revocation_list=membership.revocations.number,
        revocation_list_age=None if current is None else now - current.issued,
        clock_behind=membership.clock.behind,
        warning=warnings[0] if warnings else None,
        warnings=warnings,
        renews_for=membership.renews - now if membership.renews else None,
        renewal_error=told(core.renewals.last_error),
    )


def skew_of(relay: RelayClient) -> tuple[float | None, float | None]:
    """Seconds that this machine's clock is ahead of the relay's, and what they may be off by."""
    if relay.reading is None:
        return None, None
    return round(relay.reading.skew(time.time(), time.monotonic()), 3), round(relay.reading.error, 3)


def clock_text(relays: Iterable[RelayClient]) -> str | None:
    """How this machine's clock stands against that of the relay that is known best; None: none told."""
    known = [(relay.reading.error, relay) for relay in relays if relay.reading is not None]
    if not known:
        return None
    _, relay = min(known, key=lambda one: one[0])
    skew, error = skew_of(relay)
    assert skew is not None
    assert error is not None
    if abs(skew) <= max(error, 1.0):
        return f"this machine's clock agrees with that of relay {relay.name}"
    how = f"{_span(abs(skew))} {'ahead of' if skew > 0 else 'behind'}"
    return f"this machine's clock is {how} that of relay {relay.name} (within {error:.1f} s)"


def clock_warning(core: Core, peer: PeerClient | None = None) -> Failure | None:
    """What to tell of the clock: where it is far from the relays', or a date has kept somebody out.

    :param peer: it matters to this peer.
    """
    text = clock_text(core.relays)
    wide = any(abs(skew) > SKEW for skew, _ in map(skew_of, core.relays) if skew is not None)
    dated = any(relay.dated for relay in core.relays) or (peer is not None and peer.dated)
    if not wide and not dated and not _looks_wrong(core.members.membership):
        return None
    return Failure(
        "network.clock", f"{text or 'no relay has told its time'}; here it is {_date(time.time())}"
    )


def peer_expiry(core: Core, peer: PeerClient) -> float | None:
    """Seconds until the peer's certificate ends; below 0 the session lives on its grace."""
    standing = peer.session.standing if peer.session is not None else None
    membership = core.members.membership
    if standing is None or membership is None:
        return None
    return standing.certificate.body.not_after - membership.clock.now()


def peer_renews(core: Core, peer: PeerClient) -> bool:
    """Whether this peer renews certificates, as it says."""
    membership, standing = core.members.membership, peer.standing
    return membership is not None and standing is not None and standing.renews > membership.clock.now()


def _warnings(core: Core, membership: Membership, interface: str, now: float) -> Iterator[Failure]:
    """The worst first."""
    body, current, behind = (
        membership.certificate.body,
        membership.revocations.current,
        membership.clock.behind,
    )
    if membership.revocations.revokes(membership.certificate):
        yield Failure("network.revoked", "this machine is revoked; it needs a new identity to come back")
    if membership.credentials.delegation is not None:
        try:
            membership.credentials.delegation.refuse_revoked(membership.revocations)
        except NotMember as error:
            yield Failure("network.sign-again", f"{error}; have the certificate signed by the authority")
    yield from _of_former_key(membership)
    if behind:
        yield Failure("network.clock", f"the machine's clock is at least {behind:.0f} s behind; set it right")
    yield from _of_dates(body, now, core.renewals.last_error)
    clock = clock_warning(core)
    if clock is not None:
        yield clock
    if current is not None and now > current.valid_until:
        old = f"revocation list {current.number} is past its date; the authority should issue the next one"
        yield Failure("network.list-old", old)
    for peer in core.peers.values():
        rest = peer_expiry(core, peer)
        if rest is not None and rest < 0:
            ends = f"the session with it ends in {_span(max(0.0, rest + EXPIRY_GRACE))}"
            expired = f"the certificate of {peer.member.name} has expired; {ends}"
            yield Failure("network.peer-expired", expired)
    unready = not_forwarded(membership, interface)
    if unready:
        yield Failure("network.no-forwarding", unready)


def _of_former_key(membership: Membership) -> Iterator[Failure]:
    if not membership.network.former:
        return
    try:
        until = membership.signer_until(membership.credentials)
    except NotMember as error:
        yield Failure("network.sign-again", str(error))
        return
    if until != math.inf:
        before = f"have the certificate signed again before {date_text(int(until))}"
        yield Failure("network.sign-again", f"the authority has a new key; {before}")


def _of_dates(body: CertificateBody, now: float, problem: str | None) -> Iterator[Failure]:
    left = body.not_after - now
    why = f" ({problem})" if problem else ""
    if left < 0:
        grace = max(0.0, left + EXPIRY_GRACE)
        ends = f"; sessions that run end in {_span(grace)}" if grace else ""
        expired = f"the certificate has expired: nobody opens a session with it{ends}"
        yield Failure("network.expires", f"{expired}; have it signed again{why}")
    elif now < body.not_before:
        early = f"the certificate begins in {_span(body.not_before - now)}; is the machine's clock right?"
        yield Failure("network.clock", early)
    elif left < warn_before(body):
        soon = f"the certificate expires in {left / 86_400:.1f} days; have it signed again{why}"
        yield Failure("network.expires", soon)


def _looks_wrong(membership: Membership | None) -> bool:
    if membership is None:
        return False
    body, now = membership.certificate.body, membership.clock.now()
    return not body.not_before <= now <= body.not_after


def _span(seconds: float) -> str:
    """A duration in its largest unit: `90 s`, `26.5 h`, `12.0 days`."""
    for unit, size in (("days", 2 * 86_400.0), ("h", 7200.0), ("min", 120.0)):
        if seconds >= size:
            length = {"days": 86_400.0, "h": 3600.0, "min": 60.0}[unit]
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def _date(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
