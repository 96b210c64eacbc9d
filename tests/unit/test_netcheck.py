"""`netcheck` for people: every verdict has its words, every exit code its reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from shadowmesh.api.client import ApiClient, NotRunning
from shadowmesh.api.schema import Netcheck
from shadowmesh.cli import netcheck as verb
from shadowmesh.cli.main import main
from shadowmesh.command import CommandFailed, ExitCode
from shadowmesh.config import ClientConfig, load_client_config
from shadowmesh.crypto import identity as identities
from shadowmesh.io.udp import open_udp, receive, send
from shadowmesh.node import alone
from shadowmesh.node.lifecycle import only_one
from shadowmesh.path.nat import Filtering, Mapping
from shadowmesh.units import Address
from tests.unit.test_api import make_netcheck

replace = msgspec.structs.replace
CONFIGS = Path(__file__).parents[2] / "configs"


def text(found: Netcheck) -> str:
    return "\n".join(verb.render(found))


def with_nat(**changes: object) -> Netcheck:
    found = make_netcheck()
    return replace(found, nat=replace(found.nat, **changes))


def answer(found: Netcheck) -> Callable[[ApiClient], Netcheck]:
    return lambda _client: found


def refuse(_client: ApiClient) -> Netcheck:
    raise NotRunning("no client runs here")


def test_every_verdict_has_its_words() -> None:
    assert set(verb._MAPPINGS) == {mapping.value for mapping in Mapping}
    assert set(verb._FILTERINGS) == {filtering.value for filtering in Filtering}
    for mapping in Mapping:
        assert verb._MAPPINGS[mapping.value] in text(with_nat(mapping=mapping.value))


def test_the_findings_of_a_home() -> None:
    shown = text(make_netcheck())
    assert "NAT mapping      endpoint-independent: one outside port for everybody" in shown
    assert "router, pcp      maps 203.0.113.9:40001" in shown
    assert "IPv6             no route" in shown
    assert "datagrams        1200 bytes pass" in shown
    assert "  192.0.2.1:4433: its second port does not answer: a firewall there, or on the way" in shown
    assert "  relay.example.net:1: no name" in shown


@pytest.mark.parametrize(
    ("found", "outlook"),
    [
        (make_netcheck(), "likely with everybody: the router maps a port"),
        (with_nat(mapped=None), "likely, but with peers behind a symmetric NAT only"),
        (with_nat(mapped=None, mapping="no NAT"), "likely with everybody"),
        (with_nat(mapped=None, mapping="address-and-port-dependent"), "a port mapping would help"),
        (with_nat(mapped=None, mapping="unknown"), "direct paths     not known"),
        (replace(make_netcheck(), udp="blocked"), "none as long as UDP does not work"),
    ],
)
def test_what_it_means_for_direct_paths(found: Netcheck, outlook: str) -> None:
    assert outlook in text(found)


@pytest.mark.parametrize(("udp", "code"), [("works", 0), ("blocked", 8), ("no network", 8)])
def test_exit_code_tells_whether_a_relay_answered(
    udp: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = replace(make_netcheck(), udp=udp)
    monkeypatch.setattr(ApiClient, "netcheck", answer(found))
    assert main(["netcheck", "--json"]) == code
    assert msgspec.json.decode(capsys.readouterr().out, type=Netcheck) == found


def test_without_a_client_it_needs_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ApiClient, "netcheck", refuse)
    assert main(["netcheck"]) == ExitCode.NOT_RUNNING
    assert capsys.readouterr().err.endswith("client.yaml`, or name its file with -c [client.not-running]\n")
    asked: list[ClientConfig] = []

    def ask_alone(config: ClientConfig) -> Netcheck:
        asked.append(config)
        return make_netcheck()

    monkeypatch.setattr(alone, "netcheck_alone", ask_alone)
    assert main(["netcheck", "-c", str(CONFIGS / "client.yaml")]) == 0
    assert asked[0].node.name == "alice"


def test_no_file_of_a_running_client_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identities.create(tmp_path, "alice")
    config = load_client_config(CONFIGS / "client.yaml")
    config = replace(config, node=replace(config.node, state_dir=tmp_path))
    opened: list[object] = []
    monkeypatch.setattr(alone, "open_membership", lambda *_: opened.append(_))
    with only_one(tmp_path), pytest.raises(CommandFailed) as caught:
        alone.netcheck_alone(config)
    assert (caught.value.code, opened) == (ExitCode.ALREADY_RUNNING, [])


@pytest.mark.parametrize("host", ["::", "127.0.0.1"])
def test_received_addresses_have_their_plain_form(host: str) -> None:
    with open_udp(host, 0) as one, open_udp("127.0.0.1", 0) as other:
        assert receive(one) is None
        assert send(other, b"hello", Address("127.0.0.1", one.getsockname()[1]))
        assert receive(one) == (b"hello", Address("127.0.0.1", other.getsockname()[1]))


def test_relays_that_answer_over_tcp_only() -> None:
    found = make_netcheck()
    relays = [replace(found.relays[0], transport="tcp", observed_address=None), *found.relays[1:]]
    shown = text(replace(found, udp="blocked", tcp="works", relays=relays))
    assert "blocked: relays answer over TCP only" in shown
    assert "a relay is reached by a WebSocket" in shown
    assert "connected over TCP" in shown


def test_over_tcp_counts_as_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    found = make_netcheck()
    relays = [replace(found.relays[0], transport="tcp")]
    monkeypatch.setattr(ApiClient, "netcheck", answer(replace(found, udp="blocked", relays=relays)))
    assert main(["netcheck", "--json"]) == 0


def test_neither_udp_nor_tcp() -> None:
    shown = text(replace(make_netcheck(), udp="blocked", tcp="fails"))
    assert "no relay is reached by a WebSocket either" in shown
