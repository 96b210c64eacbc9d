"""The client's configuration: `client.yaml` -> frozen structs.

Reads a file and nothing else: no identity is loaded, no name resolved, no device touched.
Reference for people: docs/configuration.md; examples: configs/.
"""

from __future__ import annotations

import ipaddress
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn, TypeVar, cast

import msgspec

from shadowmesh.errors import ConfigError, Failure
from shadowmesh.observing import LogSection, log_section, metrics_address, tracing_url
from shadowmesh.rules import FirewallSection, check_rules, parse_group, parse_tag, read_firewall
from shadowmesh.spelling import did_you_mean
from shadowmesh.units import REKEY_AFTER, RIGHTS, Address, NodeId
from shadowmesh.values import (
    ANY_TLS,
    EXAMPLE_NODE_ID,
    one_of,
    parse_domain,
    parse_endpoint,
    parse_host_port,
    parse_interface_address,
    parse_interface_name,
    parse_listen_address,
    parse_name,
    parse_node_id,
    parse_overlay_address,
    parse_path,
    parse_proxy,
    parse_route,
    parse_socket_path,
    parse_system_group,
    parse_tcp,
    parse_tls,
)

if TYPE_CHECKING:
    from shadowmesh.document import Document, Section

T = TypeVar("T")

DEFAULT_STATE_DIR = "/var/lib/shadowmesh"
DEFAULT_SOCKET = "/run/shadowmesh/shadowmesh.sock"

MIN_MTU = 576
"""RFC 791: what every IPv4 host takes."""

MIN_IPV6_MTU = 1280
"""RFC 8200 section 5: Linux drops IPv6 from a device with less."""

MAX_MTU = 65500
"""An Ethernet header and an 802.1Q tag more must fit the 65535 bytes of a frame payload."""

MAX_PEER_ROUTES = 32
"""As in a certificate."""

MAX_PEER_ADDRESSES = 64
"""Together with those of a certificate they fit the data plane's table of 160 prefixes a peer."""

MAX_BROADCAST = 1_000_000
"""Packets a second: more than the data plane carries, so this much is as good as no limit."""

DEFAULT_METRIC = 1024
"""Of a route: the kernel's default for IPv6, and behind those of local networks, which stay preferred."""

MIN_REKEY_SECONDS = 2
"""Sessions leave 1 s between two rekeys."""

MAX_REKEY_SECONDS = 240
"""A minute is left for the rekey before keys of 300 s (units.EPOCH_LIFETIME) seal nothing any more."""


class NodeSection(msgspec.Struct, frozen=True):
    """`node:` who this is and where its files are."""

    name: str
    state_dir: Path
    socket: Path
    socket_group: str | None = None
    """Whose members may open it as well, and only read."""


class Listen(msgspec.Struct, frozen=True):
    """`listen:` the UDP socket; port 0 lets the kernel choose."""

    address: str
    port: int


class Broadcast(msgspec.Struct, frozen=True):
    """`interface.broadcast:` packets a second, and at once, to everybody: from here, and from each peer."""

    rate: int = 500
    """Ten times what a talkative network of some hundred members sends (mDNS, SSDP, DHCP, ARP), and little
    enough that a storm of one member costs the others a percent."""
    burst: int = 1000


class Interface(msgspec.Struct, frozen=True):
    """`interface:` the TAP device; addresses are "ADDRESS/PREFIX LENGTH"."""

    name: str
    addresses: tuple[str, ...]
    mtu: int | Literal["auto"]
    broadcast: Broadcast = Broadcast()
    bridge: str | None = None
    """The Linux bridge that it is a port of."""
    vlans: tuple[int, ...] = ()
    """Of tagged frames only these are carried; empty: all."""


class RelayPeer(msgspec.Struct, frozen=True):
    """One of `relays:`; host is a name or a literal address without brackets, id 32 bytes."""

    host: str
    port: int
    id: NodeId
    token_file: Path | None = None
    """Holds the token by which it admits us."""
    tcp: Address | None = None
    """Where it is reached by a WebSocket over TLS when UDP is blocked; host as above."""
    proxy: str = "auto"
    """"auto" (from the environment), "off", or the URL of an HTTP proxy for that."""
    tls: str = ANY_TLS
    """What the certificate there must be: `ANY_TLS`, `VERIFIED_TLS`, or "sha256//" and the key's hash."""


class Peer(msgspec.Struct, frozen=True):
    """One of `peers:`; addresses are those it has on the overlay, without prefix length."""

    name: str
    id: NodeId
    addresses: tuple[str, ...]
    endpoint: Address | None = None
    """Where it is reached directly, with `paths: {direct: static}`."""
    groups: tuple[str, ...] = ()
    """That rules of the firewall may name."""
    rights: tuple[str, ...] = ()
    """What it may send besides what its certificate, if it has one, lets it."""
    routes: tuple[str, ...] = ()
    """Prefixes behind it that it may carry, where no certificate says so."""


class Route(msgspec.Struct, frozen=True):
    """One of `routes:`; `to` is a prefix behind the member `via`, a name or a NodeID."""

    via: str
    to: str
    metric: int


class Paths(msgspec.Struct, frozen=True):
    """`paths:` which paths besides relays may be used."""

    direct: Literal["auto", "never", "static"]
    port_mapping: Literal["auto", "off"] = "auto"


class SessionSection(msgspec.Struct, frozen=True):
    """`session:` how long the keys of a session serve."""

    rekey_seconds: int = REKEY_AFTER


class NetworkSection(msgspec.Struct, frozen=True):
    """`network:` the public file of the network that this machine is a member of, and its certificate."""

    file: Path
    certificate: Path
    connect: Literal["auto", "eager", "demand"] = "auto"
    """When sessions with members that `peers:` does not list are made."""
    delegation: Path | None = None
    """By which this machine renews the certificates of other members."""


class NamesSection(msgspec.Struct, frozen=True):
    """`names:` the resolver of members' names, and who on this machine asks it."""

    domain: str = "mesh"
    serve: Literal["host", "off"] = "host"
    host: Literal["auto", "resolv.conf", "none"] = "auto"


class ClientConfig(msgspec.Struct, frozen=True):
    """All of client.yaml, checked."""

    node: NodeSection
    listen: Listen
    interface: Interface
    relays: tuple[RelayPeer, ...]
    peers: tuple[Peer, ...]
    paths: Paths
    session: SessionSection = SessionSection()
    network: NetworkSection | None = None
    firewall: FirewallSection | None = None
    """None lets everything pass."""
    routes: tuple[Route, ...] = ()
    aead_library: Path | None = None
    """A BoringSSL-class libcrypto that seals and opens frame packets instead of OpenSSL's."""
    metrics: Address | Path | None = None
    """Where Prometheus reads, on this machine."""
    log: LogSection = LogSection()
    tracing: str | None = None
    """URL of the collector that gets traces."""
    names: NamesSection = NamesSection()
    file: str = "the configuration"
    """What errors call it: the path as it was given."""


KEYS = tuple(name for name in ClientConfig.__struct_fields__ if name != "file")
_NODE_KEYS = ("name", "state_dir", "socket", "socket_group")
_INTERFACE_KEYS = ("name", "addresses", "mtu", "broadcast", "bridge", "vlans")


def load_client_config(path: Path) -> ClientConfig:
    """Read and check client.yaml. Raises ConfigError with a line for each mistake."""
    from shadowmesh.document import Document  # the YAML parser: verbs that need only our defaults skip it

    return read_client_config(Document.load(path))


def read_client_config(document: Document) -> ClientConfig:
    """The same of a text that is not in its file yet."""
    top = document.section(KEYS)
    interface = top.section("interface", _INTERFACE_KEYS)
    relays = top.sections("relays", ("address", "id", "tcp", "proxy", "tls", "token_file"))
    peers = top.sections("peers", ("name", "id", "addresses", "endpoint", "groups", "rights", "routes"))
    routes = top.sections("routes", ("via", "to", "metric"))
    members = tuple(_peer(peer) for peer in peers)
    node = _node(top.section("node", _NODE_KEYS))
    firewall = (
        top.section("firewall", ("inbound", "outbound", "rules", "tests")) if top.has("firewall") else None
    )
    config = ClientConfig(
        node=node,
        listen=_listen(top.section("listen", ("address", "port"))),
        interface=_interface(interface),
        relays=tuple(_relay(relay) for relay in relays),
        peers=members,
        paths=_paths(top.section("paths", ("direct", "port_mapping"))),
        session=_session(top.section("session", ("rekey_seconds",))),
        network=_network(top),
        firewall=read_firewall(firewall, _peer_parser(node.name, members, top.has("network")))
        if firewall
        else None,
        routes=tuple(_route(route) for route in routes),
        aead_library=top.text("aead_library", parse_path, "/usr/lib/android/libcrypto.so.0", None),
        metrics=metrics_address(top),
        log=log_section(top),
        tracing=tracing_url(top),
        names=_names(top.section("names", ("domain", "serve", "host"))),
        file=document.file,
    )
    document.finish()
    if not relays and config.network is None:
        example = f'[{{address: "relay.example.net:4433", id: {EXAMPLE_NODE_ID}}}]'
        top.refuse("relays", "at least one relay is needed to meet the peers", example, "config.no-relay")
    _refuse_small_mtu(config, interface)
    _refuse_bridge_keys(config, interface)
    _refuse_repeats(config, relays, peers)
    _refuse_own_domain(config, relays)
    _check_routes(config, routes, peers)
    if firewall and config.firewall:
        check_rules(firewall, config.firewall)
    document.finish()
    return config


def refuse_bridge(config: ClientConfig, problem: str) -> NoReturn:
    """Raise ConfigError for `interface.bridge`, with its line, for a reason that takes more than the file."""
    _refuse_later(config, "interface", _INTERFACE_KEYS, "bridge", problem, "config.bridge")


def refuse_group(config: ClientConfig, problem: str) -> NoReturn:
    """The same for `node.socket_group`."""
    _refuse_later(config, "node", _NODE_KEYS, "socket_group", problem, "config.group")


def _refuse_later(
    config: ClientConfig, section: str, keys: tuple[str, ...], key: str, problem: str, error_id: str
) -> NoReturn:
    from shadowmesh.document import Document

    document = Document.load(Path(config.file))
    document.section(KEYS).section(section, keys).refuse(key, problem, error_id=error_id)
    document.finish()
    # The file has changed meanwhile.
    raise ConfigError(f"{config.file}: {section}.{key}: {problem}", error_id)


def refuse_own_id(config: ClientConfig, own: NodeId) -> None:
    """Raise ConfigError if this machine is among its own relays or peers."""
    relays = [("relays", index, "relay", relay.id) for index, relay in enumerate(config.relays)]
    peers = [("peers", index, "peer", peer.id) for index, peer in enumerate(config.peers)]
    for key, index, whose, node_id in relays + peers:
        if node_id == own:
            problem = f"is this machine's own NodeID; put that of the {whose} there"
            raise ConfigError(f"{config.file}: {key}[{index}].id: {problem}", "config.own-id")


def doubts(config: ClientConfig, identity_name: str | None = None) -> list[Failure]:
    """What is allowed and yet looks like a mistake, one line each.

    :param identity_name: the name that the identity was made with, None if that isn't known.
    """
    found = []
    # In a network the certificate says what a member is called.
    if config.network is None and identity_name not in (None, config.node.name):
        made = f"the identity in {config.node.state_dir} was made for {identity_name}"
        text = f"{config.file}: node.name: is {config.node.name}, but {made}; is it the right one?"
        found.append(Failure("config.doubtful", text))
    networks = [ipaddress.ip_interface(text).network for text in config.interface.addresses]
    for index, peer in enumerate(config.peers):
        for address in peer.addresses:
            ip = ipaddress.ip_address(address)
            if networks and not ip.is_link_local and not any(ip in network for network in networks):
                text = (
                    f"{config.file}: peers[{index}].addresses: {address} is in no network of "
                    f"interface.addresses, so it needs a route of its own to be reached"
                )
                found.append(Failure("config.doubtful", text))
    return found


def _node(section: Section) -> NodeSection:
    return NodeSection(
        name=section.text("name", parse_name, "alice"),
        state_dir=section.text("state_dir", parse_path, DEFAULT_STATE_DIR, Path(DEFAULT_STATE_DIR)),
        socket=section.text("socket", parse_socket_path, DEFAULT_SOCKET, Path(DEFAULT_SOCKET)),
        socket_group=section.text("socket_group", parse_system_group, "shadowmesh", None),
    )


def _listen(section: Section) -> Listen:
    return Listen(
        address=section.text("address", parse_listen_address, '"::"', "::"),
        port=section.number("port", 0, 65535, default=0),
    )


def _interface(section: Section) -> Interface:
    return Interface(
        name=section.text("name", parse_interface_name, "smesh0", "smesh0"),
        addresses=section.texts("addresses", parse_interface_address, '10.77.0.1/24, "fd77::1/64"'),
        mtu=cast("int | Literal['auto']", section.number_or_word("mtu", MIN_MTU, MAX_MTU, "auto", "1380")),
        broadcast=_broadcast(section.section("broadcast", ("rate", "burst"))),
        bridge=section.text("bridge", parse_interface_name, "br0", None),
        vlans=section.words("vlans", parse_tag, "[10, 20]"),
    )


def _broadcast(section: Section) -> Broadcast:
    usual = Broadcast()
    rate = section.number("rate", 1, MAX_BROADCAST, default=usual.rate)
    return Broadcast(rate, section.number("burst", 1, MAX_BROADCAST, default=usual.burst))


def _relay(section: Section) -> RelayPeer:
    address = section.text("address", parse_host_port, '"relay.example.net:4433"')
    host, port = after_refusal(address)
    return RelayPeer(
        host=host,
        port=port,
        id=section.text("id", parse_node_id, EXAMPLE_NODE_ID),
        token_file=section.text("token_file", parse_path, "/etc/shadowmesh/relay.token", None),
        tcp=section.text("tcp", parse_tcp, '"relay.example.net:443"', None),
        proxy=section.text("proxy", parse_proxy, '"http://proxy.example.net:3128"', "auto"),
        tls=section.text("tls", parse_tls, "verify", ANY_TLS),
    )


def _peer(section: Section) -> Peer:
    addresses = section.texts("addresses", parse_overlay_address, '10.77.0.2, "fd77::2"')
    if len(addresses) > MAX_PEER_ADDRESSES:
        section.refuse("addresses", f"at most {MAX_PEER_ADDRESSES}, not {len(addresses)}")
    routes = section.texts("routes", parse_route, "192.168.5.0/24")
    if len(routes) > MAX_PEER_ROUTES:
        section.refuse("routes", f"at most {MAX_PEER_ROUTES}, not {len(routes)}")
    return Peer(
        name=section.text("name", parse_name, "bob"),
        id=section.text("id", parse_node_id, EXAMPLE_NODE_ID),
        addresses=addresses,
        endpoint=section.text("endpoint", parse_endpoint, '"192.0.2.7:4400"', None),
        groups=section.words("groups", parse_group, "[admin]"),
        rights=section.words("rights", one_of(*RIGHTS), "[dhcp]"),
        routes=routes,
    )


def _route(section: Section) -> Route:
    return Route(
        via=section.text("via", _parse_via, "bob"),
        to=section.text("to", parse_route, "192.168.5.0/24"),
        metric=section.number("metric", 1, (1 << 32) - 1, default=DEFAULT_METRIC),
    )


def _parse_via(text: str) -> str:
    return text.lower() if len(text) == 52 and parse_node_id(text) else parse_name(text)


def _peer_parser(own: str, peers: tuple[Peer, ...], network: bool) -> Callable[[str], str]:
    """For rules of the firewall: a name or NodeID of one of these peers, as its name.

    In a network it may be that of a member which nobody has met yet; a NodeID is kept in lower case then.
    """
    by_id = {peer.id: peer.name for peer in peers}

    def parse(text: str) -> str:
        if text in by_id.values():
            return text
        if text == own:
            raise ValueError(f"{text} is this machine itself; rules are about the other side")
        if len(text) == 52:
            name = by_id.get(parse_node_id(text), text.lower() if network else None)
            if name is None:
                raise ValueError("no peer has this NodeID; list it under peers")
            return name
        if network:
            return parse_name(text)
        raise ValueError(
            f"no peer is called {text!r}; {did_you_mean(text, by_id.values(), 'list it under peers')}"
        )

    return parse


def _paths(section: Section) -> Paths:
    direct = section.text("direct", one_of("auto", "never", "static"), "auto", "auto")
    mapping = section.text("port_mapping", one_of("auto", "off"), "auto", "auto")
    return Paths(
        direct=cast("Literal['auto', 'never', 'static']", direct),
        port_mapping=cast("Literal['auto', 'off']", mapping),
    )


def _session(section: Section) -> SessionSection:
    seconds = section.number("rekey_seconds", MIN_REKEY_SECONDS, MAX_REKEY_SECONDS, default=REKEY_AFTER)
    return SessionSection(rekey_seconds=seconds)


def _network(top: Section) -> NetworkSection | None:
    if not top.has("network"):
        return None
    section = top.section("network", ("file", "certificate", "delegation", "connect"))
    connect = section.text("connect", one_of("auto", "eager", "demand"), "auto", "auto")
    return NetworkSection(
        file=section.text("file", parse_path, "/etc/shadowmesh/home.pem"),
        certificate=section.text("certificate", parse_path, "/etc/shadowmesh/certificate.pem"),
        connect=cast("Literal['auto', 'eager', 'demand']", connect),
        delegation=section.text("delegation", parse_path, "/etc/shadowmesh/delegation.pem", None),
    )


def _names(section: Section) -> NamesSection:
    serve = section.text("serve", one_of("host", "off"), "off", "host")
    host = section.text("host", one_of("auto", "resolv.conf", "none"), "auto", "auto")
    return NamesSection(
        domain=section.text("domain", parse_domain, "mesh", "mesh"),
        serve=cast("Literal['host', 'off']", serve),
        host=cast("Literal['auto', 'resolv.conf', 'none']", host),
    )


def names_a_member(names: NamesSection, host: str) -> bool:
    """Whether this is a name that only a network that is up already could resolve."""
    return names.serve != "off" and f".{host.lower().rstrip('.')}".endswith(f".{names.domain}")


def _refuse_own_domain(config: ClientConfig, relays: list[Section]) -> None:
    """What leads to the network can't be looked up in it."""
    if not config.names.domain:
        return  # refused already
    for section, relay in zip(relays, config.relays, strict=True):
        proxy = urllib.parse.urlsplit(relay.proxy or "").hostname or ""
        hosts = {"address": relay.host, "tcp": relay.tcp.host if relay.tcp else "", "proxy": proxy}
        for key, host in hosts.items():
            if names_a_member(config.names, host):
                section.refuse(
                    key,
                    f"{host} is in our own domain {config.names.domain}, which nobody can resolve before the "
                    f"relay is reached; name an address or another name, or set another names.domain",
                    error_id="config.own-domain",
                )


def after_refusal(host_port: tuple[str, int] | None) -> tuple[str, int]:
    """A refused value reads as None whatever its type says; this one is about to be taken apart."""
    return host_port or ("", 0)


def _refuse_small_mtu(config: ClientConfig, section: Section) -> None:
    small = config.interface.mtu != "auto" and config.interface.mtu < MIN_IPV6_MTU
    if small and any(":" in address for address in config.interface.addresses):
        section.refuse("mtu", f"an IPv6 address needs at least {MIN_IPV6_MTU}", "1380")


def _check_routes(config: ClientConfig, routes: list[Section], peers: list[Section]) -> None:
    """Each once, of one metric per prefix, outside the overlay, by a gateway that there can be."""
    seen: dict[tuple[str, str], str] = {}
    metrics: dict[str, tuple[int, str]] = {}
    own = [ipaddress.ip_interface(text).network for text in config.interface.addresses]
    parse = _peer_parser(config.node.name, config.peers, False)
    for section, route in zip(routes, config.routes, strict=True):
        if not route.to or not route.via:
            continue  # refused already
        refuse_repeat(section, "to", (route.to, route.via), seen)
        metric, where = metrics.setdefault(route.to, (route.metric, section.path("metric")))
        if metric != route.metric:
            section.refuse("metric", f"is not that of {where}; a prefix has one metric", str(metric))
        prefix = ipaddress.ip_network(route.to)
        if any(net.version == prefix.version and prefix.overlaps(net) for net in own):
            section.refuse("to", f"{route.to} overlaps interface.addresses; the overlay needs no route")
        if config.network is None:
            try:
                parse(route.via)
            except ValueError as error:
                section.refuse("via", str(error))
    for section, peer in zip(peers, config.peers, strict=True):
        if peer.routes and config.network is not None:
            section.refuse("routes", "in a network, the peer's certificate says what it may carry; remove it")


def _refuse_bridge_keys(config: ClientConfig, section: Section) -> None:
    if config.interface.bridge == config.interface.name:
        section.refuse("bridge", "is interface.name; name the bridge that it becomes a port of", "br0")
    if section.has("vlans") and not config.interface.vlans:
        section.refuse("vlans", "names none; leave it out to carry all", "[10, 20]")
    if section.has("vlans") and config.interface.bridge is None:
        section.refuse("vlans", "is for a bridge only, and there is no interface.bridge")


def _refuse_repeats(config: ClientConfig, relays: list[Section], peers: list[Section]) -> None:
    """Names, ids and overlay addresses must each lead to one node."""
    ids: dict[NodeId, str] = {}
    names = {config.node.name: "node.name"}
    addresses = {text.partition("/")[0]: "interface.addresses" for text in config.interface.addresses}
    for section, relay in zip(relays, config.relays, strict=True):
        refuse_repeat(section, "id", relay.id, ids)
    for section, peer in zip(peers, config.peers, strict=True):
        refuse_repeat(section, "name", peer.name, names)
        refuse_repeat(section, "id", peer.id, ids)
        for address in peer.addresses:
            refuse_repeat(section, "addresses", address, addresses)


def refuse_repeat(section: Section, key: str, value: T, seen: dict[T, str]) -> None:
    """Refuse a value that `seen` (value -> where) has already, else note it there."""
    if value in seen:
        shown = f"{value} " if isinstance(value, str) else ""
        section.refuse(key, f"{shown}is the same as at {seen[value]}; each must be given once")
    seen.setdefault(value, section.path(key))
