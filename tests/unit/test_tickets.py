"""Relay tickets in the client's state directory, and in the relay's memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from shadowmesh.crypto.tls import PeerTicket
from shadowmesh.errors import LocalProtocolError
from shadowmesh.node import tickets as file
from shadowmesh.session import tickets as contents
from shadowmesh.session.tickets import MAX_FILE_SIZE, MAX_TICKETS, RelayTicket
from shadowmesh.units import Address
from shadowmesh_relay import tickets as relay_tickets
from shadowmesh_relay.tickets import LIFETIME, Tickets

NODE, OTHER = b"n" * 32, b"o" * 32
HERE, THERE = Address("192.0.2.1", 1), Address("192.0.2.2", 1)


def ticket(number: int = 1) -> RelayTicket:
    return RelayTicket(bytes((number,)) * 32, bytes((number + 1,)) * 32, b"secret".ljust(32), bytes(2592))


RELAYS = frozenset((ticket().relay,))


# --- the client's file ---


def test_file_gives_back_what_was_kept(tmp_path: Path) -> None:
    file.save(tmp_path, NODE, [ticket(1), ticket(2)])
    assert file.load(tmp_path, NODE, [ticket(1).relay, ticket(2).relay]) == [ticket(1), ticket(2)]
    assert file.load(tmp_path, NODE, RELAYS) == [ticket(1)], "of configured relays only"
    path = tmp_path / "tickets"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["tickets"], "no draft is left"


def test_a_new_file_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    file.save(tmp_path, NODE, [ticket(1)])
    before = (tmp_path / "tickets").stat().st_ino
    file.save(tmp_path, NODE, [])
    assert (tmp_path / "tickets").stat().st_ino != before, "written beside, then renamed"
    assert file.load(tmp_path, NODE, RELAYS) == []


def test_file_is_bounded(tmp_path: Path) -> None:
    many = [ticket(number) for number in range(MAX_TICKETS + 9)]
    file.save(tmp_path, NODE, many)
    assert (tmp_path / "tickets").stat().st_size <= MAX_FILE_SIZE
    relays = [one.relay for one in many]
    assert file.load(tmp_path, NODE, relays) == many[:MAX_TICKETS]


def test_no_file_is_nothing_to_tell(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert file.load(tmp_path, NODE, RELAYS) == []
    assert caplog.text == ""


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 0xFF
    path.write_bytes(data)


def _link(path: Path) -> None:
    target = path.rename(path.with_name("elsewhere"))
    path.symlink_to(target)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir(0o700)


SPOILT: dict[str, Callable[[Path], object]] = {
    "truncated": _truncate,
    "empty": lambda path: path.write_bytes(b""),
    "altered": _flip,
    "large": lambda path: path.write_bytes(path.read_bytes() + bytes(MAX_FILE_SIZE)),
    "nested": lambda path: path.write_bytes(b"\x91" * 10_000),
    "readable by others": lambda path: path.chmod(0o640),
    "writable by others": lambda path: path.chmod(0o602),
    "a link": _link,
    "a folder": _folder,
    "of another identity": lambda path: path.write_bytes(contents.encode(OTHER, [ticket()])),
    "of another release": lambda path: path.write_bytes(
        contents.encode(NODE, [ticket()]).replace(b"\xa7version\x01", b"\xa7version\x02")
    ),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_spoilt_file_is_ignored_with_a_line_in_the_log(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    file.save(tmp_path, NODE, [ticket()])
    SPOILT[how](tmp_path / "tickets")
    with caplog.at_level(logging.DEBUG):
        assert file.load(tmp_path, NODE, RELAYS) == []
    assert len(caplog.records) == 1
    assert "tickets is ignored" in caplog.text
    assert "secret" not in caplog.text


def test_a_file_that_cannot_be_written_is_told_and_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.save(tmp_path / "missing", NODE, [ticket()])
    assert "can't keep tickets" in caplog.text


def test_a_file_that_cannot_be_replaced_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A used ticket must not be there again after the next start."""
    file.save(tmp_path, NODE, [ticket()])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(contents, "encode", full)
    file.save(tmp_path, NODE, [])
    assert list(tmp_path.iterdir()) == []
    assert "No space left" in caplog.text


def test_tickets_show_nothing_of_themselves() -> None:
    assert "secret" not in repr(ticket()) + str(ticket()) + repr(ticket().for_tls()) + f"{[ticket()]}"


def test_tickets_of_the_wrong_size_are_damage() -> None:
    short = RelayTicket(b"r" * 32, b"n" * 32, b"s" * 31, bytes(2592))
    with pytest.raises(LocalProtocolError, match="damaged"):
        contents.decode(contents.encode(NODE, [short]), NODE, [b"r" * 32])


# --- the relay's store ---


def given(number: int) -> PeerTicket:
    return PeerTicket.of(number.to_bytes(32, "big"), bytes(32), b"")


def test_an_address_is_proved_once_by_the_host_that_got_the_ticket() -> None:
    store = Tickets()
    name = given(7).ticket
    store.give(NODE, given(7), HERE.host)
    assert not store.prove_address(name, THERE, 0.0)
    assert not store.prove_address(b"x" * 32, HERE, 0.0)
    assert store.prove_address(name, Address(HERE.host, 99), 0.0)
    assert not store.prove_address(name, HERE, 0.0)
    assert store.take(name, 0.0) is not None, "the ticket itself is not used up by that"
    assert store.take(name, 0.0) is None
    assert len(store) == 0


def test_a_ticket_follows_its_client() -> None:
    store = Tickets()
    store.give(NODE, given(7), HERE.host)
    store.move(NODE, THERE.host)
    store.move(OTHER, HERE.host)
    assert not store.prove_address(given(7).ticket, HERE, 0.0)
    assert store.prove_address(given(7).ticket, THERE, 0.0)


def test_the_time_of_a_ticket_runs_from_the_end_of_the_session() -> None:
    store = Tickets()
    for number in range(3):
        store.give(bytes((number,)) * 32, given(number), HERE.host)
        if number:
            store.leave(bytes((number,)) * 32, 1000.0)
    end = 1000.0 + LIFETIME
    assert store.prove_address(given(1).ticket, HERE, end - 0.1)
    assert not store.prove_address(given(2).ticket, HERE, end)
    assert store.take(given(2).ticket, end) is None
    store.expire(end)
    assert len(store) == 1
    assert store.take(given(0).ticket, 10 * end) is not None


def test_a_node_has_one_ticket() -> None:
    store = Tickets()
    store.give(NODE, given(1), HERE.host)
    store.give(NODE, given(2), HERE.host)
    assert len(store) == 1
    assert store.take(given(1).ticket, 0.0) is None
    assert store.take(given(2).ticket, 0.0) is not None
    store.leave(NODE, 0.0)


def test_tickets_are_bounded_and_the_oldest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_tickets, "LEAST", 3)
    store = Tickets()
    for number in range(5):
        store.give(bytes((number,)) * 32, given(number), HERE.host)
    assert len(store) == 3
    assert [store.take(given(number).ticket, 0.0) is not None for number in range(5)] == [False] * 2 + [
        True
    ] * 3
