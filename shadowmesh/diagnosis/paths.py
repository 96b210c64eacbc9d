"""Checks of MTU, interface, routes, firewall of the host, IPv6. Pure functions of the facts."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from shadowmesh.api.schema import PathStatus
from shadowmesh.diagnosis.facts import Facts, Link, Unseen, Way
from shadowmesh.diagnosis.findings import Result, Verdict, check, listed, note, ok, problem, skipped, warning
from shadowmesh.diagnosis.nftables import dropping
from shadowmesh.units import CHANNEL_OVERHEAD, FRAME_PACKET_OVERHEAD, MAX_QUIC_DATAGRAM
from shadowmesh.values import parse_host_port

OK, SKIPPED, NOTE, WARNING, PROBLEM = Result

SMALLEST_MTU, USUAL_MTU = 1280, 1500
"""Bytes: what IPv6 demands of every link (RFC 8200 section 5), and Ethernet's."""
FRAME_HEAD, SEGMENT_HEAD = 14, 5
"""Bytes before the packet in a frame, and of our header of a segment."""
VPN_KINDS = frozenset({"wireguard", "tun", "ppp", "xfrm", "vti", "ipip", "gre", "sit", "ip6tnl", "l2tp"})
VPN_NAMES = ("tailscale", "zt", "nebula", "wt", "wg", "tun", "tap", "tinc", "ppp")

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


@check("mtu.interface", OK, WARNING, SKIPPED)
def interface_mtu(facts: Facts) -> Verdict:
    """The overlay interface, as the client made it."""
    if isinstance(facts.status, Unseen):
        return skipped(facts.status)
    if isinstance(facts.surroundings, Unseen):
        return skipped(facts.surroundings)
    node = facts.status.node
    link = next((one for one in facts.surroundings.links if one.name == node.interface), None)
    if link is not None and link.mtu != node.mtu:
        text = f"{node.interface} has MTU {link.mtu}, and the client gave it {node.mtu}"
        return warning(text, "set interface.mtu instead, and restart; who has changed it?")
    return ok(f"{node.interface} has MTU {node.mtu}")


@check("mtu.underlay", OK, NOTE, WARNING, SKIPPED)
def underlay_mtu(facts: Facts) -> Verdict:
    """The links below."""
    if isinstance(facts.surroundings, Unseen):
        return skipped(facts.surroundings)
    out = {way.device for way in facts.surroundings.ways if _prefix(way.to).prefixlen == 0}
    links = [one for one in _underlay(facts) if one.name in out or not out]
    small = [one for one in links if one.mtu < USUAL_MTU]
    if not links:
        return skipped("there is no interface below that is up")
    text = listed(f"{one.name} has MTU {one.mtu}" for one in small or links)
    if any(one.mtu < SMALLEST_MTU for one in small):
        return warning(f"{text}, less than IPv6 demands", "raise it, if it is not meant")
    return (
        note(f"{text}: large frames go in fragments", "interface.mtu, on all members") if small else ok(text)
    )


@check("mtu.relay_paths", OK, NOTE, WARNING, SKIPPED)
def relay_paths(facts: Facts) -> Verdict:
    """Whether relay paths carry full-size frames."""
    return _budgets(facts, relayed=True)


@check("mtu.direct_paths", OK, NOTE, WARNING, SKIPPED)
def direct_paths(facts: Facts) -> Verdict:
    """Whether direct paths carry full-size frames."""
    return _budgets(facts, relayed=False)


@check("interface.device", OK, PROBLEM, SKIPPED)
def device(facts: Facts) -> Verdict:
    """The overlay interface is there while the client runs, and free where it does not."""
    if isinstance(facts.surroundings, Unseen):
        return skipped(facts.surroundings)
    links = {one.name: one for one in facts.surroundings.links}
    if not isinstance(facts.status, Unseen):
        name = facts.status.node.interface
        if name not in links:
            return problem(
                f"there is no interface {name} here", "restart the client; look in its own namespace"
            )
        if not links[name].up:
            return problem(f"{name} is down", f"ip link set {name} up")
        return ok(f"{name} is up")
    if isinstance(facts.config, Unseen) or not facts.stopped:
        return skipped(facts.status)
    name = facts.config.interface.name
    if name in links:
        return problem(
            f"there is an interface {name} of somebody else", "set another interface.name, or remove it"
        )
    return ok(f"the name {name} is free")


@check("routes.overlap", OK, NOTE, PROBLEM, SKIPPED)
def overlap(facts: Facts) -> Verdict:
    """Routes of other interfaces to what is the overlay's."""
    if isinstance(facts.surroundings, Unseen):
        return skipped(facts.surroundings)
    prefixes, own = overlay(facts), _own_interface(facts)
    if not prefixes:
        return skipped("which prefixes are the overlay's is not known")
    foreign = [(way, _prefix(way.to)) for way in facts.surroundings.ways if way.device != own]
    inside = [way for way, to in foreign if any(_covers(ours, to) for ours in prefixes)]
    if inside:
        return problem(
            f"of {listed(map(str, prefixes))}, {listed(map(_way, inside))} leads elsewhere",
            "give the overlay another prefix, or take that route away",
        )
    wide = [way for way, to in foreign if to.prefixlen and any(_covers(to, ours) for ours in prefixes)]
    if wide:
        text = f"{listed(map(_way, wide))} has the overlay's prefix in it"
        return note(text, "the overlay's own route goes before while the client runs; is it meant?")
    return ok(f"no other interface has a route to {listed(map(str, prefixes))}")


@check("routes.vpn", OK, NOTE, SKIPPED)
def other_vpns(facts: Facts) -> Verdict:
    """Other virtual networks."""
    if isinstance(facts.surroundings, Unseen):
        return skipped(facts.surroundings)
    others = [one.name for one in _underlay(facts) if one.kind in VPN_KINDS or one.name.startswith(VPN_NAMES)]
    if others:
        return note(
            f"other VPNs are up: {listed(others)}", "if relays are reached through one, its MTU counts"
        )
    return ok("no other VPN is up")


@check("firewall.host", OK, NOTE, WARNING, PROBLEM, SKIPPED)
def host_firewall(facts: Facts) -> Verdict:
    """Rules of nftables that may drop our UDP."""
    if isinstance(facts.firewall, Unseen):
        return skipped(facts.firewall)
    found = dropping(facts.firewall.ruleset, _port(facts), _relay_ports(facts))
    works = not isinstance(facts.netcheck, Unseen) and facts.netcheck.udp == "works"
    if found:
        remedy = "let UDP of the client through: its port, and replies (ct state established)"
        if works:
            return note(f"may drop our UDP: {listed(found)}; yet relays answer", remedy)
        if not isinstance(facts.netcheck, Unseen):
            return problem(f"drops our UDP: {listed(found)}", remedy)
        return warning(f"may drop our UDP: {listed(found)}", remedy)
    if facts.firewall.legacy and not works:
        return note(
            "there are rules of the former iptables, which can't be read here", "iptables-legacy-save"
        )
    return ok("no rule of nftables is seen that drops our UDP")


@check("network.ipv6", OK, NOTE, WARNING, SKIPPED)
def ipv6(facts: Facts) -> Verdict:
    """IPv6 below, and in the overlay."""
    if not facts.kernel.ipv6:
        if any(prefix.version == 6 for prefix in overlay(facts)):
            text = "the kernel has IPv6 off, and the overlay has IPv6 addresses"
            return warning(text, "turn it on (net.ipv6.conf.all.disable_ipv6=0), or leave them out")
        return note("the kernel has IPv6 off", "nothing, if that is meant")
    if isinstance(facts.netcheck, Unseen):
        return skipped(facts.netcheck)
    said = {
        "works": "a relay is reached by IPv6",
        "not confirmed": "there is a way out by IPv6; no relay was reached by it",
        "no route": "there is no way out by IPv6, and none is needed",
    }
    return ok(said[facts.netcheck.ipv6])


def overlay(facts: Facts) -> list[IpNetwork]:
    """Prefixes of the overlay: of the interface, and of `routes`."""
    texts: list[str] = []
    if not isinstance(facts.status, Unseen):
        texts += facts.status.node.addresses
        texts += [route.to for route in facts.status.routes]
    elif not isinstance(facts.config, Unseen):
        texts += facts.config.interface.addresses
        texts += [route.to for route in facts.config.routes]
        if not isinstance(facts.papers, Unseen) and facts.papers is not None:
            texts += facts.papers.addresses
    return sorted({_prefix(text) for text in texts}, key=str)


def _budgets(facts: Facts, relayed: bool) -> Verdict:
    if isinstance(facts.status, Unseen):
        return skipped(facts.status)
    over = FRAME_HEAD + SEGMENT_HEAD + FRAME_PACKET_OVERHEAD + CHANNEL_OVERHEAD * relayed
    need = facts.status.node.mtu + over
    kind = "relay" if relayed else "direct"
    known = [
        (peer.name, path.path, path.budget)
        for peer in facts.status.peers
        for path in peer.paths
        if path.budget is not None and _concerns(path, relayed)
    ]
    small = [f"{name} by {path} ({budget} bytes)" for name, path, budget in known if budget < need]
    if not known:
        return skipped(f"no {kind} path is in use now")
    if not small:
        return ok(f"{kind} paths carry full-size frames ({need} bytes)")
    least = min(budget for _, _, budget in known)
    if least < MAX_QUIC_DATAGRAM:
        text = f"less than {MAX_QUIC_DATAGRAM} bytes pass to {listed(small)}"
        return warning(text, "find the link with the small MTU on the way; frames go in fragments meanwhile")
    text = f"full-size frames ({need} bytes) go in fragments to {listed(small)}"
    return note(text, f"interface.mtu {least - over} on all members saves them")


def _concerns(path: PathStatus, relayed: bool) -> bool:
    return path.state == "usable" and (path.kind == "relay") == relayed


def _own_interface(facts: Facts) -> str:
    if not isinstance(facts.status, Unseen):
        bridge = facts.status.node.bridge
        return facts.status.node.interface if bridge is None else bridge.name
    return "" if isinstance(facts.config, Unseen) else facts.config.interface.name


def _underlay(facts: Facts) -> Iterator[Link]:
    if not isinstance(facts.surroundings, Unseen):
        own = _own_interface(facts)
        yield from (one for one in facts.surroundings.links if one.up and one.name not in (own, "lo"))


def _port(facts: Facts) -> int:
    """Of our UDP socket; 0: not known."""
    if not isinstance(facts.status, Unseen):
        return parse_host_port(facts.status.node.listen)[1]
    return 0 if isinstance(facts.config, Unseen) else facts.config.listen.port


def _relay_ports(facts: Facts) -> frozenset[int]:
    if not isinstance(facts.netcheck, Unseen):
        return frozenset(parse_host_port(relay.address)[1] for relay in facts.netcheck.relays)
    if isinstance(facts.config, Unseen):
        return frozenset()
    return frozenset(relay.port for relay in facts.config.relays)


def _prefix(text: str) -> IpNetwork:
    return ipaddress.ip_network(text, strict=False)


def _covers(outer: IpNetwork, inner: IpNetwork) -> bool:
    if isinstance(outer, ipaddress.IPv4Network):
        return isinstance(inner, ipaddress.IPv4Network) and inner.subnet_of(outer)
    return isinstance(inner, ipaddress.IPv6Network) and inner.subnet_of(outer)


def _way(way: Way) -> str:
    return f"{way.to} by {way.device}"
