"""client.yaml and relay.yaml: the examples load, and every mistake is told with its line and a cure."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest

from shadowmesh.config import ClientConfig, doubts, load_client_config, refuse_bridge, refuse_own_id
from shadowmesh.document import MAX_FILE_SIZE
from shadowmesh.errors import ConfigError
from shadowmesh.units import Address
from shadowmesh.values import parse_host_port, parse_node_id
from shadowmesh_relay.config import admits, load_relay_config
from shadowmesh_relay.limits import Limits

CONFIGS = Path(__file__).parents[2] / "configs"


def example_id(name: str) -> str:
    return f"{name}example".ljust(52, "a")


MINIMAL = f"""\
node: {{name: alice}}
interface: {{addresses: [10.77.0.1/24]}}
relays:
  - {{address: "192.0.2.1:4433", id: {example_id("relay")}}}
peers:
  - {{name: bob, id: {example_id("bob")}, addresses: [10.77.0.2]}}
  - {{name: carol, id: {example_id("carol")}, addresses: [10.77.0.3]}}
"""


def load(tmp_path: Path, text: str) -> ClientConfig:
    path = tmp_path / "client.yaml"
    path.write_text(text)
    return load_client_config(path)


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    return str(caught.value)


def test_the_minimal_example_gets_the_documented_defaults() -> None:
    config = load_client_config(CONFIGS / "client.yaml")
    assert config.node.name == "alice"
    assert config.node.state_dir == Path("/var/lib/shadowmesh")
    assert config.node.socket == Path("/run/shadowmesh/shadowmesh.sock")
    assert (config.listen.address, config.listen.port) == ("::", 0)
    assert (config.interface.name, config.interface.mtu) == ("smesh0", "auto")
    assert (config.paths.direct, config.paths.port_mapping) == ("auto", "auto")
    assert config.session.rekey_seconds == 120
    assert config.peers[0].id == base64.b32decode(example_id("bob").upper() + "====")


def test_the_full_example_loads_every_key() -> None:
    config = load_client_config(CONFIGS / "client-full.yaml")
    assert [(relay.host, relay.port) for relay in config.relays] == [
        ("relay.example.net", 4433),
        ("2001:db8::53", 4433),
    ]
    assert [peer.name for peer in config.peers] == ["alice", "carol"]
    assert config.interface.addresses == ("10.77.0.2/24", "fd77::2/64")


def test_the_relay_example_loads() -> None:
    config = load_relay_config(CONFIGS / "relay.yaml")
    assert (config.relay.name, config.relay.host, config.relay.port) == ("relay1", "::", 4433)
    assert config.relay.second_port == 4434
    assert config.relay.threads == 1
    assert not config.admission.open
    assert parse_node_id(example_id("bob")) in config.admission.nodes


@pytest.mark.parametrize(("text", "threads"), [("", 1), (", threads: auto", 0), (", threads: 8", 8)])
def test_threads_of_a_relay(tmp_path: Path, text: str, threads: int) -> None:
    path = tmp_path / "relay.yaml"
    path.write_text(f"relay: {{name: r{text}}}\nadmission: {{open: true}}\n")
    assert load_relay_config(path).relay.threads == threads


def test_structs_are_frozen(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL)
    with pytest.raises(AttributeError):
        config.node.name = "mallory"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("interface:", "interfaces:", "client.yaml:2: interfaces: unknown key; did you mean interface?"),
        ("name: bob", "nmae: bob", "client.yaml:6: peers[0].nmae: unknown key; did you mean name?"),
        ("name: bob", "colour: red", "unknown key; the keys here are name, id, addresses"),
        ("name: bob", "name: 42", "client.yaml:6: peers[0].name: must be text, not 42"),
        ("name: bob", "name: Bob", "peers[0].name: 'Bob' is not a name"),
        ("name: bob", "name: carol", "client.yaml:7: peers[1].name: carol is the same as at peers[0].name"),
        ("name: bob", "name: alice", "client.yaml:6: peers[0].name: alice is the same as at node.name"),
        (example_id("bob"), example_id("carol"), "client.yaml:7: peers[1].id: is the same as at peers[0].id"),
        (
            example_id("bob"),
            example_id("relay"),
            "client.yaml:6: peers[0].id: is the same as at relays[0].id",
        ),
        (example_id("bob"), "bob", "peers[0].id: a NodeID has 52 characters, this has 3; for example: id: "),
        (example_id("bob"), "0" * 52, "a NodeID has only the letters"),
        (example_id("bob"), "b0" * 26, "a NodeID has only the letters a-z and the digits 2-7"),
        (example_id("bob"), "b" * 52, "peers[0].id: the last character of a NodeID is a or q"),
        ("[10.77.0.2]", "[10.77.0.3]", "peers[1].addresses: 10.77.0.3 is the same as at peers[0].addresses"),
        ("[10.77.0.2]", "[10.77.0.1]", "peers[0].addresses: 10.77.0.1 is the same as at interface.addresses"),
        ("[10.77.0.2]", "[10.77.0.2/24]", "peers[0].addresses[0]: 10.77.0.2/24: peers' addresses have no"),
        ("[10.77.0.2]", "10.77.0.2", "peers[0].addresses: must be a list, not the text '10.77.0.2'"),
        (
            "[10.77.0.2]",
            "[10.77.0.256]",
            "peers[0].addresses[0]: '10.77.0.256' is not an IPv4 or IPv6 address",
        ),
        ("[10.77.0.2]", "[224.0.0.1]", "can't be the address of a node"),
        ("10.77.0.1/24", "10.77.0.1", "interface.addresses[0]: 10.77.0.1 lacks its prefix length"),
        ("10.77.0.1/24", "10.77.0.1/33", "the prefix length of 10.77.0.1/33 is not between 1 and 32"),
        ("10.77.0.1/24", "10.77.0.0/24", "10.77.0.0/24 names the network itself"),
        ("192.0.2.1:4433", "192.0.2.1", "relays[0].address: '192.0.2.1' has not the form host:port"),
        ("192.0.2.1:4433", "192.0.2.1:0", "relays[0].address: port 0 is not between 1 and 65535"),
        (
            "192.0.2.1:4433",
            "192.0.2.300:1",
            "relays[0].address: '192.0.2.300' is not an IPv4 or IPv6 address",
        ),
        ("192.0.2.1:4433", "2001:db8::1:1", "has not the form [IPv6 address]:port"),
        ("192.0.2.1:4433", "-bad-.net:1", "is neither a host name nor an address"),
        ("interface: {", "interface: {name: a/b, ", "interface.name: 'a/b' is not the name of an interface"),
        ("interface: {", "interface: {name: all, ", "interface.name: 'all' is not the name of an interface"),
        ("interface: {", "interface: {name: sixteen-letters-, ", "is not the name of an interface"),
        ("interface: {", "interface: {mtu: 500, ", "interface.mtu: 500 is not between 576 and 65500"),
        (
            "interface: {",
            "interface: {mtu: large, ",
            "interface.mtu: must be a whole number, not the text 'large'",
        ),
        ("interface: {", "interface: {mtu: '1380', ", "interface.mtu: must be a whole number"),
        ("[10.77.0.1/24]", '["fd77::1/64"], mtu: 1000', "interface.mtu: an IPv6 address needs at least 1280"),
        ("node: {", "node: {state_dir: var, ", "node.state_dir: 'var' is not an absolute path"),
        ("node: {", f"node: {{socket: /{'x' * 110}, ", "node.socket: has 111 bytes"),
        ("node: {name: alice}", "node: {}", "client.yaml:1: node.name: is missing; for example: name: alice"),
        ("node: {name: alice}", "listen: {port: 70000}", "listen.port: 70000 is not between 0 and 65535"),
        ("node: {name: alice}", "node: alice", "client.yaml:1: node: must be a mapping with the keys name,"),
        (
            "peers:",
            "paths: {direct: always}\npeers:",
            "paths.direct: 'always' is none of auto, never, static",
        ),
        (
            "interface: {",
            "interface: {bridge: a/b, ",
            "interface.bridge: 'a/b' is not the name of an interface",
        ),
        (
            "interface: {",
            "interface: {bridge: smesh0, ",
            "client.yaml:2: interface.bridge: is interface.name",
        ),
        ("interface: {", "interface: {vlans: [10], ", "interface.vlans: is for a bridge only"),
        ("interface: {", "interface: {bridge: br0, vlans: [], ", "interface.vlans: names none; leave it out"),
        ("interface: {", "interface: {bridge: br0, vlans: [4095], ", "vlans[0]: '4095' is not a VLAN id"),
        ("interface: {", "interface: {bridge: br0, vlans: 0, ", "vlans: '0' is not a VLAN id"),
        ("name: bob,", "name: bob, rights: bridges,", "rights: 'bridges' is none of bridge, dhcp, ra"),
        ("peers:", "session: {rekey_seconds: 1}\npeers:", "rekey_seconds: 1 is not between 2 and 240"),
        ("peers:", "session: {rekey_seconds: 300}\npeers:", "rekey_seconds: 300 is not between 2 and 240"),
        (
            "node: {name: alice}",
            "node: {name: alice, name: eve}",
            "node.name: is given twice, first on line 1",
        ),
        ("interface:", "node:", "client.yaml:2: node: is given twice, first on line 1"),
    ],
)
def test_a_mistake_is_refused_with_its_place(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert MINIMAL.count(old) >= 1
    assert expected in refusal(tmp_path, MINIMAL.replace(old, new, 1))


def test_a_bridge_its_vlans_and_who_may_bridge(tmp_path: Path) -> None:
    text = MINIMAL.replace("interface: {", "interface: {bridge: br0, vlans: [10, 4094], ")
    config = load(tmp_path, text.replace("name: bob,", "name: bob, rights: [bridge],"))
    assert (config.interface.bridge, config.interface.vlans) == ("br0", (10, 4094))
    assert [peer.rights for peer in config.peers] == [("bridge",), ()]
    plain = load(tmp_path, MINIMAL).interface
    assert (plain.bridge, plain.vlans) == (None, ())


def test_a_bridge_is_refused_with_its_line_also_after_the_file_was_read(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL.replace("interface: {", "interface: {bridge: br0, "))
    with pytest.raises(ConfigError) as caught:
        refuse_bridge(config, "bob has not the right")
    assert str(caught.value) == f"{config.file}:2: interface.bridge: bob has not the right"


@pytest.mark.parametrize(
    ("key", "old"), [("relays[0].id", example_id("relay")), ("peers[1].id", example_id("carol"))]
)
def test_a_machine_is_not_its_own_relay_or_peer(tmp_path: Path, key: str, old: str) -> None:
    config = load(tmp_path, MINIMAL)
    refuse_own_id(config, bytes(32))
    with pytest.raises(ConfigError) as caught:
        refuse_own_id(config, parse_node_id(old))
    assert f"client.yaml: {key}: is this machine's own NodeID" in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("", "", []),
        ("[10.77.0.3]", "[10.77.1.3]", ["peers[1].addresses: 10.77.1.3 is in no network"]),
        ("[10.77.0.3]", '["fd77::3"]', ["peers[1].addresses: fd77::3 is in no network"]),
        ("[10.77.0.3]", '["fe80::3"]', []),
        ("[10.77.0.1/24]", "[]", []),
    ],
)
def test_what_looks_like_a_mistake(tmp_path: Path, old: str, new: str, expected: list[str]) -> None:
    found = doubts(load(tmp_path, MINIMAL.replace(old, new)), "alice")
    assert [text in line for text, line in zip(expected, found, strict=True)] == [True] * len(expected)


def test_an_identity_of_another_name_looks_like_a_mistake(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL)
    assert doubts(config) == []
    (line,) = doubts(config, "bertha")
    assert "node.name: is alice, but the identity in /var/lib/shadowmesh was made for bertha" in line


def test_every_mistake_is_told_in_one_run(tmp_path: Path) -> None:
    text = (
        MINIMAL.replace("name: bob", "name: 1").replace("[10.77.0.3]", "[x]").replace("10.77.0.1/24", "y/24")
    )
    lines = refusal(tmp_path, text).splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "interface.addresses[0]",
        "peers[0].name",
        "peers[1].addresses[0]",
    ]
    assert all("; for example: " in line for line in lines)


def test_a_client_needs_a_relay(tmp_path: Path) -> None:
    text = MINIMAL.replace("relays:\n", "relays: []\n").replace(MINIMAL.splitlines()[3] + "\n", "")
    assert "client.yaml:3: relays: at least one relay is needed" in refusal(tmp_path, text)


def test_a_client_may_start_without_peers(tmp_path: Path) -> None:
    assert load(tmp_path, MINIMAL.partition("peers:")[0]).peers == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "client.yaml: is empty"),
        ("- a\n- b\n", "client.yaml:1: top level: must be a mapping"),
        ("node: {name: [}\n", "client.yaml:1: "),
        ("node: *a\n", "client.yaml:1: anchors (&) and aliases (*)"),
        ("a: &a [x]\nb: [*a, *a]\n", "client.yaml:1: anchors (&) and aliases (*)"),
        ("node: !!python/object/apply:os.system [id]\n", "client.yaml:1: tags (!)"),
        ("node: " + "[" * 2000 + "]" * 2000, "client.yaml:1: is nested too deeply"),
        ("node: {}\n---\nnode: {}\n", "client.yaml:2: "),
        ("listen: [::]:4433\n", 'put quotes around addresses with colons or brackets: "[2001:db8::1]:4433"'),
        ("a: {b: [2001:db8::5]:1, c: d}\n", "client.yaml:1: expected ',' or '}', but got ':'; put quotes"),
        ("node: {name: \t\x00}\n", "client.yaml: "),
        ("? [a]\n: b\n", "unknown key"),
    ],
)
def test_what_is_no_yaml_of_ours_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refusal(tmp_path, text)


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_client_config(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="Is a directory"):
        load_client_config(tmp_path)
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (MAX_FILE_SIZE + 1))
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        load_client_config(large)
    large.write_bytes(b"node:\n  name: \xff\n")
    with pytest.raises(ConfigError, match=r"large\.yaml:2: is not UTF-8"):
        load_client_config(large)


def test_words_that_yaml_1_1_would_turn_into_something_else_stay_text(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL.replace("name: bob", "name: no"))
    assert config.peers[0].name == "no"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("relay.example.net:1", ("relay.example.net", 1)),
        ("[fe80::1%eth0]:65535", ("fe80::1%eth0", 65535)),
        ("[::ffff:192.0.2.1]:9", ("192.0.2.1", 9)),
    ],
)
def test_host_and_port(text: str, expected: tuple[str, int]) -> None:
    assert parse_host_port(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("relay: {name: r}\nadmission: {open: maybe}\n", "admission.open: must be true or false"),
        ("relay: {name: r}\n", "admission.nodes: nobody may connect"),
        ("relay: {name: r, listen: 'localhost:1'}\nadmission: {open: true}\n", "'localhost' is not an IPv4"),
        ("relay: {}\nadmission: {open: true}\n", "relay.yaml:1: relay.name: is missing"),
        (
            f"relay: {{name: r}}\nadmission: {{nodes: [{example_id('bob')}, {example_id('bob')}]}}\n",
            "relay.yaml:2: admission.nodes: has a NodeID twice",
        ),
        (
            "relay: {name: r, second_port: 4433}\nadmission: {open: true}\n",
            "relay.second_port: is the port of listen",
        ),
        ("relay: {name: r, second_port: 0}\nadmission: {open: true}\n", "for example: second_port: 4434"),
        ("relay: {name: r, threads: 0}\nadmission: {open: true}\n", "for example: threads: 4"),
        ("relay: {name: r, threads: 9}\nadmission: {open: true}\n", "relay.threads: "),
        ("relay: {name: r, threads: many}\nadmission: {open: true}\n", "relay.threads: "),
        ("relay: {name: r, second_port: 65536}\nadmission: {open: true}\n", "relay.second_port: "),
    ],
)
def test_a_mistake_in_relay_yaml(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "relay.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_relay_config(path)
    assert expected in str(caught.value)


def test_an_open_relay_needs_no_list(tmp_path: Path) -> None:
    path = tmp_path / "relay.yaml"
    path.write_text("relay: {name: r}\nadmission: {open: true}\n")
    assert load_relay_config(path).admission.nodes == frozenset()


def test_a_relay_of_networks_needs_no_list(tmp_path: Path) -> None:
    path = tmp_path / "relay.yaml"
    path.write_text("relay: {name: r}\nadmission: {networks: [/etc/shadowmesh/home.pem]}\n")
    admission = load_relay_config(path).admission
    assert admission.networks == (Path("/etc/shadowmesh/home.pem"),)
    assert admits(admission) == "admits 1 network"


def test_a_member_of_a_network_may_leave_relays_and_peers_out(tmp_path: Path) -> None:
    text = "node: {name: a}\nnetwork: {file: /etc/home.pem, certificate: /etc/a.pem}\n"
    config = load(tmp_path, text)
    assert config.network is not None
    assert (config.network.file, config.network.certificate) == (Path("/etc/home.pem"), Path("/etc/a.pem"))
    assert not config.relays
    assert not config.peers
    assert "network.certificate: is missing" in refusal(tmp_path, "node: {name: a}\nnetwork: {file: /x}\n")
    wrong = "node: {name: a}\nnetwork: {file: x, certificate: /y}\n"
    assert "network.file: 'x' is not an absolute path" in refusal(tmp_path, wrong)


def documented_keys(text: str) -> list[str]:
    return re.findall(r"^\| `([a-z_.\[\]]+)` \|", text, re.MULTILINE)


def test_documented_keys_are_the_keys_there_are(tmp_path: Path) -> None:
    """An unknown key is answered with the known ones: those, and no others, are in the reference."""
    text = (CONFIGS.parent / "docs/configuration.md").read_text()
    path = tmp_path / "x.yaml"
    known = set()
    for section, load_config in (
        ("node", load_client_config),
        ("listen", load_client_config),
        ("interface", load_client_config),
        ("paths", load_client_config),
        ("session", load_client_config),
        ("network", load_client_config),
        ("names", load_client_config),
        ("relay", load_relay_config),
        ("admission", load_relay_config),
        ("limits", load_relay_config),
        ("log", load_client_config),
        ("tracing", load_client_config),
        ("websocket", load_relay_config),
        ("cluster", load_relay_config),
        ("relays[]", load_client_config),
        ("peers[]", load_client_config),
        ("routes[]", load_client_config),
        ("interface.broadcast", load_client_config),
        ("firewall", load_client_config),
        ("firewall.rules[]", load_client_config),
        ("firewall.tests[]", load_client_config),
    ):
        text_of = "{zzz: 1}"
        for key in reversed(section.split(".")):
            value = f"[{text_of}]" if key.endswith("[]") else text_of
            text_of = f"{{{key.removesuffix('[]')}: {value}}}"
        path.write_text(f"{text_of}\n")
        with pytest.raises(ConfigError) as caught:
            load_config(path)
        names = re.search(r"the keys here are (.*)", str(caught.value))
        assert names
        known |= {f"{section}.{name}" for name in names[1].split(", ")}
    assert {key for key in documented_keys(text) if "." in key} == known


def test_the_examples_in_the_reference_load(tmp_path: Path) -> None:
    text = (CONFIGS.parent / "docs/configuration.md").read_text()
    client, member, relay = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert load(tmp_path, client).node.name == load(tmp_path, member).node.name == "alice"
    path = tmp_path / "relay.yaml"
    path.write_text(relay)
    assert load_relay_config(path).relay.port == 4433


ROUTED = MINIMAL + "routes:\n  - {via: bob, to: 192.168.5.0/24}\n  - {via: carol, to: 192.168.5.0/24}\n"


def test_routes_have_a_metric_behind_those_of_local_networks(tmp_path: Path) -> None:
    text = ROUTED.replace("via: carol, to: 192.168.5.0/24", 'via: bob, to: "FD00:5::/64", metric: 7')
    found = [(route.via, route.to, route.metric) for route in load(tmp_path, text).routes]
    assert found == [("bob", "192.168.5.0/24", 1024), ("bob", "fd00:5::/64", 7)]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("bob, to: 192.168.5.0/24", "bob, to: 0.0.0.0/0", "client.yaml:9: routes[0].to: 0.0.0.0/0 takes too"),
        ("bob, to: 192.168.5.0/24", "bob, to: 128.0.0.0/1", "128.0.0.0/1 takes too much; default routes and"),
        ("bob, to: 192.168.5.0/24", 'bob, to: "::/0"', "::/0 takes too much"),
        ("bob, to: 192.168.5.0/24", "bob, to: 192.168.5.1/24", "is an address in 192.168.5.0/24;"),
        ("bob, to: 192.168.5.0/24", "bob, to: 192.168.5.0", "routes[0].to: 192.168.5.0 lacks its"),
        ("bob, to: 192.168.5.0/24", "bob, to: lan", "routes[0].to: 'lan' is not an IPv4 or IPv6 prefix"),
        ("bob, to: 192.168.5.0/24", "bob, to: 224.0.0.0/8", "224.0.0.0/8 is nothing that can be"),
        ("bob, to: 192.168.5.0/24", "bob, to: 10.0.0.0/8", "10.0.0.0/8 overlaps interface.addresses"),
        ("via: bob", "via: bbo", "routes[0].via: no peer is called 'bbo'; did you mean bob?"),
        ("via: bob", "via: carol", "client.yaml:10: routes[1].to:"),
        ("via: carol, to", "metric: 5, via: carol, to", "routes[1].metric: is not that of routes[0]"),
        ("via: bob", "metric: 0, via: bob", "routes[0].metric: 0 is not between 1 and 4294967295"),
    ],
)  # fmt: skip
def test_wrong_routes_are_refused_by_key(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert expected in refusal(tmp_path, ROUTED.replace(old, new, 1))


def test_in_a_network_any_member_may_be_named_and_certificates_allow(tmp_path: Path) -> None:
    network = "network: {file: /a.pem, certificate: /b.pem, connect: demand}\n"
    config = load(tmp_path, ROUTED.replace("via: bob", "via: dave") + network)
    assert config.routes[0].via == "dave"
    assert config.network is not None
    assert config.network.connect == "demand"
    told = refusal(tmp_path, ROUTED.replace("10.77.0.2]", "10.77.0.2], routes: [192.168.5.0/24]") + network)
    assert "peers[0].routes: in a network, the peer's certificate says what it may carry; remove it" in told
    assert "network.connect: 'lazy' is none of auto, eager, demand" in refusal(
        tmp_path, MINIMAL + network.replace("demand", "lazy")
    )


def test_a_peer_carries_as_many_prefixes_as_a_certificate_could_say(tmp_path: Path) -> None:
    many = ", ".join(f"192.168.{number}.0/24" for number in range(33))
    told = refusal(tmp_path, MINIMAL.replace("[10.77.0.2]", f"[10.77.0.2], routes: [{many}]"))
    assert "peers[0].routes: at most 32, not 33" in told


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        ("clients: 0", "limits.clients"),
        ("packets_per_second: 0", "limits.packets_per_second"),
        ("bytes_per_second: 999", "limits.bytes_per_second"),
        ("handshakes: 10", "limits.handshakes_per_host: is more than"),
        ("handshakes_per_second: off", "limits.handshakes_per_second"),
    ],
)
def test_limits_out_of_bounds_are_refused(tmp_path: Path, limits: str, problem: str) -> None:
    path = tmp_path / "relay.yaml"
    path.write_text(f"relay: {{name: r}}\nadmission: {{open: true}}\nlimits: {{{limits}}}\n")
    with pytest.raises(ConfigError, match=re.escape(problem)):
        load_relay_config(path)


def test_limits_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "relay.yaml"
    path.write_text(
        "relay: {name: r}\nadmission: {open: true}\n"
        "limits: {clients: 7, packets_per_second: 100, bytes_per_second: off}\n"
    )
    limits = load_relay_config(path).limits
    assert (limits.clients, limits.packets_per_second, limits.bytes_per_second) == (7, 100, 0)
    assert limits.handshakes == Limits().handshakes


@pytest.mark.parametrize("where", ["192.0.2.1:9464", "localhost:9464", "relative/path", "0.0.0.0:1", "9464"])
def test_metrics_are_for_this_machine_only(tmp_path: Path, where: str) -> None:
    path = tmp_path / "relay.yaml"
    path.write_text(f"relay: {{name: r}}\nadmission: {{open: true}}\nmetrics: '{where}'\n")
    with pytest.raises(ConfigError, match="metrics: "):
        load_relay_config(path)


@pytest.mark.parametrize(
    ("where", "expected"),
    [("127.0.0.1:9464", Address("127.0.0.1", 9464)), ("/run/x.sock", Path("/run/x.sock")), ("off", None)],
)
def test_metrics_and_log_are_taken(tmp_path: Path, where: str, expected: object) -> None:
    path = tmp_path / "relay.yaml"
    text = f"relay: {{name: r, state_dir: /s}}\nadmission: {{open: true}}\nmetrics: '{where}'\n"
    path.write_text(text + "log: {format: json, addresses: true}\n")
    config = load_relay_config(path)
    assert config.metrics == expected
    assert (config.log.format, config.log.addresses) == ("json", True)
    assert config.relay.socket == Path("/s/relay.sock")
