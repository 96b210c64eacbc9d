"""`peers`: the table, its filters, and all about one."""

from __future__ import annotations

import json

import msgspec
import pytest

from shadowmesh.api.client import ApiClient
from shadowmesh.api.schema import PeerStatus, Status
from shadowmesh.cli.main import main as client
from shadowmesh.command import ExitCode
from shadowmesh.spelling import did_you_mean
from tests.unit.test_api import make_status

replace = msgspec.structs.replace


def status() -> Status:
    """bob by a relay, dora directly, carol not at all."""
    made = make_status()
    bob, carol = made.peers
    direct = replace(bob.paths[1], state="usable", in_use=True, loss=0.0)
    relay = replace(bob.paths[0], in_use=False)
    dora = replace(
        bob,
        name="dora",
        node_id="d" * 52,
        addresses=["10.77.0.4"],
        path=direct.path,
        paths=[relay, direct],
        groups=["admin", "home"],
        epoch_age=61.0,
        expires_in=86_400.0,
        renews=True,
        bridge=True,
        stations=3,
        refused={"source_mac": 2},
    )
    carol = replace(carol, last_error="no relay knows\x07 of it")
    return replace(made, peers=[bob, carol, dora])


@pytest.fixture(autouse=True)
def running(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ApiClient, "status_json", lambda _: msgspec.json.encode(status()))


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert client(["peers", *arguments]) == ExitCode.OK
    return capsys.readouterr().out


def names(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    return [peer["name"] for peer in json.loads(printed(capsys, *arguments, "--json"))["peers"]]


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys) == (
        "PEER   STATE      PATH                         RTT  LOSS      SENT  RECEIVED   HANDSHAKE\n"
        "bob    connected  relay 192.0.2.1:4433      1.9 ms    4%  1.50 KiB      10 B  1 min 15 s\n"
        "carol  absent     -                              -     -       0 B       0 B           -\n"
        "dora   connected  direct 198.51.100.7:5000  1.9 ms    0%  1.50 KiB      10 B  1 min 15 s\n"
        "  carol: no relay knows? of it\n"
    )


def test_the_filters(capsys: pytest.CaptureFixture[str]) -> None:
    assert names(capsys) == ["bob", "carol", "dora"]
    assert names(capsys, "--connected") == ["bob", "dora"]
    assert names(capsys, "--direct") == ["dora"]
    assert names(capsys, "--relayed") == ["bob"]
    assert names(capsys, "--connected", "--relayed") == ["bob"]


@pytest.mark.parametrize("label", ["dora", "10.77.0.4", "d" * 10, "D" * 52])
def test_one_peer_by_any_name(label: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert names(capsys, label) == ["dora"]


def test_all_about_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "dora").splitlines() == [
        "peer         dora",
        "NodeID       " + "d" * 52,
        "addresses    10.77.0.4",
        "groups       admin home",
        "state        connected",
        "path         direct 198.51.100.7:5000 (it is the first that works)",
        "round trip   1.9 ms",
        "sent         1.50 KiB in 2 frames",
        "received     10 B in 1 frames",
        "handshake    1 min 15 s ago",
        "keys         ChaCha20-Poly1305, X25519+ML-KEM-1024, epoch 0, 1 min 1 s old",
        "certificate  for 1 d 0 h",
        "renews       certificates of others",
        "bridge       3 stations behind it",
        "refused      source_mac 2",
        "",
        "PATH                      STATE      RTT  JITTER  LOSS  BUDGET  DETAIL",
        "relay 192.0.2.1:4433      usable  1.9 ms  0.2 ms    4%    1452  -",
        "direct 198.51.100.7:5000  in use       -       -    0%       -  no answer",
    ]
    assert printed(capsys, "carol").splitlines()[-3:] == [
        "state      absent, no relay knows? of it",
        "sent       0 B in 0 frames",
        "received   0 B in 0 frames",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["bbo"], ExitCode.NO_PEER, "there is no peer 'bbo'; did you mean bob?"),
        (["dddd"], ExitCode.NO_PEER, "there is no peer 'dddd'; `shadowmesh-client peers` shows all"),
        (["bob", "--direct"], ExitCode.USAGE, "PEER is one already"),
        (["--direct", "--relayed"], ExitCode.USAGE, "for both: --connected"),
    ],
)
def test_what_can_not_be_shown(
    arguments: list[str], code: ExitCode, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert client(["peers", *arguments]) == code
    assert text in capsys.readouterr().err


def test_nobody_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    alone = msgspec.json.encode(replace(status(), peers=[]))
    monkeypatch.setattr(ApiClient, "status_json", lambda _: alone)
    assert printed(capsys) == "No such peers.\n"
    assert names(capsys) == []


def test_an_ambiguous_beginning_names_nobody(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    twins = [PeerStatus(name=name, node_id="e" * 51 + name, addresses=[], state="absent") for name in "aq"]
    data = msgspec.json.encode(replace(status(), peers=twins))
    monkeypatch.setattr(ApiClient, "status_json", lambda _: data)
    assert client(["peers", "e" * 51]) == ExitCode.NO_PEER
    assert printed(capsys, "e" * 51 + "q").startswith("peer      q\n")


@pytest.mark.parametrize(
    ("word", "text"), [("bbo", "did you mean bob?"), ("BOB", "did you mean bob?"), ("zzz", "none")]
)
def test_spelling(word: str, text: str) -> None:
    assert did_you_mean(word, ["alice", "", "bob"], "none") == text
