"""Every check of `doctor` gives each of the results that it declares."""

from __future__ import annotations

import pytest

from shadowmesh.api.schema import (
    NatStatus,
    RelayCheck,
    RouteStatus,
)
from shadowmesh.diagnosis.doctor import CHECKS, examine
from shadowmesh.diagnosis.facts import (
    Facts,
    FileFact,
    HostFirewall,
    Link,
    Lookup,
)
from shadowmesh.diagnosis.findings import Result
from tests.unit.doctor_facts import (
    CONFIG,
    DAY,
    NOTE,
    NOW,
    OK,
    PROBLEM,
    SKIPPED,
    UNSEEN,
    WARNING,
    budget_of,
    files_with,
    healthy,
    kernel_with,
    links_with,
    machine_with,
    member_with,
    names_with,
    net_with,
    node_with,
    papers_with,
    reached,
    relay_with,
    replace,
    running,
    stopped,
    walled,
    way_to,
    without_link,
)

SECOND = RelayCheck(address="192.0.2.9:4433", state="waiting", last_error="nothing answered")
REFUSED = "the relay says: this relay does not admit your NodeID [link.refused]"
ENDED = "the relay says: the relay is going down, not [link.refused] [link.ended]"
OTHER = "the peer is not the node that is pinned: its NodeID differs [link.refused-here]"
ASKS = (
    "the relay says: the proof in HELLO does not hold; is my NodeID the one that you pinned? [link.refused]"
)
BLOCKED = replace(reached(), udp="blocked", relays=[SECOND])
WITH_PASSWORD = replace(
    CONFIG, relays=(replace(CONFIG.relays[0], proxy="http://user:password@proxy.example.net:3128"),)
)
UNASKED = replace(healthy(), netcheck=UNSEEN)
NO_FILES = replace(healthy(), files=UNSEEN)
NO_LINKS = replace(healthy(), surroundings=UNSEEN)
NOT_RUNNING = stopped(healthy())
OPEN_TOKEN = (FileFact(path="/etc/shadowmesh/token", mode=0o644),)

CASES: dict[str, list[tuple[Result, Facts, str]]] = {
    "machine.kernel": [
        (OK, healthy(), "Linux 6.6.1"),
        (NOTE, machine_with(release="5.10.0-8-amd64"), "no UDP offload"),
        (NOTE, machine_with(release="6.1"), "no UDP offload"),
        (PROBLEM, machine_with(system="Darwin"), "Darwin"),
    ],
    "machine.memory": [
        (OK, healthy(), "1.00 GiB"),
        (WARNING, machine_with(memory=1 << 20), "1.00 MiB"),
        (SKIPPED, machine_with(memory=None), "does not tell"),
    ],
    "machine.disk": [
        (OK, healthy(), "are free for /var/lib/shadowmesh"),
        (WARNING, files_with(free=10 << 20), "only 10.0 MiB"),
        (PROBLEM, files_with(free=0), "only 0 B"),
        (SKIPPED, files_with(free=UNSEEN), "dark"),
        (SKIPPED, NO_FILES, "dark"),
    ],
    "machine.receive_buffer": [
        (OK, healthy(), "4.00 MiB"),
        (NOTE, kernel_with(receive_buffer=2 << 20), "2.00 MiB"),
        (
            NOTE,
            replace(machine_with(net_admin=False), kernel=kernel_with(receive_buffer=1).kernel),
            "root is not",
        ),
        (WARNING, kernel_with(receive_buffer=212_992), "208 KiB"),
    ],
    "kernel.tun": [
        (OK, healthy(), "opens"),
        (PROBLEM, kernel_with(tun="it can't be opened: load the module"), "it can't be opened"),
        (SKIPPED, kernel_with(tun=UNSEEN), "dark"),
    ],
    "kernel.tun_offload": [
        (OK, healthy(), "whole"),
        (NOTE, kernel_with(vnet_header=False), "IFF_VNET_HDR"),
        (NOTE, node_with(features={"join_udp": False, "udp_gso": False}), "does without join_udp"),
        (SKIPPED, kernel_with(vnet_header=UNSEEN), "dark"),
    ],
    "kernel.udp_offload": [
        (OK, healthy(), "GSO and GRO"),
        (NOTE, kernel_with(udp_segments=False, udp_coalesces=False), "no UDP GSO, no UDP GRO"),
        (NOTE, node_with(features={"udp_gro": False}), "no udp_gro in the running client"),
    ],
    "kernel.reuse_port": [(OK, healthy(), "share"), (NOTE, kernel_with(shares_ports=False), "SO_REUSEPORT")],
    "kernel.netlink": [(OK, healthy(), "can be read"), (PROBLEM, kernel_with(netlink="refused"), "refused")],
    "permission.net_admin": [
        (OK, healthy(), "CAP_NET_ADMIN"),
        (OK, machine_with(net_admin=False), "the client runs"),
        (NOTE, stopped(machine_with(net_admin=False, root=False)), "this user"),
        (PROBLEM, stopped(machine_with(net_admin=False)), "this root"),
    ],
    "permission.socket": [
        (OK, healthy(), "0600"),
        (WARNING, replace(healthy(), socket=FileFact(path="/s", mode=0o666)), "everybody may stop"),
        (SKIPPED, replace(healthy(), socket=FileFact(path="/s")), "there is no socket /s"),
    ],
    "permission.state_dir": [
        (OK, healthy(), "0700"),
        (PROBLEM, files_with(state_dir=FileFact(path="/s", mode=0o777)), "swapped"),
        (PROBLEM, files_with(state_dir=FileFact(path="/s")), "there is no /s"),
        (SKIPPED, files_with(state_dir=FileFact(path="/s", problem="dark")), "dark"),
        (SKIPPED, NO_FILES, "dark"),
    ],
    "permission.keys": [
        (OK, healthy(), "and 1 more"),
        (WARNING, files_with(keys=(FileFact(path="/t", mode=0o640),)), "others can read /t (mode 0640)"),
        (WARNING, files_with(tokens=OPEN_TOKEN), "others can read /etc/shadowmesh/token"),
        (PROBLEM, files_with(identity=FileFact(path="/i", mode=0o644)), "can be read by others (mode 0644)"),
        (PROBLEM, files_with(identity=FileFact(path="/i")), "there is no identity /i"),
        (PROBLEM, files_with(tokens=(FileFact(path="/t"),)), "there is no /t"),
        (SKIPPED, files_with(identity=FileFact(path="/i", problem="dark")), "dark"),
        (SKIPPED, NO_FILES, "dark"),
    ],
    "config.loads": [
        (OK, healthy(), "client.yaml loads"),
        (
            PROBLEM,
            replace(healthy(), config=UNSEEN, config_problem="a:1: nod: unknown key\nb"),
            "unknown key; b",
        ),
        (SKIPPED, replace(healthy(), config=UNSEEN), "dark"),
    ],
    "config.doubts": [
        (OK, healthy(), "nothing"),
        (WARNING, replace(healthy(), doubts=("is it the right one?",)), "the right one"),
        (SKIPPED, replace(healthy(), config=UNSEEN), "dark"),
    ],
    "config.mode": [
        (OK, healthy(), "0644"),
        (WARNING, replace(healthy(), config=WITH_PASSWORD), "password"),
        (PROBLEM, files_with(config=FileFact(path="/c", mode=0o666)), "everybody can change /c"),
        (SKIPPED, files_with(config=FileFact(path="/c", problem="dark")), "dark"),
        (SKIPPED, NO_FILES, "dark"),
    ],
    "client.running": [
        (OK, healthy(), "alice has been up for 1 h 2 min"),
        (NOTE, NOT_RUNNING, "no client runs here"),
        (PROBLEM, replace(healthy(), status=UNSEEN, silent="does not answer"), "does not answer"),
        (SKIPPED, replace(healthy(), status=UNSEEN), "dark"),
    ],
    "version.client": [
        (OK, healthy(), "0.1.0"),
        (WARNING, node_with(version="0.0.9"), "0.0.9 runs, and 0.1.0 is installed"),
        (SKIPPED, NOT_RUNNING, "no client"),
    ],
    "version.runtime": [
        (OK, healthy(), "Python 3.11, OpenSSL 3.5.0"),
        (OK, machine_with(openssl=(3, 0)), "OpenSSL"),
        (
            NOTE,
            replace(relay_with(transport="tcp"), machine=machine_with(openssl=(3, 0)).machine),
            "outer TLS",
        ),
        (PROBLEM, machine_with(python=(3, 10)), "too old"),
        (PROBLEM, machine_with(openssl=(1, 1)), "too old"),
    ],
    "membership.certificate": [
        (OK, healthy(), "holds for 60 d 0 h"),
        (OK, NOT_RUNNING, "holds for 60 d 0 h"),
        (OK, replace(healthy(), papers=UNSEEN), "holds for 60 d 0 h"),
        (
            WARNING,
            member_with(expires_in=DAY, renewal_error="nobody is there"),
            "1 d 0 h only (nobody is there)",
        ),
        (PROBLEM, member_with(expires_in=-DAY), "expired 1 d 0 h ago"),
        (PROBLEM, stopped(papers_with(not_after=NOW - 60)), "expired 1 min 0 s ago"),
        (PROBLEM, papers_with(not_before=NOW + 60), "begins in 1 min 0 s"),
        (PROBLEM, replace(healthy(), papers=UNSEEN, papers_problem="is no certificate"), "no certificate"),
        (SKIPPED, replace(NOT_RUNNING, papers=UNSEEN), "dark"),
        (SKIPPED, replace(NOT_RUNNING, papers=None), "in no network"),
    ],
    "membership.revocations": [
        (OK, healthy(), "revocation list 3, 5 s old"),
        (OK, NOT_RUNNING, "revocation list 3"),
        (NOTE, member_with(revocation_list=0), "no revocation list"),
        (WARNING, papers_with(list_until=NOW - DAY), "1 d 0 h past its date"),
        (SKIPPED, replace(NOT_RUNNING, papers=UNSEEN), "dark"),
        (SKIPPED, replace(NOT_RUNNING, papers=None), "in no network"),
    ],
    "membership.renewal": [
        (OK, healthy(), "this machine"),
        (NOTE, member_with(renews_for=None), "nobody"),
        (SKIPPED, node_with(network=None), "in no network"),
        (SKIPPED, NOT_RUNNING, "no client"),
        (SKIPPED, replace(NOT_RUNNING, papers=None), "in no network"),
    ],
    "membership.warnings": [
        (OK, healthy(), "nothing to warn of in network home"),
        (WARNING, member_with(warnings=["this machine is revoked"]), "this machine is revoked"),
        (SKIPPED, node_with(network=None), "in no network"),
        (SKIPPED, NOT_RUNNING, "no client"),
        (SKIPPED, replace(NOT_RUNNING, papers=None), "in no network"),
    ],
    "membership.names": [
        (OK, names_with(), "names below .mesh are resolved at 10.77.0.1; asked by: resolved"),
        (OK, names_with(host="none", advice="by hand [names.no-resolved]"), "asked by: none"),
        (NOTE, names_with(host="none", advice="not taken [names.resolved]"), "not every program"),
        (NOTE, names_with(advice="names other servers [names.unasked]"), "not every program of this"),
        (NOTE, names_with(host="none", advice="[names.no-resolved] [names.resolved]"), "not every program"),
        (OK, names_with(host="none", advice="ask by hand: dig @10.77.0.1 alice.mesh"), "asked by: none"),
        (
            WARNING,
            names_with(problem="port 53 of 10.77.0.1: taken"),
            "not resolved: port 53 of 10.77.0.1: taken",
        ),
        (SKIPPED, healthy(), "names.serve is off"),
        (SKIPPED, NOT_RUNNING, "no client"),
    ],
    "clock.skew": [
        (OK, healthy(), "within 0.2 s"),
        (OK, relay_with(clock_skew=200.0, clock_error=190.0), "agrees"),
        (NOTE, relay_with(clock_skew=-60.0), "1 min 0 s behind that of relay relay.example.net"),
        (WARNING, replace(relay_with(clock_skew=4000.0), papers=None), "1 h 6 min ahead of"),
        (PROBLEM, relay_with(clock_skew=4000.0), "dates of certificates"),
        (PROBLEM, member_with(clock_behind=500.0), "at least 8 min 20 s behind"),
        (SKIPPED, relay_with(clock_skew=None), "no relay has told"),
        (SKIPPED, UNASKED, "dark"),
    ],
    "clock.ntp": [
        (OK, healthy(), "synchronised"),
        (NOTE, machine_with(synchronised=False), "not synchronised"),
        (SKIPPED, machine_with(synchronised=None), "does not tell"),
    ],
    "dns.relays": [
        (OK, healthy(), "relay.example.net is 192.0.2.1"),
        (OK, replace(healthy(), names=()), "by addresses"),
        (
            WARNING,
            replace(healthy(), names=(Lookup(host="a", problem="no such name"), Lookup(host="b"))),
            "a: no such name",
        ),
        (PROBLEM, replace(healthy(), names=(Lookup(host="a", problem="no such name"),)), "a: no such name"),
        (
            PROBLEM,
            replace(healthy(), names=(Lookup(host="a", addresses=("10.77.0.9",)),)),
            "the overlay itself",
        ),
        (SKIPPED, replace(healthy(), names=UNSEEN), "dark"),
    ],
    "relay.reachable": [
        (OK, healthy(), "relay.example.net:4433 answers"),
        (WARNING, relay_with(SECOND), "192.0.2.9:4433: nothing answered"),
        (PROBLEM, net_with(relays=[SECOND]), "no relay is connected"),
        (SKIPPED, net_with(relays=[]), "no relay in the configuration"),
        (SKIPPED, UNASKED, "dark"),
    ],
    "relay.admitted": [
        (OK, healthy(), "admits us"),
        (PROBLEM, relay_with(state="waiting", last_error=REFUSED), "does not admit your NodeID"),
        (SKIPPED, relay_with(state="waiting", last_error=ASKS), "no relay is connected"),
        (SKIPPED, relay_with(state="waiting", last_error=ENDED), "no relay is connected"),
        (SKIPPED, UNASKED, "dark"),
    ],
    "relay.identity": [
        (OK, healthy(), "has the pinned NodeID"),
        (PROBLEM, relay_with(state="waiting", last_error=OTHER), "another identity"),
        (PROBLEM, relay_with(state="waiting", last_error=ASKS), "another identity"),
        (SKIPPED, relay_with(state="waiting"), "no relay is connected"),
        (SKIPPED, UNASKED, "dark"),
    ],
    "relay.quality": [
        (OK, healthy(), "little loss"),
        (WARNING, relay_with(loss=0.2), "loses 20%"),
        (WARNING, relay_with(load=95), "95% loaded"),
        (SKIPPED, relay_with(state="waiting"), "no relay is connected"),
        (SKIPPED, UNASKED, "dark"),
    ],
    "udp.works": [
        (OK, healthy(), "1200 bytes pass"),
        (
            WARNING,
            replace(
                relay_with(transport="tcp"),
                netcheck=replace(BLOCKED, relays=[replace(SECOND, transport="tcp")]),
            ),
            "over TCP only",
        ),
        (PROBLEM, replace(healthy(), netcheck=BLOCKED), "no relay answers by UDP"),
        (PROBLEM, net_with(udp="no network"), "no network"),
        (SKIPPED, UNASKED, "dark"),
    ],
    "udp.nat": [
        (OK, healthy(), "no NAT"),
        (OK, net_with(nat=NatStatus(mapped="203.0.113.9:1")), "the router maps"),
        (NOTE, net_with(nat=NatStatus(mapping="address-and-port-dependent")), "symmetric"),
        (SKIPPED, net_with(nat=NatStatus()), "not known"),
        (SKIPPED, UNASKED, "dark"),
    ],
    "mtu.interface": [
        (OK, healthy(), "MTU 1380"),
        (WARNING, links_with(Link(name="smesh0", mtu=9000)), "has MTU 9000, and the client gave it 1380"),
        (SKIPPED, NOT_RUNNING, "no client"),
        (SKIPPED, NO_LINKS, "dark"),
    ],
    "mtu.underlay": [
        (OK, healthy(), "eth0 has MTU 1500"),
        (NOTE, links_with(Link(name="eth0", mtu=1400)), "eth0 has MTU 1400: large frames"),
        (WARNING, links_with(Link(name="eth0", mtu=1124)), "less than IPv6 demands"),
        (SKIPPED, without_link("eth0"), "no interface below"),
        (SKIPPED, NO_LINKS, "dark"),
    ],
    "mtu.relay_paths": [
        (OK, healthy(), "full-size frames (1437 bytes)"),
        (NOTE, budget_of("relay", 1436), "in fragments to bob by this (1436 bytes)"),
        (WARNING, budget_of("relay", 1024), "less than 1200 bytes pass"),
        (SKIPPED, budget_of("local", 1472), "no relay path"),
        (SKIPPED, NOT_RUNNING, "no client"),
    ],
    "mtu.direct_paths": [
        (OK, healthy(), "full-size frames (1428 bytes)"),
        (NOTE, budget_of("observed", 1427), "in fragments to bob by this (1427 bytes)"),
        (WARNING, budget_of("static", 1024), "less than 1200 bytes pass"),
        (SKIPPED, budget_of("relay", 1472), "no direct path"),
        (SKIPPED, NOT_RUNNING, "no client"),
    ],
    "interface.device": [
        (OK, healthy(), "smesh0 is up"),
        (OK, stopped(without_link("smesh0")), "the name smesh0 is free"),
        (PROBLEM, without_link("smesh0"), "there is no interface smesh0"),
        (PROBLEM, links_with(Link(name="smesh0", up=False)), "is down"),
        (PROBLEM, NOT_RUNNING, "of somebody else"),
        (SKIPPED, replace(healthy(), status=UNSEEN), "dark"),
        (SKIPPED, NO_LINKS, "dark"),
    ],
    "routes.overlap": [
        (OK, healthy(), "no other interface"),
        (OK, way_to("10.78.0.0/16"), "no other interface"),
        (OK, way_to("fd77::/64"), "no other interface"),
        (NOTE, way_to("10.0.0.0/8"), "10.0.0.0/8 by wg0 has the overlay's prefix in it"),
        (PROBLEM, way_to("10.77.0.0/24"), "10.77.0.0/24 by wg0 leads elsewhere"),
        (PROBLEM, way_to("10.77.0.2/32"), "10.77.0.2/32 by wg0 leads elsewhere"),
        (
            PROBLEM,
            replace(
                way_to("192.168.5.0/24"),
                status=replace(
                    running(), routes=[RouteStatus(to="192.168.5.0/24", via="bob", metric=1, state="waiting")]
                ),
            ),
            "192.168.5.0/24 by wg0 leads elsewhere",
        ),
        (SKIPPED, replace(healthy(), status=UNSEEN, config=UNSEEN), "not known"),
        (SKIPPED, NO_LINKS, "dark"),
    ],
    "routes.vpn": [
        (OK, healthy(), "no other VPN"),
        (NOTE, links_with(Link(name="office", kind="wireguard")), "office"),
        (NOTE, links_with(Link(name="tailscale0", kind="tun")), "tailscale0"),
        (OK, links_with(Link(name="wg0", up=False)), "no other VPN"),
        (SKIPPED, NO_LINKS, "dark"),
    ],
    "firewall.host": [
        (OK, healthy(), "no rule"),
        (NOTE, walled(), "rule 2 of inet host in (drop); yet relays answer"),
        (
            NOTE,
            replace(healthy(), netcheck=BLOCKED, firewall=HostFirewall(ruleset=(), legacy=True)),
            "former",
        ),
        (WARNING, walled(netcheck=UNSEEN), "may drop our UDP"),
        (PROBLEM, walled(netcheck=BLOCKED), "drops our UDP: rule 2 of inet host in (drop)"),
        (SKIPPED, replace(healthy(), firewall=UNSEEN), "dark"),
    ],
    "network.ipv6": [
        (OK, healthy(), "no way out by IPv6"),
        (OK, net_with(ipv6="works"), "reached by IPv6"),
        (NOTE, kernel_with(ipv6=False), "IPv6 off"),
        (
            WARNING,
            replace(node_with(addresses=["fd77::1/64"]), kernel=kernel_with(ipv6=False).kernel),
            "overlay has",
        ),
        (SKIPPED, UNASKED, "dark"),
    ],
}
EACH = [(name, *case) for name, cases in CASES.items() for case in cases]


@pytest.mark.parametrize(("name", "result", "facts", "text"), EACH)
def test_what_each_check_says(name: str, result: Result, facts: Facts, text: str) -> None:
    verdict = CHECKS[name].function(facts)
    assert (verdict.result, text in verdict.found) == (result, True), verdict
    assert verdict.result in (OK, SKIPPED, NOTE) or verdict.remedy, "who is warned must know what to do"
    assert "\n" not in verdict.found + verdict.remedy
    assert examine(facts).result.weight >= result.weight


def test_each_result_of_each_check_is_provoked() -> None:
    provoked = {name: {result for result, *_ in cases} for name, cases in CASES.items()}
    assert provoked == {name: set(entry.results) for name, entry in CHECKS.items()}
