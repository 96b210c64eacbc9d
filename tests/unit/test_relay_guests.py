"""The book of invitations at a relay: what a message costs, and that the counts agree with it."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import cast

import pytest

from shadowmesh.wire.messages import Invite, Registration
from shadowmesh_relay.clients import Client
from shadowmesh_relay.guests import Guests


def client(number: int) -> Client:
    return cast("Client", SimpleNamespace(node=bytes([number]) * 32, visit=None))


def ids(first: int, count: int) -> list[bytes]:
    return [number.to_bytes(32, "big") for number in range(first, first + count)]


def test_a_message_looks_at_what_is_known_once(monkeypatch: pytest.MonkeyPatch) -> None:
    guests = Guests({})
    looks: list[float] = []
    expire = guests.expire

    def counted(now: float) -> None:
        looks.append(now)
        expire(now)

    monkeypatch.setattr(guests, "expire", counted)
    assert (
        guests.handle_invite(client(1), Invite(add=[Registration(one, 600) for one in ids(1, 64)]), 0.0)
        is None
    )
    assert looks == [0.0]


def test_what_a_client_holds_is_counted_as_it_comes_and_goes() -> None:
    guests = Guests({})
    one, two = client(1), client(2)
    guests.handle_invite(one, Invite(add=[Registration(id_, 600) for id_ in ids(1, 10)]), 0.0)
    guests.handle_invite(
        one, Invite(add=[Registration(id_, 30) for id_ in ids(5, 10)], remove=ids(1, 2)), 1.0
    )
    guests.handle_invite(
        two, Invite(add=[Registration(id_, 600) for id_ in ids(50, 3)], remove=ids(3, 1)), 1.0
    )
    assert guests._held == Counter({one.node: 12, two.node: 3})
    guests.expire(31.0)
    assert guests._held == Counter(known.host for known in guests._known.values())
    guests.forget(one)
    assert guests._held == {two.node: 3}
