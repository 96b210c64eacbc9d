"""A network as a process has it: its public file, what is kept in the state directory, and the clock.

    STATE_DIR/revocations-NETWORK.pem    the newest revocation list that was seen
    STATE_DIR/network-NETWORK.pem        the network with the newest key of its authority that was seen, so
                                         that an older public file brings no former key back
    STATE_DIR/clock                      the last time that was written down (seconds since 1970)

What can't be written is told in the log, and counts until the process ends.
"""

from __future__ import annotations

import contextlib
import logging
import stat
import time
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from shadowmesh.config import ClientConfig, RelayPeer, names_a_member, refuse_bridge
from shadowmesh.crypto.identity import Identity, node_id_text
from shadowmesh.errors import ConfigError, NotMember
from shadowmesh.io.documents import (
    credentials_text,
    load_credentials,
    load_delegation,
    load_list,
    load_network,
    network_text,
    replace_file,
)
from shadowmesh.membership.certificate import Certificate
from shadowmesh.membership.clock import SteadyClock
from shadowmesh.membership.delegation import Credentials
from shadowmesh.membership.guard import Guard, Membership
from shadowmesh.membership.network import Network, NetworkRelay
from shadowmesh.membership.renewal import Delegate
from shadowmesh.membership.revocation import RevocationList, Revocations
from shadowmesh.membership.signed import Kind, to_text
from shadowmesh.units import RIGHT_BRIDGE, NodeId
from shadowmesh.values import parse_host_port, parse_tcp

log = logging.getLogger("shadowmesh")

CLOCK_FILE = "clock"
_END = 253_402_300_800
"""10000-01-01, in seconds since 1970: no date of a certificate goes beyond."""
_MENDED = frozenset(
    {
        "expired",
        "not_yet_valid",
        "former_authority",
        "delegation_former_authority",
        "basis_former_authority",
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
    short = node_id_text(network.id)[:10]
    known = state_dir / f"network-{short}.pem"
    path = state_dir / f"revocations-{short}.pem"
    newest = _kept_network(known) if known.exists() else network
    first, second = sorted((network, newest), key=lambda one: len(one.links))
    if second.id != first.id or second.links[: len(first.links)] != first.links:
        text = f"{known}: contradicts {network_file}; which of them is from the authority?"
        raise ConfigError(text, "network.contradiction")
    if second.links and (second is not newest or not known.exists()):
        _keep_network(known, second)
    kept = _kept_list(path, second)
    revocations = Revocations(second, kept, lambda data: _keep_list(path, data))
    if shipped is not None:
        _merge_shipped(revocations, shipped, network_file)
    return Guard(second, revocations, open_clock(state_dir), lambda made: _keep_network(known, made))


def _kept_network(path: Path) -> Network:
    try:
        return load_network(path)[0]
    except ConfigError as error:
        text = "restore it, or remove it and have network.file tell of the authority's newest key"
        raise ConfigError(f"{error}; {text}", "network.kept") from None


def _merge_shipped(revocations: Revocations, shipped: RevocationList, file: Path) -> None:
    """The list of the public file; one of a key that has been replaced since counts for nothing."""
    try:
        revocations.merge_untrusted(shipped.document)
    except NotMember as error:
        log.error("%s: its revocation list counts no longer: %s [network.list]", file, error)


def _kept_list(path: Path, network: Network) -> bytes:
    """The list that was kept; one of a key that has been replaced since counts for nothing."""
    if not path.exists():
        return b""
    try:
        return load_list(path, network).document
    except ConfigError as error:
        if not isinstance(error.__cause__, NotMember) or error.__cause__.reason != "former_authority":
            text = "restore it, or remove it and have network.file tell who is revoked"
            raise ConfigError(f"{error}; {text}", "network.kept") from None
        log.error("what was kept counts no longer: %s", error.told)
        return b""


def open_clock(state_dir: Path) -> SteadyClock:
    """The machine's clock, which never tells less than what was written down. Raises ConfigError."""
    path = state_dir / CLOCK_FILE
    try:
        kept = float(path.read_text()) if path.exists() else 0.0
        if not 0.0 <= kept < _END:  # also what is no number: against that no date would be held
            raise ValueError
    except (OSError, ValueError):
        text = f"{path}: is no time; remove it if the machine's clock is right"
        raise ConfigError(text, "network.clock-file") from None
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
        log.warning("the machine's clock is at least %d s behind [network.clock]", guard.clock.behind)
    keep = partial(_keep_credentials, config.network.certificate, guard.network.name)
    return Membership(guard.network, guard.revocations, guard.clock, credentials, keep, guard.keep_network)


def guard_with(network: Network, membership: Membership, file: Path) -> Guard:
    """To hold other files against: with `network` where that knows a newer key. Raises ConfigError."""
    known = membership.network
    if network.id != known.id:
        text = f"{file}: is another network than {known.name}; that takes a restart"
        raise ConfigError(text, "network.another")
    first, second = sorted((known, network), key=lambda one: len(one.links))
    if second.links[: len(first.links)] != first.links:
        text = f"{file}: contradicts the new key of the authority that is known here"
        raise ConfigError(text, "network.contradiction")
    return Guard(second, membership.revocations, membership.clock)


def load_next(
    config: ClientConfig, membership: Guard, certificate: Certificate, own: NodeId
) -> Credentials | None:
    """The certificate of the file as it is now, if it is newer than ours. Raises ConfigError."""
    assert config.network is not None
    file, current = config.network.certificate, certificate.body
    found = load_credentials(file)
    body = found.certificate.body
    # A renewal keeps the serial; what the authority signs anew has a higher one.
    if (body.serial, body.not_after) <= (current.serial, current.not_after):
        return None
    try:
        found.admit(membership.network, membership.revocations, own, membership.clock.now())
    except NotMember as error:
        raise ConfigError(f"{file}: {error}", "network.not-valid") from None
    return found


def open_delegate(config: ClientConfig, membership: Guard, identity: Identity) -> Delegate | None:
    """The delegation that the configuration names, if it counts now. Raises ConfigError.

    One that has ended, or was revoked, is told: a machine that renews no certificates works all the same.
    """
    assert config.network is not None
    file = config.network.delegation
    if file is None:
        return None
    try:
        delegate = Delegate(identity, load_delegation(file))
        delegate.delegation.check(membership.network, membership.revocations, membership.clock.now())
    except NotMember as error:
        if error.reason not in _MENDED:
            raise ConfigError(f"{file}: {error}", "network.not-valid") from None
        log.warning("%s: %s; no certificates are renewed here [network.not-valid]", file, error)
        return None
    return delegate


def check_membership(config: ClientConfig, identity: Identity) -> None:
    """Raises ConfigError where `open_membership` or `with_network` would; writes nothing."""
    assert config.network is not None
    network, _ = load_network(config.network.file)
    credentials = load_credentials(config.network.certificate)
    clock = SteadyClock(time.time, 0.0, lambda _: None)
    membership = Membership(network, Revocations(network, b"", lambda _: None), clock, credentials)
    _require_own(credentials, membership, identity, config.network.certificate)
    open_delegate(config, membership, identity)
    with_network(config, membership)


def with_network(config: ClientConfig, membership: Membership | None) -> ClientConfig:
    """The configuration, with addresses and relays of the network where it has none. Raises ConfigError."""
    if membership is None:
        return config
    if config.interface.bridge is not None and RIGHT_BRIDGE not in membership.certificate.body.rights:
        name = membership.certificate.body.name
        refuse_bridge(
            config,
            f"the certificate of {name} has not the right {RIGHT_BRIDGE}, so others would drop the frames; "
            f"have it signed again: network sign NODE_ID --name {name} --right {RIGHT_BRIDGE}",
        )
    if not config.interface.addresses:
        addresses = tuple(membership.certificate.body.addresses)
        config = replace(config, interface=replace(config.interface, addresses=addresses))
    if not config.relays:
        config = replace(config, relays=tuple(map(_relay_of, membership.network.relays)))
    if not config.relays:
        text = f"{config.file}: relays: is missing, and the network names none"
        raise ConfigError(text, "config.no-relay")
    for relay in config.relays:
        if any(names_a_member(config.names, one.host) for one in (relay, relay.tcp) if one is not None):
            text = (
                f"{config.file}: names.domain: the network names the relay {relay.host}, which nobody can "
                f"resolve before a relay is reached; set another domain than {config.names.domain}"
            )
            raise ConfigError(text, "config.own-domain")
    return config


def _relay_of(named: NetworkRelay) -> RelayPeer:
    host, port = parse_host_port(named.address)
    return RelayPeer(host, port, named.id, tcp=parse_tcp(named.tcp) if named.tcp else None)


def _require_own(credentials: Credentials, guard: Guard, identity: Identity, file: Path) -> None:
    try:
        credentials.admit(guard.network, guard.revocations, identity.node_id, guard.clock.now())
    except NotMember as error:
        if error.reason not in _MENDED:
            raise ConfigError(f"{file}: {error}", "network.not-valid") from None
        log.warning("%s: %s; nobody will take it [network.not-valid]", file, error)


def _keep_credentials(path: Path, network: str, credentials: Credentials) -> None:
    """In place of the one before, which stays beside it; a newer one of the authority stays for `reload`."""
    mode = 0o644
    with contextlib.suppress(ConfigError):
        found, ours = load_credentials(path).certificate.body, credentials.certificate.body
        if (found.serial, found.not_after) > (ours.serial, ours.not_after):
            line = (
                "%s holds a newer certificate than the renewed one; `reload` takes it over [config.pending]"
            )
            log.warning(line, path)
            return
    with contextlib.suppress(OSError):
        mode = stat.S_IMODE(path.stat().st_mode)
        replace_file(path.with_name(f"{path.name}.bak"), path.read_bytes(), mode)
    _keep(path, credentials_text(credentials, network).encode(), mode)


def _keep_network(path: Path, network: Network) -> None:
    _keep(path, network_text(network).encode())


def _keep_list(path: Path, data: bytes) -> None:
    _keep(path, to_text(data, Kind.REVOCATIONS).encode())


def _keep(path: Path, data: bytes, mode: int = 0o644) -> None:
    try:
        replace_file(path, data, mode)
    except OSError as error:
        line = "can't write %s: %s; it holds until the end of this process only [state.not-kept]"
        log.error(line, path, error.strerror)
