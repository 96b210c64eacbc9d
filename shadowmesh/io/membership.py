"""A network as a process has it: its public file, what is kept in the state directory, and the clock.

    STATE_DIR/revocations-NETWORK.pem    the newest revocation list that was seen
    STATE_DIR/clock                      the last time that was written down (seconds since 1970)

What can't be written is told in the log, and counts until the process ends.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from msgspec.structs import replace

from shadowmesh.config import ClientConfig, RelayPeer, parse_host_port
from shadowmesh.crypto.identity import Identity, node_id_text
from shadowmesh.errors import ConfigError, NotMember
from shadowmesh.io.documents import load_credentials, load_list, load_network, replace_file
from shadowmesh.membership.clock import SteadyClock
from shadowmesh.membership.delegation import Credentials
from shadowmesh.membership.guard import Guard, Membership
from shadowmesh.membership.revocation import Revocations
from shadowmesh.membership.signed import Kind, to_text

log = logging.getLogger("shadowmesh")

CLOCK_FILE = "clock"
_MENDED = frozenset(
    {
        "expired",
        "not_yet_valid",
        "delegation_expired",
        "delegation_not_yet_valid",
        "basis_expired",
        "revoked",
        "delegation_revoked",
        "delegate_revoked",
    }
)
"""Reasons that do not stop the start: clocks are set, certificates renewed, and the peers decide."""


def open_guard(network_file: Path, state_dir: Path) -> Guard:
    """The network of a public file, with everything that was kept of it. Raises ConfigError."""
    network, shipped = load_network(network_file)
    path = state_dir / f"revocations-{node_id_text(network.id)[:10]}.pem"
    kept = load_list(path, network).document if path.exists() else b""
    revocations = Revocations(network, kept, lambda data: _keep_list(path, data))
    if shipped is not None:
        revocations.merge_untrusted(shipped.document)
    return Guard(network, revocations, open_clock(state_dir))


def open_clock(state_dir: Path) -> SteadyClock:
    """The machine's clock, which never tells less than what was written down. Raises ConfigError."""
    path = state_dir / CLOCK_FILE
    try:
        kept = float(path.read_text()) if path.exists() else 0.0
    except (OSError, ValueError):
        raise ConfigError(f"{path}: is no time; remove it if the machine's clock is right") from None
    return SteadyClock(time.time, kept, lambda now: _keep(path, f"{now:.0f}\n".encode()))


def open_membership(config: ClientConfig, identity: Identity) -> Membership | None:
    """What the configuration says of a network, checked; None if it names none. Raises ConfigError.

    A certificate that has expired, or whose time has not come, or that is revoked, is told and taken: clocks
    are mended, and the peers decide.
    """
    if config.network is None:
        return None
    guard = open_guard(config.network.file, config.node.state_dir)
    credentials = load_credentials(config.network.certificate)
    _require_own(credentials, guard, identity, config.network.certificate)
    if guard.clock.behind:
        log.warning("the machine's clock is at least %d s behind", guard.clock.behind)
    return Membership(guard.network, guard.revocations, guard.clock, credentials)


def check_membership(config: ClientConfig, identity: Identity) -> None:
    """Raises ConfigError where `open_membership` or `with_network` would; writes nothing."""
    assert config.network is not None
    network, _ = load_network(config.network.file)
    credentials = load_credentials(config.network.certificate)
    clock = SteadyClock(time.time, 0.0, lambda _: None)
    membership = Membership(network, Revocations(network, b"", lambda _: None), clock, credentials)
    _require_own(credentials, membership, identity, config.network.certificate)
    with_network(config, membership)


def with_network(config: ClientConfig, membership: Membership | None) -> ClientConfig:
    """The configuration, with addresses and relays of the network where it has none. Raises ConfigError."""
    if membership is None:
        return config
    if not config.interface.addresses:
        addresses = tuple(membership.certificate.body.addresses)
        config = replace(config, interface=replace(config.interface, addresses=addresses))
    if not config.relays:
        named = [(parse_host_port(relay.address), relay.id) for relay in membership.network.relays]
        config = replace(config, relays=tuple(RelayPeer(host, port, node) for (host, port), node in named))
    if not config.relays:
        raise ConfigError(f"{config.file}: relays: is missing, and the network names none")
    return config


def _require_own(credentials: Credentials, guard: Guard, identity: Identity, file: Path) -> None:
    try:
        credentials.admit(guard.network, guard.revocations, identity.node_id, guard.clock.now())
    except NotMember as error:
        if error.reason not in _MENDED:
            raise ConfigError(f"{file}: {error}") from None
        log.warning("%s: %s; nobody will take it", file, error)


def _keep_list(path: Path, data: bytes) -> None:
    _keep(path, to_text(data, Kind.REVOCATIONS).encode())


def _keep(path: Path, data: bytes) -> None:
    try:
        replace_file(path, data)
    except OSError as error:
        log.error("can't write %s: %s; it holds until the end of this process only", path, error.strerror)
