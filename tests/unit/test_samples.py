"""The history of samples against a slow twin, and who is in it when not all fit."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from shadowmesh.api.live import WINDOW
from shadowmesh.node.samples import MAX_SAMPLED, RESTING, History, PeerReading, Reading


def peer(name: str, tx: int, rx: int = 0, rtt_ms: float | None = None) -> PeerReading:
    return PeerReading(name * 2, name, tx, rx, rtt_ms)


def reading(at: float, *peers: PeerReading, drops: int = 0) -> Reading:
    return Reading(at, drops, list(peers))


def test_the_first_reading_only_says_where_to_count_from() -> None:
    history = History()
    assert history.show(300).at == []
    assert history.add(reading(1.0, peer("bob", 500), drops=7)) is None
    empty = history.show(300)
    assert (empty.at, empty.tx_bytes, empty.drops, empty.peers) == ([], [], [], [])
    sample = history.add(reading(2.0, peer("bob", 700, 40, 1.5), drops=9))
    assert sample is not None
    assert (sample.at, sample.tx_bytes, sample.rx_bytes, sample.drops) == (2.0, 200, 40, 2)
    assert [(one.name, one.tx_bytes, one.rx_bytes, one.rtt_ms) for one in sample.peers] == [
        ("bob", 200, 40, 1.5)
    ]


def test_columns_are_as_long_as_the_times_and_newcomers_are_unknown_before() -> None:
    history = History()
    for second in range(5):
        history.add(reading(second, peer("bob", 100 * second, rtt_ms=2.0)))
    history.add(reading(5, peer("bob", 400), peer("carol", 10_000)))
    history.add(reading(6, peer("carol", 10_050)))
    shown = history.show(300)
    assert shown.at == [1, 2, 3, 4, 5, 6]
    assert shown.tx_bytes == [100, 100, 100, 100, 0, 50]
    bob, carol = shown.peers
    assert (bob.name, bob.tx_bytes) == ("bob", [100, 100, 100, 100, 0, None])
    assert bob.rtt_ms == [2.0, 2.0, 2.0, 2.0, None, None]
    assert (carol.name, carol.tx_bytes) == ("carol", [None, None, None, None, 0, 50])
    assert history.show(2).at == [5, 6]


def test_counters_that_begin_anew_count_nothing() -> None:
    history = History()
    for second, total in enumerate((0, 500, 20, 30)):
        history.add(reading(second, peer("bob", total), drops=total))
    assert history.show(300).tx_bytes == [500, 0, 10]
    assert history.show(300).drops == [500, 0, 10]


def test_the_window_is_bounded() -> None:
    history = History()
    for second in range(WINDOW + 51):
        history.add(reading(second, peer("bob", 10 * second)))
    shown = history.show(WINDOW)
    assert len(shown.at) == len(shown.peers[0].rx_bytes) == WINDOW
    assert shown.at[0] == 51
    assert len(history._at._values) == len(history._tracks["bobbob"].rtt._values) == WINDOW
    history = History()
    for second in range(WINDOW + 3):  # a peer that is gone is forgotten when nothing of it is in the window
        history.add(reading(second, *([peer("bob", 10)] if second < 2 else [])))
        assert len(history.show(1).peers) == (1 if 1 <= second < WINDOW + 1 else 0), second


def test_who_has_traffic_comes_first_when_not_all_fit() -> None:
    names = [f"peer{number}" for number in range(MAX_SAMPLED + 8)]
    totals = dict.fromkeys(names, 0)
    totals["peer70"] = 99  # of earlier
    history = History()
    clock = itertools.count()

    def second(*busy: str) -> set[str]:
        for name in busy:
            totals[name] += 10
        history.add(reading(next(clock), *(peer(name, totals[name]) for name in names)))
        return {one.name for one in history.show(300).peers}

    second()
    shown = second("peer71")
    assert len(shown) == MAX_SAMPLED
    assert {"peer71", "peer70"} <= shown
    late = next(name for name in names if name not in shown)
    for _ in range(RESTING - 2):
        assert late not in second(late, "peer71")
    assert second("peer71") == shown, "who has none does not come for that"
    assert late in second(late, "peer71"), "one that rests leaves its place"
    assert "peer71" in second()
    first, following = history.show(300).peers[:2]
    assert (first.name, following.name) == ("peer71", late), "the most traffic first"
    assert len(history.show(300).peers) == MAX_SAMPLED


@given(
    st.lists(st.dictionaries(st.sampled_from(["bob", "carol", "dave"]), st.integers(0, 10**15)), max_size=12),
    st.integers(1, 300),
)
def test_it_agrees_with_a_slow_twin(seconds: list[dict[str, int]], latest: int) -> None:
    history = History()
    totals: dict[str, int] = {}
    readings = []
    for at, grown in enumerate(seconds):
        for name, more in grown.items():
            totals[name] = totals.get(name, 0) + more
        readings.append(dict(totals))
        history.add(reading(at, *(peer(name, total) for name, total in totals.items())))
    shown = history.show(latest)
    pairs = list(itertools.pairwise(readings))[-latest:]
    assert shown.tx_bytes == [
        sum(after[name] - before.get(name, after[name]) for name in after) for before, after in pairs
    ]
    for one in shown.peers:
        known = [after[one.name] - before[one.name] for before, after in pairs if one.name in before]
        assert one.tx_bytes[len(pairs) - len(known) :] == known
        assert sum(filter(None, one.tx_bytes)) == sum(known)
