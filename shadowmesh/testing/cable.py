"""The cable of a lab host with a middlebox in it: userspace impairments, for kernels without netem.

    host under0 --veth-- portN | bridge wireN | nearN =program= farN | bridge of the switch

`Cable` puts the box (middlebox.py) into the cable of a host that is plugged in, controls it while traffic
runs, and takes it out again.  Host and switch need no change: the kernel completes checksums and cuts
large packets when it hands them to the TAPs near and far.  This module run as a program is the box, in the
namespace of the switch:

    python -m shadowmesh.testing.cable NEAR FAR SOCKET SEED

It lives as long as the lab or until `remove`; if it dies the cable is dead.  Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import random
import select
import socket
import struct
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from shadowmesh.testing.impair import Impairment
from shadowmesh.testing.lab import SWITCH_BRIDGE
from shadowmesh.testing.middlebox import DOWN, UP, Box

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shadowmesh.testing.lab import Host
    from shadowmesh.testing.process import Process

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
"""linux/if_tun.h"""
QUEUE = 4000
"""Packets that wait for the program in each TAP: 40 ms of what it can move."""
LARGEST = 65_535
BATCH = 64
"""Frames of one side without a look at the other."""
ANSWER_TIMEOUT = 10.0

Counters = dict[str, dict[str, int]]


class Cable:
    """The middlebox in the cable of `host`; a plain cable until `impair` or `rebind`.

    :param switch: what the host is plugged into; by default the lab's switch.
    :param seed: of everything random.
    """

    def __init__(
        self, host: Host, switch: Host | None = None, bridge: str = SWITCH_BRIDGE, seed: int = 1
    ) -> None:
        self.host = host
        self._switch = switch or host.lab.switch
        self._bridge = bridge
        self._names = {name: f"{name}{host.number}" for name in ("port", "wire", "near", "far")}
        self._path = host.lab.directory / f"cable-{host.name}.sock"
        arguments = [self._names["near"], self._names["far"], str(self._path), str(seed)]
        command = [sys.executable, "-m", "shadowmesh.testing.cable", *arguments]
        self._process: Process = self._switch.spawn(command, f"cable-{host.name}.log")
        self._process.wait_for_line("ready", ANSWER_TIMEOUT)
        self._insert()

    def _insert(self) -> None:
        port, wire, near, far = self._names.values()
        self._switch.add_bridge(wire)
        self._switch.ip_batch(
            [
                *(f"link set {tap} mtu {self.host.lab.mtu} addrgenmode none" for tap in (near, far)),
                *(f"link set {tap} txqueuelen {QUEUE}" for tap in (near, far)),
                f"link set {far} master {self._bridge} up",
                f"link set {near} master {wire} up",
                f"link set {port} master {wire}",
            ]
        )

    def impair(self, up: Impairment, down: Impairment | None = None, towards: Sequence[str] = ()) -> None:
        """Set both directions, `down` by default like `up`.

        :param towards: remote addresses that this is for; by default all that have no other of their own.
        """
        for direction, impairment in ((UP, up), (DOWN, down or up)):
            fields = asdict(impairment)
            self._ask({"impair": fields, "direction": direction, "remotes": list(towards)})

    def clear(self) -> None:
        """Make it a plain cable again."""
        self._ask({"clear": True})

    def rebind(self) -> None:
        """Give the host other external UDP ports, as a NAT does that has lost its memory."""
        self._ask({"rebind": True})

    def counters(self) -> tuple[Counters, Counters]:
        """By direction: packets passed, damaged and doubled; and dropped, by reason."""
        answer = self._ask({})
        return answer["passed"], answer["drops"]

    def remove(self) -> None:
        """Take the box out of the cable."""
        self._switch.ip_batch(
            [
                f"link set {self._names['port']} master {self._bridge}",
                f"link del {self._names['wire']}",
            ]
        )
        self._process.terminate()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(ANSWER_TIMEOUT)
            link.connect(str(self._path))
            link.sendall(json.dumps(request).encode() + b"\n")
            with link.makefile() as lines:
                answer: dict[str, Any] = json.loads(lines.readline())
        return answer


# The program.


def _open_tap(name: str) -> int:
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return tap


def _obey(box: Box, link: socket.socket) -> None:
    """Read one request of a line, and answer with the counters."""
    with link, link.makefile() as lines:
        request = json.loads(lines.readline())
        if "impair" in request:
            box.impair(request["direction"], Impairment(**request["impair"]), request["remotes"])
        if "clear" in request:
            box.clear()
        if "rebind" in request:
            box.rebind()
        link.sendall(json.dumps({"passed": box.passed, "drops": box.drops}).encode() + b"\n")


def _take(box: Box, tap: int, direction: str) -> None:
    with contextlib.suppress(BlockingIOError):
        for _ in range(BATCH):
            box.put(os.read(tap, LARGEST), direction, time.monotonic())


def _run(box: Box, near: int, far: int, listener: socket.socket) -> None:
    directions, outward = {near: UP, far: DOWN}, {UP: far, DOWN: near}
    while True:
        deadline = box.deadline
        wait = None if deadline is None else max(0.0, deadline - time.monotonic())
        for ready in select.select([near, far, listener.fileno()], [], [], wait)[0]:
            if ready == listener.fileno():
                _obey(box, listener.accept()[0])
            else:
                _take(box, ready, directions[ready])
        for direction, frame in box.poll(time.monotonic()):
            with contextlib.suppress(OSError):  # the interface is down
                os.write(outward[direction], frame)


def main() -> None:
    """`NEAR FAR SOCKET SEED`: be the box."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("near")
    parser.add_argument("far")
    parser.add_argument("socket")
    parser.add_argument("seed", type=int)
    arguments = parser.parse_args()
    box = Box(random.Random(arguments.seed))
    near, far = _open_tap(arguments.near), _open_tap(arguments.far)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(arguments.socket)
        listener.listen()
        print("ready", flush=True)
        _run(box, near, far, listener)


if __name__ == "__main__":
    main()
