"""Of whatever file, a configuration is taken, and its rules compile, or it is refused with file and line.

The first byte says of which program; the rest is the file.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from fuzz import places
from shadowmesh.config import ClientConfig, load_client_config
from shadowmesh.document import MAX_DEPTH
from shadowmesh.errors import ConfigError
from shadowmesh.overlay.compilation import Party
from shadowmesh.overlay.firewall import Firewall
from shadowmesh_relay.config import load_relay_config

COVERS = (
    "shadowmesh.config",
    "shadowmesh.document",
    "shadowmesh.rules",
    "shadowmesh.values",
    "shadowmesh_relay.config",
)
LOADERS = (load_client_config, load_relay_config)
EXAMPLES = places.ROOT / "configs"
ID = b"b" * 52
RULES = b"""
firewall:
  inbound: deny
  rules:
    - {action: allow, direction: in, protocol: [tcp, 17], dst_port: [22, 80-90], peer: bob}
    - {action: deny, direction: out, ethertype: arp, vlan: [0, 10-20], group: [admin]}
    - {action: reject, src: "10.0.0.0/8", icmp_type: 8}
"""
WRONG = b"node: {name: a, name: b}\nlisten: &x {port: 99999}\npeers: [[[[[[[[[1]]]]]]]]]\n"
SEEDS = [
    b"\0" + (EXAMPLES / "client.yaml").read_bytes(),
    b"\0" + (EXAMPLES / "client-full.yaml").read_bytes(),
    b"\0" + (EXAMPLES / "client.yaml").read_bytes() + RULES,
    b"\0" + WRONG,
    b"\0node: {name: [}\ninterface: fd77::1/64\nrelays: ::1",
    b"\1" + (EXAMPLES / "relay.yaml").read_bytes(),
    b"\1relay: {listen: '[::]:4433', second_port: 4434, threads: 4}\nadmission: {open: true}",
    b"\1" + WRONG,
    b"\1" + b"[" * (MAX_DEPTH + 2),
    b"\1\xff\xfe",
]
_files: list[int] = []
LINE = re.compile(r"/proc/self/fd/[0-9]+(:[0-9]+)?: .+")

BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
"""Source: YAML 1.1, section 4.2."""


def close() -> None:
    """The next input makes another file."""
    while _files:
        os.close(_files.pop())


def target(data: bytes) -> None:
    """Twice: what is taken has to be the same."""
    if not _files:
        _files.append(os.memfd_create("configuration", os.MFD_CLOEXEC))
    path = Path(f"/proc/self/fd/{_files[0]}")
    path.write_bytes(data[1:])
    load = LOADERS[data[0] % 2] if data else LOADERS[0]
    try:
        config = load(path)
    except ConfigError as error:
        check_refusal(str(error), len(BREAK.split(data[1:].decode(errors="replace"))))
        return
    assert load(path) == config
    if isinstance(config, ClientConfig) and config.firewall is not None:
        parties = [
            Party(peer.name, "", tuple(peer.groups), number=number)
            for number, peer in enumerate(config.peers, 1)
        ]
        Firewall(config.firewall, parties).compiled()


def check_refusal(text: str, lines: int) -> None:
    """Every mistake on a line of its own, with the line of the file that it is on."""
    for one in text.split("\n"):
        found = LINE.fullmatch(one)
        assert found, f"a refusal without its place: {one!r}"
        assert found[1] is None or 1 <= int(found[1][1:]) <= lines + 1
