"""`shadowmesh-client peers [PEER]`: the peers alone, some of them, or all about one."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import click
import msgspec

from shadowmesh.api.schema import PathStatus, PeerStatus, Status
from shadowmesh.cli.completing import peer_names
from shadowmesh.cli.options import ask, config_option, socket_option, socket_path, start_advice
from shadowmesh.cli.output import coloured, duration, milliseconds, percent, short_cipher, size, table
from shadowmesh.cli.replies import PeersReply
from shadowmesh.command import CommandFailed, ExitCode, examples, json_option
from shadowmesh.spelling import did_you_mean

MIN_PREFIX = 10
"""Characters of a NodeID that name a peer, as for the other verbs."""

PATH_HEAD = ("path", "state", "rtt", "jitter", "loss", "budget")
PATH_RIGHT = frozenset(PATH_HEAD[2:])


@click.command(
    epilog=examples(
        "shadowmesh-client peers",
        "shadowmesh-client peers --relayed              whom only a relay reaches",
        "shadowmesh-client peers bob                    all about one",
        "shadowmesh-client peers --connected --json | jq -r '.peers[].name'",
    )
)
@click.argument("peer", required=False, shell_complete=peer_names)
@click.option("--connected", is_flag=True, help="Only those with a session.")
@click.option("--direct", is_flag=True, help="Only those whose frames take a direct path.")
@click.option("--relayed", is_flag=True, help="Only those whose frames go through a relay.")
@config_option()
@socket_option
@json_option
def peers(
    peer: str | None,
    connected: bool,
    direct: bool,
    relayed: bool,
    config: Path | None,
    socket: Path | None,
    as_json: bool,
) -> None:
    """Show the peers alone, or all about PEER.

    PEER is a name, an overlay address, a NodeID or its first 10 or more characters.
    """
    if peer is not None and (connected or direct or relayed):
        raise click.UsageError("PEER is one already; leave out --connected, --direct and --relayed")
    if direct and relayed:
        raise click.UsageError("a peer is either --direct or --relayed; for both: --connected")
    data = ask(socket_path(config, socket), lambda client: client.status_json(), start_advice(socket))
    found = msgspec.json.decode(data, type=Status).peers
    if peer is not None:
        found = [find(found, peer)]
    elif connected or direct or relayed:
        kinds = {True} if direct else {False} if relayed else {True, False}
        found = [one for one in found if one.state == "connected" and is_direct(one) in kinds]
    if as_json:
        click.echo(msgspec.json.encode(PeersReply(peers=found)))
        return
    for line in _details(found[0]) if peer is not None else render(found):
        click.echo(coloured(line))


def find(peers: list[PeerStatus], label: str) -> PeerStatus:
    """The peer with this name, overlay address, NodeID or its beginning. Raises CommandFailed."""
    try:
        address = str(ipaddress.ip_address(label))
    except ValueError:
        address = label
    start = label.lower() if len(label) >= MIN_PREFIX else "-"
    by_name = [one for one in peers if one.name == label or address in one.addresses]
    matching = by_name or [one for one in peers if one.node_id.startswith(start)]
    if len(matching) == 1:
        return matching[0]
    advice = did_you_mean(label, (one.name for one in peers), "`shadowmesh-client peers` shows all")
    raise CommandFailed(f"there is no peer {label!r}; {advice}", ExitCode.NO_PEER, "peer.unknown")


def is_direct(peer: PeerStatus) -> bool:
    """Whether its frames take a direct path now."""
    path = path_in_use(peer)
    return path is not None and path.kind != "relay"


def path_in_use(peer: PeerStatus) -> PathStatus | None:
    """The path of its frames."""
    return next((path for path in peer.paths if path.in_use), None)


def path_cells(path: PathStatus) -> tuple[str, ...]:
    """Cells under `PATH_HEAD`."""
    return (
        path.path,
        "in use" if path.in_use else path.state,
        milliseconds(path.rtt_ms),
        milliseconds(path.jitter_ms),
        percent(path.loss),
        "-" if path.budget is None else str(path.budget),
    )


def render(peers: list[PeerStatus]) -> list[str]:
    """The peers as lines for people."""
    if not peers:
        return ["No such peers."]
    head = ("peer", "state", "path", "rtt", "loss", "sent", "received", "handshake")
    rows = [
        (
            peer.name,
            peer.state,
            peer.path or "-",
            milliseconds(peer.rtt_ms),
            percent(path.loss if (path := path_in_use(peer)) else None),
            size(peer.tx_bytes),
            size(peer.rx_bytes),
            "-" if peer.last_handshake is None else duration(peer.last_handshake),
        )
        for peer in peers
    ]
    right = frozenset(["rtt", "loss", "sent", "received", "handshake"])
    return table(head, rows, right) + [
        f"  {peer.name}: {peer.last_error}" for peer in peers if peer.last_error
    ]


def _details(peer: PeerStatus) -> list[str]:
    rows = [
        ("peer", peer.name),
        ("NodeID", peer.node_id),
        ("addresses", ", ".join(peer.addresses)),
        ("groups", " ".join(peer.groups)),
        ("state", f"{peer.state}{f', {peer.last_error}' if peer.last_error else ''}"),
        ("path", f"{peer.path} ({peer.path_reason})" if peer.path else ""),
        ("round trip", milliseconds(peer.rtt_ms)),
        ("sent", f"{size(peer.tx_bytes)} in {peer.tx_frames} frames"),
        ("received", f"{size(peer.rx_bytes)} in {peer.rx_frames} frames"),
        ("handshake", "" if peer.last_handshake is None else f"{duration(peer.last_handshake)} ago"),
        ("keys", _keys(peer)),
        ("certificate", _certificate(peer.expires_in)),
        ("renews", "certificates of others" if peer.renews else ""),
        ("bridge", f"{peer.stations} stations behind it" if peer.bridge else ""),
        ("refused", ", ".join(f"{reason} {count}" for reason, count in peer.refused.items())),
    ]
    shown = [(name, text) for name, text in rows if text not in ("", "-")]
    width = max(len(name) for name, _ in shown)
    lines = [f"{name.ljust(width)}  {text}" for name, text in shown]
    return [*lines, *(["", *_paths(peer.paths)] if peer.paths else [])]


def _keys(peer: PeerStatus) -> str:
    if peer.epoch is None:
        return ""
    age = "" if peer.epoch_age is None else f", {duration(peer.epoch_age)} old"
    return f"{short_cipher(peer.cipher)}, {peer.key_exchange}, epoch {peer.epoch}{age}"


def _certificate(expires_in: float | None) -> str:
    if expires_in is None:
        return ""
    return f"for {duration(expires_in)}" if expires_in > 0 else f"expired {duration(-expires_in)} ago"


def _paths(paths: list[PathStatus]) -> list[str]:
    """All of them, the failed ones with the reason."""
    rows = [(*path_cells(path), path.detail or "-") for path in paths]
    return table((*PATH_HEAD, "detail"), rows, PATH_RIGHT)
