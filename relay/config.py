"""The relay's configuration: `relay.yaml` -> frozen structs.

Reads a file and nothing else; the values are checked by the parsers of `shadowmesh.config`.
Reference for people: docs/configuration.md; example: configs/relay.yaml.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import cast

import msgspec

from shadowmesh.config import after_refusal
from shadowmesh.document import Document, Section
from shadowmesh.observing import LogSection, log_section, metrics_address, tracing_url
from shadowmesh.units import Address, NodeId
from shadowmesh.values import (
    EXAMPLE_NODE_ID,
    parse_host_port,
    parse_listen_address,
    parse_name,
    parse_node_id,
    parse_path,
    parse_socket_path,
)

from .cluster_config import ClusterSection, cluster_section
from .hook import parse_hook
from .limits import Limits
from .steering import MOST_THREADS

DEFAULT_STATE_DIR = "/var/lib/shadowmesh-relay"
SOCKET_FILE = "relay.sock"
"""In the state directory, unless the configuration has another path."""
DEFAULT_LISTEN = "[::]:4433"
DEFAULT_WEBSOCKET = "[::]:443"
MAX_CONNECTIONS = 1024
"""TCP connections at once: each takes two descriptors and about 100 KB while it carries traffic."""
MAX_PER_ADDRESS = 64
"""Of these, of one address: an office behind one NAT, but no more."""

Prefix = ipaddress.IPv4Network | ipaddress.IPv6Network


class RelaySection(msgspec.Struct, frozen=True):
    """`relay:` who this is, where its files are, and its UDP socket."""

    name: str
    state_dir: Path
    host: str
    port: int
    second_port: int | None = None
    """Another UDP port, by which clients learn what their NATs do."""
    threads: int = 1
    """Of the forwarder; 0: one for each processor."""
    socket: Path = Path(DEFAULT_STATE_DIR) / SOCKET_FILE
    """Where the verbs reach the running relay."""


class Admission(msgspec.Struct, frozen=True):
    """`admission:` who may connect: everybody if `open`, else `nodes` and the members of `networks`."""

    open: bool
    nodes: frozenset[NodeId]
    networks: tuple[Path, ...] = ()
    """Public files of networks (`shadowmesh-client network export`)."""
    token_file: Path | None = None
    """Whoever holds a token in it may connect."""
    hook: str | None = None
    """URL of a program on this machine that is asked about everybody else."""


class WebSocketSection(msgspec.Struct, frozen=True):
    """`websocket:` where clients come in by TCP that can't by UDP; without certificate it is plain HTTP."""

    host: str
    port: int
    certificate: Path | None
    key: Path | None
    trusted_proxies: tuple[Prefix, ...] = ()
    """Whose X-Forwarded-For is believed."""
    max_connections: int = MAX_CONNECTIONS
    max_per_address: int = MAX_PER_ADDRESS

    def trusts(self, host: str) -> bool:
        """Whether this is the address of a reverse proxy of ours. Raises ValueError if it is no address."""
        address = ipaddress.ip_address(host.partition("%")[0])
        return any(address in prefix for prefix in self.trusted_proxies)


class Http3Section(msgspec.Struct, frozen=True):
    """`http3:` what strangers may ask of the UDP port, over HTTP/3."""

    certificate: Path
    key: Path
    show_clients: bool = False
    """Whether the number of clients is among it."""


class RelayConfig(msgspec.Struct, frozen=True):
    """All of relay.yaml, checked."""

    relay: RelaySection
    admission: Admission
    limits: Limits = Limits()
    metrics: Address | Path | None = None
    """Where Prometheus reads, on this machine."""
    log: LogSection = LogSection()
    websocket: WebSocketSection | None = None
    http3: Http3Section | None = None
    tracing: str | None = None
    """URL of the collector that gets traces."""
    cluster: ClusterSection | None = None


def admits(admission: Admission) -> str:
    """Who may connect, for people: "admits everybody", "admits 1 member and 2 networks"."""
    if admission.open:
        return "admits everybody"
    counts = ((len(admission.nodes), "member"), (len(admission.networks), "network"))
    parts = [f"{count} {what}{'s' * (count != 1)}" for count, what in counts if count]
    parts += ["holders of a token"] if admission.token_file else []
    parts += ["whom the hook lets in"] if admission.hook else []
    return f"admits {' and '.join(parts)}"


def load_relay_config(path: Path) -> RelayConfig:
    """Read and check relay.yaml. Raises ConfigError with a line for each mistake."""
    document = Document.load(path)
    keys = ("relay", "admission", "websocket", "http3", "cluster", "limits", "metrics", "log", "tracing")
    top = document.section(keys)
    relay = _relay(top.section("relay", ("name", "state_dir", "listen", "second_port", "threads", "socket")))
    websocket = _websocket(top)
    config = RelayConfig(
        relay=relay,
        admission=_admission(top.section("admission", ("open", "nodes", "networks", "token_file", "hook"))),
        websocket=websocket,
        http3=_http3(top, websocket),
        cluster=cluster_section(top, relay.host, relay.port),
        limits=_limits(top.section("limits", Limits.__struct_fields__)),
        metrics=metrics_address(top),
        log=log_section(top),
        tracing=tracing_url(top),
    )
    document.finish()
    return config


def _relay(section: Section) -> RelaySection:
    listen = section.text("listen", _parse_listen, f'"{DEFAULT_LISTEN}"', _parse_listen(DEFAULT_LISTEN))
    host, port = after_refusal(listen)
    second = section.number_or_word("second_port", 1, 65535, "off", "4434")
    if second == port:
        section.refuse("second_port", "is the port of listen; it must be another", "4434")
    threads = section.number_or_word("threads", 1, MOST_THREADS, "auto", "4")
    found = section.text("state_dir", parse_path, DEFAULT_STATE_DIR, Path(DEFAULT_STATE_DIR))
    state_dir = cast("Path | None", found) or Path(DEFAULT_STATE_DIR)  # a refused value reads as None
    default = state_dir / SOCKET_FILE
    return RelaySection(
        name=section.text("name", parse_name, "relay1"),
        state_dir=state_dir,
        socket=section.text("socket", parse_socket_path, str(default), default),
        host=host,
        port=port,
        second_port=None if second == "off" else int(second),
        threads=(0 if threads == "auto" else int(threads)) if section.has("threads") else 1,
    )


def _admission(section: Section) -> Admission:
    everybody = section.flag("open", default=False)
    nodes = section.texts("nodes", parse_node_id, EXAMPLE_NODE_ID)
    networks = section.texts("networks", parse_path, "/etc/shadowmesh/home.pem")
    token_file = section.text("token_file", parse_path, "/etc/shadowmesh/relay.tokens", None)
    hook = section.text("hook", parse_hook, '"http://127.0.0.1:8080/admit"', None)
    if not (nodes or networks or everybody or token_file or hook):
        section.refuse(
            "nodes",
            "nobody may connect; list the NodeIDs of the members, or a file in networks",
            f"[{EXAMPLE_NODE_ID}]",
        )
    if len(set(nodes)) < len(nodes) and None not in nodes:
        section.refuse("nodes", "has a NodeID twice; each must be given once")
    return Admission(everybody, frozenset(nodes), networks, token_file, hook)


_MOST = {
    "clients": 1_000_000,
    "channels_per_client": 65536,
    "openings_per_second": 10_000,
    "handshakes": 65536,
    "handshakes_per_host": 65536,
    "handshakes_per_second": 100_000,
    "refusals_per_minute": 1_000_000,
    "packets_per_second": 1_000_000_000,
    "bytes_per_second": 100_000_000_000,
}
"""The largest value of each limit. Rates of what is forwarded may be `off` as well."""
_LEAST = {"bytes_per_second": 1000}
"""The smallest value; 1 of all others. With less no packet of usual size would ever pass."""


def _limits(section: Section) -> Limits:
    defaults, values = Limits(), {}
    for key, most in _MOST.items():
        default = getattr(defaults, key)
        if default:
            values[key] = section.number(key, 1, most, default=default)
        else:
            least = _LEAST.get(key, 1)
            value = section.number_or_word(key, least, most, "off", str(most // 1000))
            values[key] = value if isinstance(value, int) else 0
    if (values["handshakes_per_host"] or 0) > (values["handshakes"] or 0):
        section.refuse("handshakes_per_host", "is more than handshakes allows in all", "32")
    return Limits(**values)


def _websocket(top: Section) -> WebSocketSection | None:
    if not top.has("websocket"):
        return None
    keys = ("listen", "certificate", "key", "trusted_proxies", "max_connections", "max_per_address")
    section = top.section("websocket", keys)
    listen = section.text("listen", _parse_listen, f'"{DEFAULT_WEBSOCKET}"', _parse_listen(DEFAULT_WEBSOCKET))
    host, port = after_refusal(listen)
    certificate = section.text("certificate", parse_path, "/etc/shadowmesh/relay.crt", None)
    key = section.text("key", parse_path, "/etc/shadowmesh/relay.key", None)
    if (certificate is None) != (key is None):
        _refuse_half(section, certificate)
    elif certificate is None and host and not ipaddress.ip_address(host).is_loopback:
        problem = "without a certificate this is plain HTTP, for a reverse proxy on this machine only"
        section.refuse("listen", problem, '"127.0.0.1:8443"')
    return WebSocketSection(
        host=host,
        port=port,
        certificate=certificate,
        key=key,
        trusted_proxies=section.texts("trusted_proxies", _parse_prefix, "127.0.0.1"),
        max_connections=section.number("max_connections", 1, 65536, default=MAX_CONNECTIONS),
        max_per_address=section.number("max_per_address", 1, 65536, default=MAX_PER_ADDRESS),
    )


def _http3(top: Section, websocket: WebSocketSection | None) -> Http3Section | None:
    if not top.has("http3"):
        return None
    section = top.section("http3", ("certificate", "key", "show_clients"))
    certificate = section.text("certificate", parse_path, "/etc/shadowmesh/relay.crt", None)
    key = section.text("key", parse_path, "/etc/shadowmesh/relay.key", None)
    if (certificate is None) != (key is None):
        _refuse_half(section, certificate)
    elif certificate is None and websocket is not None:
        certificate, key = websocket.certificate, websocket.key
    shown = section.flag("show_clients", default=False)
    if certificate is None or key is None:
        problem = "HTTP/3 needs a certificate, here or in websocket"
        section.refuse("certificate", problem, "/etc/shadowmesh/relay.crt")
        return None
    return Http3Section(certificate, key, shown)


def _refuse_half(section: Section, certificate: Path | None) -> None:
    missing, suffix = ("certificate", "crt") if certificate is None else ("key", "key")
    section.refuse(missing, "certificate and key go together", f"/etc/shadowmesh/relay.{suffix}")


def _parse_prefix(text: str) -> Prefix:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(f"{text!r} is no address and no prefix") from None


def _parse_listen(text: str) -> tuple[str, int]:
    host, port = parse_host_port(text)
    return parse_listen_address(host), port
