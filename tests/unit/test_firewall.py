"""The firewall's rules as people write them: each mistake with its line, what is decided, in which words."""

from __future__ import annotations

import json
import time
from pathlib import Path

import msgspec
import pytest

from shadowmesh._ext.firewall import Firewall as Wall
from shadowmesh.api.client import ApiClient
from shadowmesh.cli.main import main as client
from shadowmesh.command import ExitCode
from shadowmesh.config import ClientConfig, load_client_config
from shadowmesh.errors import ConfigError
from shadowmesh.node.wall import read_again
from shadowmesh.overlay.compilation import Compiler, Party
from shadowmesh.overlay.firewall import Firewall, Incomplete, explain, firewall_of, parties_of
from shadowmesh.rules import FirewallSection, Ports, Question, Rule, alternatives, parse_protocol
from tests.unit.test_api import make_status
from tests.unit.test_config import MINIMAL, example_id

ROOT = Path(__file__).parents[2]


def written(tmp_path: Path, firewall: str, base: str = MINIMAL) -> Path:
    path = tmp_path / "client.yaml"
    path.write_text(base + firewall)
    return path


def load(tmp_path: Path, firewall: str) -> ClientConfig:
    return load_client_config(written(tmp_path, firewall))


def wall(tmp_path: Path, firewall: str) -> Firewall:
    made = firewall_of(load(tmp_path, firewall))
    assert made is not None
    return made


CAROL = example_id("carol")
RULES = f"""\
firewall:
  inbound: deny
  rules:
    - {{name: ssh, action: allow, direction: in, peers: bob, proto: tcp, dst_port: [22, 8000-8080]}}
    - {{action: deny, direction: in, peers: [{CAROL.upper()}], src: [10.77.0.0/16, "fd77::/64"]}}
    - {{action: allow, direction: in, proto: [icmp, icmpv6], vlan: [none, 10]}}
    - {{action: deny, direction: out, ethertype: [arp, 0x88b5], groups: admin}}
"""
FIRST = MINIMAL.count("\n") + 4
"""Line of the first rule."""


def test_rules_are_read_as_they_are_written(tmp_path: Path) -> None:
    found = load(tmp_path, RULES).firewall
    assert found is not None
    assert (found.inbound, found.outbound, [rule.line for rule in found.rules]) == (
        "deny",
        "allow",
        [FIRST, FIRST + 1, FIRST + 2, FIRST + 3],
    )
    assert [str(ports) for ports in found.rules[0].dst_ports] == ["22", "8000-8080"]
    assert found.rules[1].peers == ("carol",), "a NodeID is kept as the name that the file has for it"
    assert found.rules[2].vlans == (0, 10)
    assert found.rules[3].ethertypes == (0x0806, 0x88B5)


@pytest.mark.parametrize(
    ("rule", "key", "problem"),
    [
        ("action: permit, direction: in", "action", "'permit' is neither allow nor deny"),
        ("direction: in", "action", "is missing; for example: action: allow"),
        ("action: allow, direction: inbound", "direction", "'inbound' is neither in nor out"),
        ("action: allow, direction: in, peers: bobb", "peers", "no peer is called 'bobb'; did you mean bob?"),
        (
            "action: allow, direction: in, peers: [zoe]",
            "peers[0]",
            "no peer is called 'zoe'; list it under peers",
        ),
        (
            f"action: allow, direction: in, peers: {example_id('zoe')}",
            "peers",
            "no peer has this NodeID; list it under peers",
        ),
        ("action: allow, direction: in, groups: [Admin]", "groups[0]", "'Admin' is not a group"),
        ("action: allow, direction: in, src: 10.77.0.1/24", "src", "the prefix is 10.77.0.0/24"),
        ("action: allow, direction: in, src: bob", "src", "neither an address nor a prefix"),
        ("action: allow, direction: in, proto: sctp", "proto", "none of tcp, udp, icmp, icmpv6"),
        ("action: allow, direction: in, proto: 256", "proto", "no number from 0 to 255"),
        (
            "action: allow, direction: in, proto: tcp, dst_port: 70000",
            "dst_port",
            "not a port from 0 to 65535",
        ),
        ("action: allow, direction: in, proto: tcp, dst_port: 90-80", "dst_port", "is it 80-90?"),
        ("action: allow, direction: in, dst_port: 22", "dst_port", "needs its protocol beside it"),
        (
            "action: allow, direction: in, proto: icmp, src_port: 22",
            "src_port",
            "only tcp and udp have ports",
        ),
        ("action: allow, direction: in, ethertype: 0x8100", "ethertype", "is a VLAN tag"),
        ("action: allow, direction: in, ethertype: 46", "ethertype", "no number from 0x0600"),
        ("action: allow, direction: in, vlan: 4095", "vlan", "VLAN id from 1 to 4094"),
        ("action: allow, direction: in, port: 22", "port", "unknown key; did you mean src_port?"),
        ('action: allow, direction: in, proto: icmp, src: "fd77::/64"', "action", "can never match"),
        ("action: allow, direction: in, proto: tcp, ethertype: arp", "action", "can never match"),
        (
            'action: allow, direction: in, src: 10.0.0.1, dst: "fd77::1"',
            "action",
            "can never match: no frame",
        ),
        ("action: allow, direction: in, name: " + 61 * "x", "name", "1 to 60 printable"),
        ("action: allow, direction: in, vlan: {a: 1}", "vlan", "must be text, not a mapping"),
    ],
)
def test_every_mistake_names_its_line_and_key(tmp_path: Path, rule: str, key: str, problem: str) -> None:
    path = written(tmp_path, f"firewall:\n  inbound: deny\n  rules:\n    - {{{rule}}}\n")
    with pytest.raises(ConfigError) as caught:
        load_client_config(path)
    text = str(caught.value)
    assert text.startswith(f"{path}:{FIRST}: firewall.rules[0].{key}: "), text
    assert problem in text


def test_the_default_of_inbound_has_to_be_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"firewall\.inbound: is missing; for example: inbound: deny"):
        load(tmp_path, "firewall: {rules: []}\n")


def test_lists_multiply_only_so_far(tmp_path: Path) -> None:
    ports = ", ".join(str(port) for port in range(300))
    rule = f"{{action: allow, direction: in, proto: tcp, src_port: [{ports}], dst_port: [{ports}]}}"
    with pytest.raises(ConfigError, match="more than 60000 combinations"):
        load(tmp_path, f"firewall:\n  inbound: deny\n  rules:\n    - {rule}\n")
    rules = "\n".join("    - {action: allow, direction: in}" for _ in range(4001))
    with pytest.raises(ConfigError, match="has 4001 rules, and 4000 are the most"):
        load(tmp_path, f"firewall:\n  inbound: deny\n  rules:\n{rules}\n")


def test_only_combinations_that_a_frame_can_meet_are_compiled(tmp_path: Path) -> None:
    found = load(tmp_path, RULES).firewall
    assert found is not None
    combinations = [(one.protocol, one.ethertype) for one in alternatives(found.rules[2])]
    assert set(combinations) == {(1, 0x0800), (58, 0x86DD)}


def test_failing_tests_refuse_the_file(tmp_path: Path) -> None:
    tests = (
        "  tests:\n"
        "    - {expect: allow, direction: in, peer: bob, proto: tcp, dst_port: 22}\n"
        "    - {expect: allow, direction: in, peer: carol, proto: tcp, dst_port: 22}\n"
        "    - {expect: deny, direction: in, peer: bob, proto: tcp}\n"
    )
    config = load(tmp_path, RULES + tests)
    with pytest.raises(ConfigError) as caught:
        firewall_of(config)
    path = tmp_path / "client.yaml"
    line = FIRST + 6
    assert str(caught.value).splitlines() == [
        f"{path}:{line}: firewall.tests[1]: expected allow, but it is deny: "
        f"rule 2, line {FIRST + 1}, is the first that matches",
        f"{path}:{line + 1}: firewall.tests[2]: a packet of tcp or udp has a destination port: give dst_port",
    ]


def test_a_test_is_one_frame(tmp_path: Path) -> None:
    test = "  tests: [{expect: allow, direction: in, peer: bob, proto: tcp, dst_port: [1, 2]}]\n"
    with pytest.raises(ConfigError, match="a test is one frame"):
        load(tmp_path, RULES + test)


@pytest.mark.parametrize(
    ("question", "problem"),
    [
        (
            Question(direction="in", peer="dave", protocol=parse_protocol("tcp"), dst_port=1),
            "no address to fill in",
        ),
        (Question(direction="in", peer="bob", protocol=parse_protocol("icmpv6")), "no address to fill in"),
        (Question(direction="in", peer="bob", dst_port=1), "only tcp and udp have ports"),
        (
            Question(direction="in", peer="bob", ethertype=0x0806, protocol=parse_protocol("tcp")),
            "only ethertype",
        ),
    ],
)
def test_what_lacks_something_is_not_guessed(tmp_path: Path, question: Question, problem: str) -> None:
    made = wall(tmp_path, RULES)
    made.parties["dave"] = made.parties["bob"]._replace(name="dave", addresses=())
    with pytest.raises(Incomplete, match=problem):
        made.describe(question)


def test_in_words(tmp_path: Path) -> None:
    found = load(tmp_path, RULES).firewall
    assert found is not None
    assert explain(found) == [
        "Frames from peers to this machine; the first rule that matches decides:",
        f"  1. allow what comes from bob by TCP to port 22 or 8000-8080 (ssh), line {FIRST}",
        f"  2. deny what comes from carol from 10.77.0.0/16 or fd77::/64, line {FIRST + 1}",
        f"  3. allow what comes from any peer untagged or in VLAN 10 by ICMP or ICMPv6, line {FIRST + 2}",
        "  else deny",
        "Frames from this machine to peers; the first rule that matches decides:",
        f"  4. deny what goes to group admin as ARP or ethertype 0x88b5, line {FIRST + 3}",
        "  else allow",
        "Replies to what was allowed pass, and ICMP errors about it.",
        "ARP and neighbour discovery meet only rules with ethertype, and pass if none of them matches.",
    ]


def test_peers_that_the_same_rules_name_share_a_class(tmp_path: Path) -> None:
    config = load(tmp_path, RULES)
    compiled = Firewall(config.firewall, parties_of(config)).compiled() if config.firewall else None
    assert compiled is not None
    assert len(compiled.spans) == 3 * 16, "bob, carol, everybody else"
    assert (compiled.classes[2], compiled.classes[4]) == (1, 2)


NETWORK = "network: {file: /etc/home.pem, certificate: /etc/me.pem}\n"


def test_in_a_network_rules_may_name_whom_nobody_has_met(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zoe = example_id("zoe")
    rules = (
        "firewall:\n  inbound: deny\n  rules:\n"
        f"    - {{action: allow, direction: in, peers: [zoe, {zoe.upper()}, bob], groups: [ops]}}\n"
        "  tests:\n"
        "    - {expect: allow, direction: in, peer: zoe, src: 10.77.0.9, dst: 10.77.0.1}\n"
        f"    - {{expect: allow, direction: in, peer: {zoe}, src: 10.77.0.9, dst: 10.77.0.1}}\n"
        "    - {expect: deny, direction: in, peer: yan, src: 10.77.0.9, dst: 10.77.0.1}\n"
        "    - {expect: allow, direction: in, peer: yan, groups: [ops], src: 10.77.0.9, dst: 10.77.0.1}\n"
        "    - {expect: allow, direction: in, peer: carol, groups: ops}\n"
    )
    path = written(tmp_path, NETWORK + rules)
    found = firewall_of(load_client_config(path))
    assert found is not None
    assert found.section.rules[0].peers == ("zoe", zoe, "bob")
    assert client(["firewall", "explain", "-c", str(path)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-5:] == [
        "Nobody called zoe is known now: rule 1",
        f"Nobody called {zoe} is known now: rule 1",
        "Nobody of group ops is known now: rule 1",
        "No client of this file runs here, so only the peers in the file are known.",
        "5 tests in the file passed.",
    ]
    ask = ["firewall", "test", "-c", str(path), "--from", "yan", "--src", "10.77.0.9", "--dst", "10.77.0.1"]
    assert client(ask) == ExitCode.DENIED
    assert "nobody called yan is known now; no rule matches" in capsys.readouterr().out
    assert client([*ask, "--group", "ops"]) == 0


@pytest.mark.parametrize("network", ["", NETWORK], ids=["alone", "network"])
def test_own_name_and_what_is_no_name_are_mistakes(tmp_path: Path, network: str) -> None:
    for name, problem in (("alice", "this machine itself"), ("Zoe!", "is not a name|no peer is called")):
        rules = f"firewall: {{inbound: deny, rules: [{{action: allow, direction: in, peers: ['{name}']}}]}}\n"
        with pytest.raises(ConfigError, match=problem):
            load(tmp_path, network + rules)


def test_members_of_the_running_client_are_asked_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status = make_status()
    zoe = msgspec.structs.replace(
        status.peers[0], name="zoe", node_id=example_id("zoe"), groups=["ops"], addresses=["10.77.0.9"]
    )
    impostor = msgspec.structs.replace(zoe, name="bob", node_id=example_id("eve"))
    status = msgspec.structs.replace(status, peers=[zoe, impostor])
    monkeypatch.setattr(ApiClient, "status_json", lambda _: msgspec.json.encode(status))
    rules = "firewall: {inbound: deny, rules: [{action: allow, direction: in, groups: ops, peers: bob}]}\n"
    path = str(written(tmp_path, NETWORK + rules))
    for whom, code in (("zoe", 0), ("bob", 0), ("carol", 10), (example_id("eve"), 0)):
        assert client(["firewall", "test", "-c", path, "--from", whom]) == code, whom
    assert client(["firewall", "explain", "-c", path]) == 0
    assert "Nobody" not in capsys.readouterr().out


def many(count: int) -> FirewallSection:
    rules = tuple(
        Rule(
            line=1,
            action="allow",
            direction="in",
            groups=(f"g{index % 20}",),
            peers=(f"m{index}",),
            protocols=(parse_protocol("tcp"),),
            dst_ports=(Ports(index, index),),
        )
        for index in range(count)
    )
    return FirewallSection(inbound="deny", outbound="allow", rules=rules)


def test_a_thousand_rules_and_all_members_compile_quickly() -> None:
    compiler = Compiler(many(1000))
    began = time.process_time()
    for number in range(1, 513):
        assert compiler.put(Party(f"m{number}", "", ("g1", "other"), number=number))
    assert time.process_time() - began < 5.0
    assert not compiler.put(Party("m7", "", ("g1",), number=7)), "a group that no rule names changes nothing"
    assert compiler.put(Party("", "", ("g2",), number=7))
    assert not compiler.put(Party("nobody", "", ("g2",), number=7))
    Wall().install(compiler.compiled())


def test_kinds_of_members_that_are_gone_do_not_pile_up() -> None:
    compiler = Compiler(many(20))
    assert compiler.put(Party("m1", "", number=1))
    for life in range(1000):
        compiler.put(Party("", "", tuple(f"g{bit}" for bit in range(10) if life >> bit & 1), number=2))
        compiled = compiler.compiled()
        assert len(compiled.spans) // 16 <= 2 * 2 + 64 + 1
        assert compiled.classes[2] != 0, "a member of before is of its kind still"
    Wall().install(compiled)


# ---- the verbs ---------------------------------------------------------------------------------


def test_the_verb_test_names_the_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(written(tmp_path, RULES))
    ask = ["firewall", "test", "-c", path]
    assert client([*ask, "--in", "--from", "bob", "--proto", "tcp", "--dst-port", "22"]) == 0
    assert capsys.readouterr().out == (
        f"allow: rule 1 (ssh), line {FIRST}, is the first that matches: "
        "allow what comes from bob by TCP to port 22 or 8000-8080\n"
    )
    assert client([*ask, "--from", "bob", "--proto", "tcp", "--dst-port", "23", "--json"]) == ExitCode.DENIED
    assert json.loads(capsys.readouterr().out) == {
        "schema": "shadowmesh.firewall-test/1",
        "action": "deny",
        "rule": None,
        "why": "no rule matches, and firewall.inbound is deny",
    }
    assert client([*ask, "--to", example_id("carol"), "--ethertype", "arp"]) == 0
    assert capsys.readouterr().out.startswith("allow: ARP and neighbour discovery pass unless")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--from", "zoe", "--proto", "icmp"], ExitCode.NO_PEER, "there is no peer 'zoe' in "),
        (["--proto", "icmp"], ExitCode.USAGE, "say from which peer it comes"),
        (["--out", "--from", "bob"], ExitCode.USAGE, "--in goes with --from"),
        (["--from", "bob", "--proto", "tcp"], ExitCode.USAGE, "give dst-port"),
        (["--from", "bob", "--dst-port", "x"], ExitCode.USAGE, "'x' is not a port"),
    ],
)
def test_wrong_questions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    path = str(written(tmp_path, RULES))
    assert client(["firewall", "test", "-c", path, *arguments]) == code
    assert said in capsys.readouterr().err


def test_check_runs_the_tests_of_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = "  tests: [{expect: deny, direction: in, peer: carol, proto: tcp, dst_port: 22}]\n"
    path = str(written(tmp_path, RULES + good))
    assert client(["up", "--check", "-c", path]) == 0
    assert "firewall: 4 rules, inbound deny, outbound allow, 1 test passed\n" in capsys.readouterr().out
    assert client(["firewall", "explain", "-c", path]) == 0
    assert "1 test in the file passed.\n" in capsys.readouterr().out
    path = str(written(tmp_path, RULES + good.replace("deny", "allow")))
    assert client(["up", "--check", "-c", path]) == ExitCode.REFUSED
    assert "expected allow, but it is deny" in capsys.readouterr().err
    assert client(["firewall", "explain", "-c", path]) == ExitCode.REFUSED
    said = capsys.readouterr()
    assert "1. allow what comes from bob" in said.out
    assert "expected allow, but it is deny" in said.err
    asked = ["--from", "carol", "--proto", "tcp", "--dst-port", "22"]
    assert client(["firewall", "test", "-c", path, *asked]) == ExitCode.DENIED, (
        "to find out why the test fails"
    )


def test_without_a_firewall_everything_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(written(tmp_path, ""))
    assert client(["firewall", "test", "-c", path, "--from", "bob", "--proto", "icmp"]) == 0
    assert client(["firewall", "explain", "-c", path]) == 0
    assert capsys.readouterr().out.count("has no firewall, so everything passes\n") == 2


# ---- reading the file again --------------------------------------------------------------------


def test_a_reload_takes_rules_and_groups_and_names_the_rest(tmp_path: Path) -> None:
    running = load(tmp_path, "")
    path = written(tmp_path, RULES, MINIMAL.replace("10.77.0.3]}", "10.77.0.3], groups: [admin]}"))
    found = read_again(running, path, b"")
    assert found.reply.applied == ["firewall", "peers[].groups"]
    assert found.reply.restart == []
    assert found.config.peers[1].groups == ("admin",)
    path = written(tmp_path, "listen: {port: 5}\n", MINIMAL.replace("name: bob", "name: bobby"))
    found = read_again(found.config, path, b"")
    assert found.reply.applied == ["firewall", "peers[].groups"]
    assert found.reply.restart == ["listen", "peers"]
    assert (found.config.firewall, found.config.peers[0].name, found.wanted.peers[0].name) == (
        None,
        "bob",
        "bobby",
    )


def test_a_reload_of_a_broken_file_is_refused(tmp_path: Path) -> None:
    running = load(tmp_path, "")
    with pytest.raises(ConfigError, match="'permit' is neither"):
        read_again(running, written(tmp_path, RULES.replace("action: allow", "action: permit")), b"")
    with pytest.raises(ConfigError, match="can't be read"):
        read_again(running, tmp_path / "absent.yaml", b"")
    with pytest.raises(ConfigError, match="this machine's own NodeID"):
        read_again(running, written(tmp_path, RULES), running.peers[0].id)
