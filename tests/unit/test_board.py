"""What `top` computes: rates, sparklines, order, and what it does with events of peers that come and go."""

from __future__ import annotations

import msgspec
import pytest

from shadowmesh.api.live import LogLine, PeerSample, PeerSamples, Sample, Samples
from shadowmesh.api.schema import PeerStatus
from shadowmesh.cli.board import LOG_KEPT, SPAN, Board, Order, bit_rate, sparkline
from tests.unit.test_api import make_status


def sample(at: float, **peers: int) -> Sample:
    told = [
        PeerSample(node_id=name[0] * 52, name=name, tx_bytes=sent, rx_bytes=0) for name, sent in peers.items()
    ]
    return Sample(at=at, tx_bytes=sum(peers.values()), rx_bytes=0, drops=1, peers=told)


def with_peers(*peers: PeerStatus) -> Board:
    board = Board()
    board.take(msgspec.structs.replace(make_status(), peers=list(peers)))
    return board


def peer(name: str, state: str = "connected", rtt_ms: float | None = None) -> PeerStatus:
    return PeerStatus(name=name, node_id=name[0] * 52, addresses=[], state=state, rtt_ms=rtt_ms)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bytes_a_second", "text"),
    [
        (0, "0"),
        (0.05, "0"),
        (1, "8 bit/s"),
        (124.9, "999 bit/s"),
        (125, "1.00 kbit/s"),
        (12_499, "100 kbit/s"),
        (124_999, "1.00 Mbit/s"),
        (1_562_500, "12.5 Mbit/s"),
        (1.25e9, "10.0 Gbit/s"),
        (1e20, "800000000 Tbit/s"),
    ],
)
def test_rates_have_three_digits(bytes_a_second: float, text: str) -> None:
    assert bit_rate(bytes_a_second) == text


def test_sparklines() -> None:
    assert sparkline([], 4) == "    "
    assert sparkline([0, 0], 4) == "  ··"
    assert sparkline([9, 0, 0.9, 1, 8], 4) == "·▁▂█"
    assert sparkline(range(1, 9), 8) == "▂▃▄▅▆▇██"


def test_a_rate_is_the_mean_of_the_latest_seconds_and_what_is_not_told_is_nothing() -> None:
    board = with_peers(peer("bob"), peer("carol"))
    for second in range(SPAN + 5):
        board.take(sample(second, bob=300))
    board.take(sample(99, carol=90))
    bob, carol = board.rows("traffic")
    assert (bob.peer.name, bob.pulse.tx_rate, carol.pulse.tx_rate) == ("bob", 200.0, 90.0)
    assert len(bob.pulse.tx) == len(board.node.tx) == SPAN
    assert bob.pulse.both[-1] == 0
    assert list(board.drops_per_second)[-1] == 1


def test_the_history_of_before_comes_first_and_comes_anew_after_a_break() -> None:
    board = with_peers(peer("bob"))
    board.take(sample(1, bob=7))
    column = PeerSamples(
        node_id="b" * 52, name="bob", tx_bytes=[None, 5], rx_bytes=[None, 6], rtt_ms=[None, 1.5]
    )
    board.begin(Samples(at=[1, 2], tx_bytes=[9, 5], rx_bytes=[0, 6], drops=[3, 0], peers=[column]))
    (row,) = board.rows("name")
    assert (list(row.pulse.tx), list(row.pulse.rx), row.rtt_ms) == ([0, 5], [0, 6], 1.5)
    assert (list(board.node.tx), list(board.drops_per_second)) == ([9, 5], [3, 0])
    many = list(range(200))
    column = msgspec.structs.replace(column, tx_bytes=many, rx_bytes=many, rtt_ms=many)
    board.begin(Samples(at=many, tx_bytes=many, rx_bytes=many, drops=many, peers=[column]))  # type: ignore[arg-type]
    assert list(board.node.tx) == list(board.rows("name")[0].pulse.rx) == many[-SPAN:]


@pytest.mark.parametrize(
    ("order", "reverse", "names"),
    [
        ("traffic", False, ["carol", "bob", "dave", "eve"]),
        ("sent", False, ["carol", "bob", "dave", "eve"]),
        ("received", False, ["bob", "carol", "dave", "eve"]),
        ("rtt", False, ["carol", "bob", "dave", "eve"]),
        ("name", False, ["bob", "carol", "dave", "eve"]),
        ("name", True, ["eve", "dave", "carol", "bob"]),
        ("state", False, ["bob", "carol", "dave", "eve"]),
    ],
)
def test_the_order_of_peers(order: Order, reverse: bool, names: list[str]) -> None:
    board = with_peers(
        peer("eve", "absent", 0.1),
        peer("dave", "connecting"),
        peer("carol", rtt_ms=1.0),
        peer("bob", rtt_ms=2.0),
    )
    board.take(sample(1, bob=10, carol=20))
    assert [row.peer.name for row in board.rows(order, reverse)] == names
    assert next(row for row in board.rows("name") if row.peer.name == "eve").rtt_ms is None


def test_drops_have_a_rate_from_the_second_status_on() -> None:
    board = with_peers()
    assert [(drop.reason, drop.count, drop.rate) for drop in board.drops()] == [("replayed", 3, None)]
    status = make_status()
    node = msgspec.structs.replace(status.node, uptime=status.node.uptime + 10)
    board.take(msgspec.structs.replace(status, node=node, drops={"replayed": 3, "new": 40, "old": 0}))
    assert [(drop.reason, drop.rate) for drop in board.drops()] == [("new", 4.0), ("replayed", 0.0)]


def test_the_home_relay_is_first_and_the_log_is_bounded() -> None:
    board = Board()
    assert (board.rows("name"), board.relays(), board.drops()) == ([], [], [])
    status = make_status()
    board.take(msgspec.structs.replace(status, relays=status.relays[::-1]))
    assert [relay.home for relay in board.relays()] == [True, False]
    for number in range(LOG_KEPT + 1):
        board.take(LogLine(number=number, at=0.0, level="info", text=""))
    assert [board.log[0].number, len(board.log)] == [1, LOG_KEPT]
