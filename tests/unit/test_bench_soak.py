"""How the soak judges: what climbs is growth, what moves up and down is not."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

from bench import soak
from bench.soak import NAMES, Outcome, Series, compare, grown, slope, unbalanced
from shadowmesh.testing.mesh import ClientNode


def series(mb: list[float], descriptors: list[float], threads: list[float] | None = None) -> Series:
    return Series([60.0 * n for n in range(len(mb))], mb, descriptors, threads or [4.0] * len(mb))


STEADY = [30.0, 31.0] * 30


def test_the_line_through_samples() -> None:
    assert slope([0.0, 1.0, 2.0], [1.0, 3.0, 5.0]) == 2.0
    assert slope([0.0, 1.0, 2.0, 3.0], [1.0, 2.0, 2.0, 1.0]) == 0.0
    assert slope([5.0], [1.0]) == 0.0


def test_memory_that_climbs_is_growth_and_the_warm_up_is_not() -> None:
    flat = [60.0] * 20 + [70.0, 70.5] * 20
    assert grown("alice", series(flat, STEADY)) == []
    climbing = [70.0 + 0.3 * n for n in range(60)]
    [found] = grown("alice", series(climbing, STEADY))
    assert found.startswith("alice: memory grows by 18.0 MB an hour")


def test_nothing_is_said_of_a_short_run() -> None:
    assert grown("alice", series([1.0 * n for n in range(40)], [1.0 * n for n in range(40)])) == []


def test_descriptors_and_threads_that_stay_are_growth() -> None:
    leaking = [30.0 + n // 6 for n in range(60)]
    [found] = grown("alice", series([70.0] * 60, leaking))
    assert "descriptors grew" in found
    [found] = grown("relay", series([70.0] * 60, STEADY, [4.0] * 45 + [5.0] * 15))
    assert "threads grew" in found


def client(sent: int, received: int, other: str) -> ClientNode:
    peer = {"name": other, "tx_frames": sent, "rx_frames": received}
    status: dict[str, Any] = {"counters": {}, "drops": {}, "peers": [peer]}
    return cast(ClientNode, SimpleNamespace(status=lambda: status))


def test_more_received_than_sent_is_told() -> None:
    assert unbalanced({"a": client(5, 7, "b"), "b": client(8, 5, "a")}) == []
    [found] = unbalanced({"a": client(5, 7, "b"), "b": client(6, 5, "a")})
    assert found == "a received 7 frames of b, who sent 6"


def calm(**changed: int) -> Outcome:
    """Each of three sends ten frames to each other one, and answers a question for an address."""
    nothing = {name: (Counter[str](), {p: (0, 0) for p in NAMES if p != name}) for name in NAMES}
    counts = Counter({"tap_rx_frames": 21, "tap_tx_frames": 21, "answered_requests": 1})
    after = {name: (counts.copy(), {p: (10, 10) for p in NAMES if p != name}) for name in NAMES}
    after["bob"][0].update(changed)
    outcome = Outcome()
    compare(nothing, after, outcome)
    return outcome


def test_sums_of_a_calm() -> None:
    assert calm().violations == []
    assert calm().compared == 60
    assert calm(tap_rx_frames=1).violations == ["bob: the interface gave 22 frames; 20 sent, 1 dropped"]
    assert calm(tap_rx_frames=1, send_failed=1).violations == []
    assert calm(tap_tx_frames=-1).violations == ["bob: 20 frames received; 19 delivered, 0 dropped"]
    assert calm(tap_tx_frames=-1, tap_full=1).violations == []


def test_all_reasons_exist() -> None:
    from shadowmesh._ext.drops import DropReason

    known = {reason.name.lower() for reason in DropReason} | {"held_too_long"}
    assert set(soak.INWARD) | set(soak.OUTWARD) <= known
