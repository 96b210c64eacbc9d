"""bench/transfer.py notices what it is there for: datagrams that are changed, repeated or overtaken."""

from __future__ import annotations

from bench.transfer import DIRECT, Datagrams, Stream, _content, _judge


def judged(*arrived: bytes) -> Datagrams:
    result = Datagrams(DIRECT, sent=10)
    seen: set[int] = set()
    newest = -1
    for datagram in arrived:
        newest = _judge(result, datagram, seen, newest)
    return result


def test_what_becomes_of_datagrams_is_noticed() -> None:
    zero, one, two = (_content(number, 500) for number in range(3))
    assert judged(zero, two).intact
    assert not judged().intact
    assert judged(zero, two, one).late == 1
    assert judged(zero, one, zero).repeated == 1
    assert judged(zero[:-1] + b"?").changed == 1
    assert judged(one[:8] + zero[8:]).changed == 1
    assert judged(_content(10, 500)).changed == 1


def test_a_stream_that_differs_is_noticed() -> None:
    assert Stream(DIRECT, "a→b", 1, 1.0, "aa", "aa").intact
    assert not Stream(DIRECT, "a→b", 1, 1.0, "aa", "ab").intact
