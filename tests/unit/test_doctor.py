"""`doctor` as a person meets it, its page in docs, and rules of nftables as it understands them."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import msgspec
import pytest

from shadowmesh.api.schema import (
    PeerStatus,
)
from shadowmesh.cli import doctor as verb
from shadowmesh.cli.main import main
from shadowmesh.cli.options import SOCKET_VARIABLE
from shadowmesh.command import ExitCode
from shadowmesh.config import ClientConfig
from shadowmesh.core import expiry
from shadowmesh.core.failure import IDS
from shadowmesh.diagnosis import machine, membership, relays
from shadowmesh.diagnosis.bundle import Bugreport, Listed
from shadowmesh.diagnosis.doctor import CHECKS
from shadowmesh.diagnosis.facts import (
    Facts,
    HostFirewall,
)
from shadowmesh.diagnosis.findings import DOCTOR_SCHEMA, Doctor, Finding
from shadowmesh.diagnosis.nftables import dropping
from shadowmesh.io import udp
from shadowmesh.node import standing
from shadowmesh.session.link import CloseCode
from tests.unit.doctor_facts import (
    ACCEPT,
    ALL_UDP,
    CONFIG,
    DROP,
    FROM_ETH0,
    NOTE,
    PROBLEM,
    REPLIES,
    ROOT,
    SKIPPED,
    healthy,
    kernel_with,
    net_with,
    relay_with,
    replace,
    rule,
    rules,
    running,
    udp_port,
)


def test_docs_know_every_check_and_what_it_may_say() -> None:
    text = (ROOT / "docs/doctor.md").read_text()
    rows = re.findall(r"^\| `([a-z0-9_.]+)` \| ([a-z, ]+) \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    told = {name: set(results.split(", ")) for name, results, _, _ in rows}
    # Every check that can't be looked at is skipped: that is said once, above the table.
    may_say = {
        name: {one.value for one in entry.results if one is not SKIPPED} for name, entry in CHECKS.items()
    }
    assert told == may_say
    assert [name for name, *_ in rows] == list(CHECKS)


def test_what_is_written_twice_agrees() -> None:
    assert machine.BUFFER == udp.BUFFER
    assert relays.SKEW == standing.SKEW
    assert membership.USUAL_WARNING == expiry.WARN_BEFORE
    sources = [
        (ROOT / "shadowmesh/core/relays.py").read_text(),
        (ROOT / "shadowmesh/session/machine.py").read_text(),
    ]
    assert relays._RELAY_SAYS in sources[0]
    assert f" [{IDS[CloseCode.REFUSED][1]}]" == relays._REFUSED
    assert all(words in sources[1] for words in relays._OTHER_IDENTITY)


@pytest.mark.parametrize(
    ("rules_of_host", "found"),
    [
        (rules(), []),
        (rules(policy="drop"), ["the policy of inet host in (drop)"]),
        (rules(rule(REPLIES, ACCEPT), policy="drop"), []),
        (rules(rule(udp_port(40000), ACCEPT), policy="drop"), []),
        (rules(rule(FROM_ETH0, ACCEPT), policy="drop"), ["the policy of inet host in (drop)"]),
        (rules(rule(DROP)), ["rule 2 of inet host in (drop)"]),
        (rules(rule(ACCEPT), rule(DROP), policy="drop"), []),
        (rules(rule(REPLIES, ACCEPT), rule(ALL_UDP, DROP)), []),
        (rules(rule(ALL_UDP, {"counter": {}}, {"reject": None})), ["rule 2 of inet host in (reject)"]),
        (rules(rule(udp_port({"range": [30000, 50000]}), DROP)), ["rule 2 of inet host in (drop)"]),
        (rules(rule(udp_port({"set": [53, 40000]}), DROP)), ["rule 2 of inet host in (drop)"]),
        (rules(rule(udp_port({"set": [53, {"range": [1, 9]}]}), DROP)), []),
        (rules(rule(udp_port(40000, op="!="), DROP)), []),
        (rules(rule(udp_port(53, op="!="), DROP)), ["rule 2 of inet host in (drop)"]),
        (rules(rule(udp_port(40000, protocol="tcp"), DROP)), []),
        (rules(rule(udp_port(4433, field="sport"), DROP)), ["rule 2 of inet host in (drop)"]),
        (rules(rule(udp_port(4433), DROP)), []),
        (rules(rule(udp_port(4433), DROP), hook="output"), ["rule 2 of inet host in (drop)"]),
        (rules(rule(FROM_ETH0, ALL_UDP, DROP)), ["rule 2 of inet host in (drop)"]),
        (rules(rule(FROM_ETH0, DROP)), []),
        (rules(rule(ALL_UDP, DROP), policy="drop", hook="forward"), []),
        (rules(rule({"xt": None}, DROP)), []),
    ],
)
def test_rules_that_drop_our_udp(rules_of_host: HostFirewall, found: list[str]) -> None:
    assert dropping(rules_of_host.ruleset, 40000, frozenset({4433})) == found


def test_named_sets_of_ports() -> None:
    named = {"set": {"family": "inet", "table": "host", "name": "shut", "elem": [40000]}}
    asking = rules(rule(udp_port("@shut"), DROP))
    told = ["rule 2 of inet host in (drop)"]
    assert dropping((*asking.ruleset, named), 40000, frozenset()) == told
    assert dropping(asking.ruleset, 40000, frozenset()) == []


def run_with(facts: Facts, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(verb, "look", lambda *_: facts)
    return main(["doctor", *arguments])


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        (healthy(), ExitCode.OK),
        (kernel_with(shares_ports=False), ExitCode.OK),
        (relay_with(loss=0.5), ExitCode.WARNING),
        (net_with(udp="no network"), ExitCode.PROBLEM),
    ],
)
def test_the_worst_is_the_exit_code(
    facts: Facts, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_with(facts, monkeypatch, "--json") == code
    report = msgspec.json.decode(capsys.readouterr().out, type=Doctor)
    assert report.schema == DOCTOR_SCHEMA
    assert [one.id for one in report.checks] == list(CHECKS)


def test_people_see_what_matters_last(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = replace(relay_with(loss=0.5, state="waiting"), doubts=("evil\x1b[2J",))
    run_with(facts, monkeypatch)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    lines = shown.splitlines()
    assert lines[-3].startswith("problem  relay.reachable")
    assert lines[-2].strip().startswith("-> ")
    assert re.fullmatch(r"\d+ ok, \d+ skipped, 2 warning, 1 problem", lines[-1])
    assert "kernel.tun " not in shown
    run_with(facts, monkeypatch, "--all")
    assert "kernel.tun " in capsys.readouterr().out


def test_without_anything_that_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(verb, "DEFAULT_CONFIG", tmp_path / "absent.yaml")
    monkeypatch.setenv(SOCKET_VARIABLE, str(tmp_path / "socket"))
    assert main(["doctor", "--json"]) in (ExitCode.OK, ExitCode.WARNING, ExitCode.PROBLEM)
    report = msgspec.json.decode(capsys.readouterr().out, type=Doctor)
    said = {one.id: one.result for one in report.checks}
    assert said["client.running"] == NOTE
    assert said["relay.reachable"] == said["config.loads"] == SKIPPED


def test_a_broken_configuration_is_one_finding_and_no_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "client.yaml"
    file.write_text("node: {name: alice, colour: red}\nrelays: []\n")
    assert main(["doctor", "-c", str(file), "--socket", str(tmp_path / "none"), "--json"]) == ExitCode.PROBLEM
    report = msgspec.json.decode(capsys.readouterr().out, type=Doctor)
    said = {one.id: one for one in report.checks}
    assert said["config.loads"].result == PROBLEM
    assert "node.colour: unknown key" in said["config.loads"].found


def test_peers_that_are_not_there_are_no_path() -> None:
    gone = PeerStatus(name="bob", node_id="b" * 52, addresses=[], state="absent")
    facts = replace(healthy(), status=replace(running(), peers=[gone]))
    assert CHECKS["mtu.relay_paths"].function(facts).result is SKIPPED
    assert isinstance(CONFIG, ClientConfig)


def test_who_waits_at_a_terminal_is_told_for_what(monkeypatch: pytest.MonkeyPatch) -> None:
    told, written = threading.Event(), []

    def echo(text: str, **_: object) -> None:
        written.append(text)
        told.set()

    monkeypatch.setattr(verb, "PATIENCE", 0.001)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("click.echo", echo)
    with verb.progress() as tell:
        tell("the network")
        assert told.wait(20)
    assert "looking at" in written[0]
    assert written[-1] == "\r\033[K", "the line goes when it is done"
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    written.clear()
    with verb.progress() as tell:
        tell("the network")
    assert written == []


@pytest.mark.parametrize("struct", [Doctor, Finding, Bugreport, Listed])
def test_every_field_is_documented(struct: type[msgspec.Struct]) -> None:
    page = (ROOT / "docs/doctor.md").read_text()
    assert [name for name in struct.__struct_fields__ if f"`{name}`" not in page] == []
