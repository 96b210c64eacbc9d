"""What `doctor` knows when it judges: one struct for each place that was looked at. Data only.

What could not be looked at is `Unseen`, with the reason: checks that need it say "skipped" and repeat that.
Sizes are bytes, times seconds since 1970, modes the permission bits of stat(2).
"""

from __future__ import annotations

import msgspec

from shadowmesh.api.schema import Netcheck, Status
from shadowmesh.config import ClientConfig


class Unseen(msgspec.Struct, frozen=True):
    """Could not be looked at; `reason` is for people, a part of a sentence."""

    reason: str


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The machine and what runs us. `python` as (3, 11), `openssl` as OPENSSL_VERSION_INFO begins."""

    system: str
    release: str
    architecture: str
    memory: int | None
    python: tuple[int, int]
    openssl: tuple[int, int]
    openssl_text: str
    installed: str
    """Version of the package that runs this."""
    root: bool
    net_admin: bool
    synchronised: bool | None
    """Whether the kernel's clock is kept by NTP or the like; None: it does not tell."""


class Kernel(msgspec.Struct, frozen=True, kw_only=True):
    """What the kernel offers. A text says what is wrong, empty: nothing."""

    tun: str | Unseen
    vnet_header: bool | Unseen
    udp_segments: bool
    udp_coalesces: bool
    shares_ports: bool
    netlink: str
    ipv6: bool
    receive_buffer: int
    """That our socket gets, of the `io.udp.BUFFER` that it asks for."""
    receive_limit: int | None
    """net.core.rmem_max."""


class FileFact(msgspec.Struct, frozen=True, kw_only=True):
    """A file or folder. `mode` is None where it is not there; `problem`: it can't be seen."""

    path: str
    mode: int | None = None
    problem: str = ""


class Files(msgspec.Struct, frozen=True, kw_only=True):
    """The files of the configuration. `keys`: those that are as secret as the identity."""

    config: FileFact
    state_dir: FileFact
    identity: FileFact
    keys: tuple[FileFact, ...]
    tokens: tuple[FileFact, ...]
    free: int | Unseen
    """Bytes free for us in the file system of the state directory."""


class Papers(msgspec.Struct, frozen=True, kw_only=True):
    """Certificate and revocation list, as the files have them."""

    network: str
    network_id: str
    member: str
    groups: tuple[str, ...]
    addresses: tuple[str, ...]
    not_before: float
    not_after: float
    warn_before: float
    """Seconds before the end from which the client warns."""
    list_number: int
    list_until: float | None
    """When the authority means to have issued the next list; None without one."""


class Lookup(msgspec.Struct, frozen=True, kw_only=True):
    """The name of a relay, resolved as the client does."""

    host: str
    addresses: tuple[str, ...] = ()
    problem: str = ""


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """A network interface; addresses as "ADDRESS/PREFIX LENGTH", `kind` empty for hardware."""

    name: str
    kind: str = ""
    mtu: int = 1500
    up: bool = True
    addresses: tuple[str, ...] = ()


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """A route of the main table; `to` as a prefix, "0.0.0.0/0" for the default one."""

    to: str
    device: str


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """Interfaces and routes of the machine (in its network namespace)."""

    links: tuple[Link, ...]
    ways: tuple[Way, ...]


class HostFirewall(msgspec.Struct, frozen=True, kw_only=True):
    """The ruleset as `nft -j` tells it, and whether there are tables of the former iptables beside it."""

    ruleset: tuple[dict[str, object], ...]
    legacy: bool = False


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. `now` is the machine's clock."""

    now: float
    machine: Machine
    kernel: Kernel
    config: ClientConfig | Unseen
    config_problem: str = ""
    """Why the configuration does not load; empty if it does, or none was looked at."""
    doubts: tuple[str, ...] = ()
    files: Files | Unseen
    socket: FileFact
    status: Status | Unseen
    stopped: bool
    """No client answers where one would: false too where we may not ask, or it is silent."""
    silent: str = ""
    """What is wrong with a client that has a socket and gives no answer."""
    netcheck: Netcheck | Unseen
    names: tuple[Lookup, ...] | Unseen
    papers: Papers | Unseen | None
    """None: the configuration names no network."""
    papers_problem: str = ""
    """Why they do not load, though they can be read."""
    surroundings: Surroundings | Unseen
    firewall: HostFirewall | Unseen
