"""Looks at everything that `doctor` judges: all of its I/O. Changes nothing, and judges nothing.

`gather` asks the running client where there is one, else the network itself, as `netcheck -c` does. What
can't be looked at (no root, no client, no file) becomes `Unseen` with the reason; it raises nothing for that.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from shadowmesh.api.client import ApiClient, ApiFailed, NotRunning
from shadowmesh.api.schema import Netcheck, Status
from shadowmesh.config import ClientConfig, doubts, load_client_config
from shadowmesh.diagnosis import system
from shadowmesh.diagnosis.facts import Facts, FileFact, Files, Lookup, Papers, Unseen
from shadowmesh.errors import ConfigError, IdentityError, NotMember, ShadowMeshError
from shadowmesh.values import parse_host_port

Progress = Callable[[str], None]
"""Told what is being looked at."""

SECRETS = ("identity.pem", "tickets", "invitations")
"""Files of the state directory that nobody else may read."""
STOPPED = "no client runs here"


class Client(msgspec.Struct, frozen=True, kw_only=True):
    """The running client, as far as it answers."""

    status: Status | Unseen
    stopped: bool = False
    silent: str = ""


def gather(config_file: Path | None, socket_path: Path | None, usual: Path, progress: Progress) -> Facts:
    """Everything. `config_file` None: none is known, and what is in it is not looked at.

    :param socket_path: of the client; None: that of the configuration, else `usual`.
    """
    progress("the machine")
    config, config_problem = read_config(config_file)
    socket_path = client_socket(config, socket_path, usual)
    client = ask_client(socket_path)
    progress("the names of the relays")
    papers, papers_problem = read_papers(config)
    names = look_up(relay_hosts(config, client.status))
    progress("the network: NAT, relays, UDP (8 s at most)")
    netcheck = check_network(config, client, socket_path)
    progress("interfaces, routes and rules")
    surroundings = system.read_surroundings()
    return Facts(
        now=time.time(),
        machine=system.read_machine(),
        kernel=system.read_kernel(surroundings.reason if isinstance(surroundings, Unseen) else ""),
        config=config,
        config_problem=config_problem,
        doubts=() if isinstance(config, Unseen) else _doubts(config),
        files=read_files(config),
        socket=file_fact(socket_path),
        status=client.status,
        stopped=client.stopped,
        silent=client.silent,
        netcheck=netcheck,
        names=names,
        papers=papers,
        papers_problem=papers_problem,
        surroundings=surroundings,
        firewall=system.read_firewall(),
    )


def client_socket(config: ClientConfig | Unseen, named: Path | None, usual: Path) -> Path:
    """Where the client answers: `named`, else as the configuration says, else `usual`."""
    return named or (usual if isinstance(config, Unseen) else config.node.socket)


def read_config(file: Path | None) -> tuple[ClientConfig | Unseen, str]:
    """The configuration, and what is wrong with it."""
    if file is None:
        return Unseen("no configuration is named; -c FILE does"), ""
    try:
        return load_client_config(file), ""
    except ConfigError as error:
        return Unseen(f"{file} does not load"), str(error)


def ask_client(socket_path: Path) -> Client:
    """Whether a client answers on the socket, and its status."""
    try:
        return Client(status=ApiClient(socket_path).status())
    except NotRunning as error:
        return Client(status=Unseen(str(error)), stopped=True)
    except ApiFailed as error:
        if os.access(socket_path, os.W_OK):
            return Client(status=Unseen(str(error)), silent=str(error))
        return Client(status=Unseen(str(error)))


def check_network(config: ClientConfig | Unseen, client: Client, socket_path: Path) -> Netcheck | Unseen:
    """By the running client, or by ourselves where none runs. Takes some seconds."""
    try:
        if not isinstance(client.status, Unseen):
            return ApiClient(socket_path).netcheck()
        if not client.stopped:
            return client.status
        if isinstance(config, Unseen):
            return Unseen(f"{STOPPED}, and {config.reason}")
        from shadowmesh.node.alone import netcheck_alone

        # What it warns of is told by the checks themselves.
        logging.getLogger("shadowmesh").addHandler(logging.NullHandler())
        return netcheck_alone(config)
    except (ShadowMeshError, OSError) as error:
        return Unseen(f"the network could not be asked: {error}")


def relay_hosts(config: ClientConfig | Unseen, status: Status | Unseen) -> list[str] | Unseen:
    """Hosts of the relays, names and addresses."""
    if not isinstance(status, Unseen):
        return [parse_host_port(relay.address)[0] for relay in status.relays]
    if isinstance(config, Unseen):
        return config
    return [relay.host for relay in config.relays]


def look_up(hosts: list[str] | Unseen) -> tuple[Lookup, ...] | Unseen:
    """The names among `hosts`, by the resolver and with the flags that the client uses (`node.daemon`)."""
    if isinstance(hosts, Unseen):
        return hosts
    return tuple(_look_up(host) for host in dict.fromkeys(hosts) if not _is_address(host))


def read_files(config: ClientConfig | Unseen) -> Files | Unseen:
    """Modes of what the configuration names, and the room that is left."""
    if isinstance(config, Unseen):
        return config
    folder = config.node.state_dir
    secrets = [file_fact(folder / name) for name in SECRETS]
    tokens = {relay.token_file for relay in config.relays if relay.token_file}
    try:
        space = os.statvfs(folder)
        free: int | Unseen = space.f_bavail * space.f_frsize
    except OSError as error:
        free = Unseen(f"{folder}: {error.strerror}")
    return Files(
        config=file_fact(Path(config.file)),
        state_dir=file_fact(folder),
        identity=secrets[0],
        keys=tuple(secrets[1:]),
        tokens=tuple(file_fact(path) for path in sorted(tokens)),
        free=free,
    )


def file_fact(path: Path) -> FileFact:
    """What stat(2) says of it."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return FileFact(path=str(path))
    except OSError as error:
        return FileFact(path=str(path), problem=f"{path} can't be looked at: {error.strerror}")
    return FileFact(path=str(path), mode=stat.S_IMODE(found.st_mode))


def read_papers(config: ClientConfig | Unseen) -> tuple[Papers | Unseen | None, str]:
    """Certificate and revocation list, and what is wrong with the files."""
    if isinstance(config, Unseen):
        return config, ""
    if config.network is None:
        return None, ""
    from shadowmesh.core.expiry import warn_before
    from shadowmesh.crypto.identity import node_id_text
    from shadowmesh.io.documents import load_credentials, load_list, load_network

    for path in (config.network.file, config.network.certificate):
        if not os.access(path, os.R_OK) and path.exists():
            return Unseen(f"{path} can't be read by this user"), ""
    try:
        network, shipped = load_network(config.network.file)
        body = load_credentials(config.network.certificate).certificate.body
        kept = config.node.state_dir / f"revocations-{node_id_text(network.id)[:10]}.pem"
        lists = [shipped]
        # A list of a former key counts no longer; the client tells its log.
        with contextlib.suppress(ConfigError, NotMember, OSError):
            lists += [load_list(kept, network)] if kept.exists() else []
    except ConfigError as error:
        return Unseen(str(error)), str(error)
    newest = max((one for one in lists if one is not None), key=lambda one: one.number, default=None)
    return (
        Papers(
            network=network.name,
            network_id=node_id_text(network.id),
            member=body.name,
            groups=tuple(body.groups),
            addresses=tuple(body.addresses),
            not_before=body.not_before,
            not_after=body.not_after,
            warn_before=warn_before(body),
            list_number=0 if newest is None else newest.number,
            list_until=None if newest is None else newest.valid_until,
        ),
        "",
    )


def _doubts(config: ClientConfig) -> tuple[str, ...]:
    from shadowmesh.crypto import identity as identities

    try:
        name = identities.load(config.node.state_dir).name
    except IdentityError:
        name = None
    return tuple(doubt.told for doubt in doubts(config, name))


def _look_up(host: str) -> Lookup:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM, flags=socket.AI_ADDRCONFIG)
    except OSError as error:
        return Lookup(host=host, problem=error.strerror or str(error))
    return Lookup(host=host, addresses=tuple(dict.fromkeys(str(one[4][0]) for one in found)))


def _is_address(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            socket.inet_pton(family, host)
            return True
    return False
