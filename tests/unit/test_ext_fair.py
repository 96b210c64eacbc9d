"""Limits per client in the relay's forwarder, and fair shares of one that can't keep up."""

from __future__ import annotations

from collections import Counter, deque

import pytest

from shadowmesh._ext.fair import WINDOW, Shares
from tests.unit.ext_harness import DEADLINE, raw_sockaddr, udp_socket
from tests.unit.test_ext_forward import Relay

QUEUE = 4000
"""Datagrams of 1400 bytes that the model's socket holds."""
READ, FORWARD = 0.1, 0.9
"""Thousandths of a window: what it takes to read a datagram, and to forward one that was read."""


def forwarded(offers: list[int], windows: int, fair: bool) -> list[float]:
    """Datagrams of each client that a model of the forwarder sent per window, in the second half.

    :param offers: datagrams that each client sends in a window.
    :param fair: whether the forwarder looks at its queue.
    """
    shares, sent = Shares(len(offers)), Counter[int]()
    queue: deque[int] = deque()
    owed = [0.0] * len(offers)
    for window in range(1, windows + 1):
        budget = 1000.0
        for step in range(1, 101):  # what comes is spread over the window
            for client, offer in enumerate(offers):
                owed[client] += offer / 100
                while owed[client] >= 1:
                    owed[client] -= 1
                    if len(queue) < QUEUE:
                        queue.append(client)
            while queue and budget > 1000 - 10 * step:
                client = queue.popleft()
                budget -= READ
                if shares.offer(client, 1400, window * WINDOW + step * WINDOW // 100) == "passes":
                    budget -= FORWARD
                    sent[client] += window > windows // 2
        if fair:
            shares.look(len(queue) > QUEUE // 2, (window + 1) * WINDOW)
    return [sent[client] / (windows - windows // 2) for client in range(len(offers))]


def test_a_flood_takes_nothing_from_who_sends_less_than_its_share() -> None:
    flood, other = forwarded([4000, 250], 600, fair=True)
    assert other > 0.9 * 250
    assert flood > 200, "what is left belongs to who wants it"
    _, starved = forwarded([4000, 250], 600, fair=False)
    assert starved < 0.4 * 250, "without shares the model shows no need of them"


def test_five_that_send_too_much_get_the_same() -> None:
    result = forwarded([2000, 500, 500, 400, 1000], 600, fair=True)
    assert max(result) < 1.15 * min(result)


def test_who_sends_little_loses_nothing_to_pauses_of_the_forwarder() -> None:
    """A busy machine lets it run one millisecond in ten; each time the queue is full."""
    shares, refused, passed = Shares(2), Counter[int](), Counter[int]()
    for window in range(1, 3001):
        if window % 10:
            continue
        for step in range(4000):
            client = int(step % 40 == 0)
            verdict = shares.offer(client, 1400, window * WINDOW + step * 250)
            (passed if verdict == "passes" else refused)[client] += 1
        shares.look(True, (window + 1) * WINDOW)
    assert refused[1] < 0.01 * passed[1]
    assert refused[0] > passed[0]


def test_one_client_by_itself_is_not_held_back() -> None:
    assert forwarded([3000], 300, fair=True) == forwarded([3000], 300, fair=False)


def test_shares_end_with_the_shortage() -> None:
    shares = Shares(2)
    for _ in range(2000):
        shares.offer(0, 1400, 0)
    shares.offer(1, 1400, 0)
    shares.look(True, WINDOW)
    assert shares.share() is not None
    for window in range(2, 100):
        for client in (0, 1):
            assert shares.offer(client, 100, window * WINDOW) == "passes"
        shares.look(False, (window + 1) * WINDOW)
    assert shares.share() is None


@pytest.mark.parametrize("silence", [WINDOW, 10**9, 5 * 3600 * 10**9, 400 * 86400 * 10**9])
def test_a_flood_after_a_silence_locks_nobody_out(silence: int) -> None:
    """The queue may be full when the thread wakes up; how long it slept must not count as time to send in."""
    shares, passed = Shares(2), Counter[int]()
    shares.offer(0, 1400, WINDOW)
    shares.look(False, 2 * WINDOW)
    for window in range(100):
        for step in range(1000):
            now = silence + 2 * WINDOW + window * WINDOW + step * WINDOW // 1000
            for client in (0, 1):
                passed[client] += shares.offer(client, 1400, now) == "passes" and window >= 50
        shares.look(window < 10, silence + 3 * WINDOW + window * WINDOW)
    assert min(passed.values()) > 0.5 * 50 * 1000


def test_packets_of_a_client_are_limited() -> None:
    shares = Shares(2, packet_rate=1000)
    passed = Counter(shares.offer(0, 100, now) for now in range(0, 10 * 10**9, 10**9 // 5000))
    assert 10_000 <= passed["passes"] <= 10_000 + 101, "a tenth of a second in advance"
    assert set(passed) == {"passes", "packet_rate"}
    assert shares.offer(1, 100, 10**10) == "passes", "the other has a bucket of its own"


def test_bytes_of_a_client_are_limited() -> None:
    shares = Shares(1, byte_rate=10_000_000)
    passed = Counter(shares.offer(0, 1000, now) for now in range(0, 10 * 10**9, 10**9 // 50_000))
    assert 100_000 <= passed["passes"] <= 101_010
    assert set(passed) == {"passes", "byte_rate"}


def test_low_rates_leave_room_for_a_burst() -> None:
    shares = Shares(1, packet_rate=10, byte_rate=10_000)
    assert [shares.offer(0, 1400, 0) for _ in range(65)] == ["passes"] * 65
    assert shares.offer(0, 1400, 0) == "packet_rate"


@pytest.mark.parametrize(
    ("limits", "reason"),
    [({"packet_rate": 100}, "client_packets"), ({"byte_rate": 10_000}, "client_bytes")],
)
def test_the_forwarder_drops_and_counts_what_is_too_much(limits: dict[str, int], reason: str) -> None:
    with Relay() as relay, udp_socket() as one, udp_socket() as two:
        two.settimeout(DEADLINE)
        for number, sock in ((1, one), (2, two)):
            relay.forwarder.add_client(number, raw_sockaddr(sock))
        relay.forwarder.install_channel(b"incoming", 1, 2, b"outgoing")
        relay.forwarder.install_channel(b"backward", 2, 1, b"outgoing")
        relay.forwarder.set_limits(**limits)
        for _ in range(300):
            one.sendto(b"\x43incoming" + bytes(1200), relay.udp.getsockname())
        two.sendto(b"\x43backward", relay.udp.getsockname())
        one.settimeout(DEADLINE)
        assert one.recv(100) == b"\x43outgoing", "a flood costs the other nothing"
        passed = relay.forwarder.client_counters(1)["rx_packets"]
        refused = relay.forwarder.client_counters(1)["refused"]
        assert (passed + refused, relay.drops()) == (300, {reason: refused})
        assert 64 <= passed <= 200
        assert relay.forwarder.client_counters(2)["refused"] == 0
        relay.forwarder.set_limits()
        for _ in range(50):
            one.sendto(b"\x43incoming", relay.udp.getsockname())
        two.sendto(b"\x43backward", relay.udp.getsockname())
        one.recv(100)
        assert relay.drops() == {reason: refused}


@pytest.mark.parametrize("limits", [{"packet_rate": 10**9 + 1}, {"byte_rate": -1}, {"byte_rate": 10**11 + 1}])
def test_rates_out_of_bounds_are_refused(limits: dict[str, int]) -> None:
    with Relay() as relay, pytest.raises(ValueError, match="rate"):
        relay.forwarder.set_limits(**limits)
