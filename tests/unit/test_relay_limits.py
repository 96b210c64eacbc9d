"""The limits of a relay: the door by itself, on a clock of the test's."""

from __future__ import annotations

import pytest

from shadowmesh.errors import BadPacket
from shadowmesh_relay import limits
from shadowmesh_relay.limits import Bucket, Door, Limits, prefix_of


def entered(door: Door, host: str, times: int, now: float, ticket: bool = False) -> int:
    """How many of so many handshakes at once may begin."""
    count = 0
    for _ in range(times):
        try:
            door.enter_untrusted(host, ticket, now)
        except BadPacket:
            continue
        count += 1
    return count


@pytest.mark.parametrize(
    ("host", "prefix"),
    [
        ("192.0.2.77", "192.0.2.0"),
        ("2001:db8:1:2:3::4", "2001:db8:1::"),
        ("fe80::1%eth0", "fe80::"),
    ],
)
def test_networks_are_counted_not_addresses(host: str, prefix: str) -> None:
    assert prefix_of(host) == prefix


def test_handshakes_of_a_network_are_limited() -> None:
    door = Door(Limits(handshakes_per_second=5))
    assert entered(door, "192.0.2.1", 1000, 0.0) == limits.HANDSHAKE_BURST
    with pytest.raises(BadPacket, match="handshake_rate"):
        door.enter_untrusted("192.0.2.200", False, 0.0)
    assert entered(door, "192.0.3.1", 10, 0.0) == 10, "its neighbour is another network"
    assert entered(door, "192.0.2.9", 1000, 10.0) == 50
    assert entered(door, "2001:db8::1", 1000, 0.0) == limits.HANDSHAKE_BURST
    assert entered(door, "2001:db8:0:ffff::1", 10, 0.0) == 0
    assert entered(door, "2001:db8:1::1", 10, 0.0) == 10


def test_who_was_refused_waits_and_locks_no_member_out() -> None:
    door = Door(Limits(refusals_per_minute=60))
    for _ in range(10 * limits.REFUSAL_BURST):
        door.refuse("192.0.2.1", 0.0)
    with pytest.raises(BadPacket, match="refused_before"):
        door.enter_untrusted("192.0.2.2", False, 0.0)
    assert entered(door, "192.0.2.2", 5, 0.0, ticket=True) == 5
    assert entered(door, "198.51.100.2", 5, 0.0) == 5
    assert entered(door, "192.0.2.2", 1, 3.0) == 1, "however many were refused, it does not wait for ever"


def test_memory_is_bounded_and_free_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_PREFIXES", 100)
    bucket = Bucket(rate=1, burst=10)
    for number in range(500):
        if not bucket.empty(str(number), 0.0):
            bucket.take(str(number), 0.0)
        bucket.take(f"other {number}", 0.0)
    assert len(bucket) == 100
    assert bucket.empty("somebody new", 0.5), "unknown ones wait while it is full"
    assert not bucket.empty("0", 0.5), "known ones don't"
    assert not bucket.empty("somebody new", 3.0)
    assert len(bucket) == 0
