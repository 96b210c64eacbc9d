"""What a kernel takes back at run time: super-frames that a TAP refuses, GSO that one destination refuses."""

from __future__ import annotations

import ctypes
import errno
import json
import platform
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.reference.offload import FIN, PSH, TCP, UDP, Packet
from tests.unit.ext_harness import node_and_peer, wait_until
from tests.unit.test_ext_offload import ALL, collect, send_together, to_node, without_identity

WRITEV = {"x86_64": 20, "aarch64": 66}
"""Its number in <asm/unistd.h>."""

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, EQUAL, GREATER, RETURN = 0x20, 0x15, 0x25, 0x06
"""Instructions of classic BPF (linux/bpf_common.h): load a word, compare with a constant and skip, return."""

ALLOW, ERRNO = 0x7FFF0000, 0x00050000
NUMBER, THIRD_ARGUMENT = 0, 32
"""Offsets in struct seccomp_data (linux/seccomp.h)."""

SEGMENTS = 8
"""Single writes that the queue of a datagram socketpair holds; Linux's default limit is 10."""


def without_joins(action: Callable[[], None]) -> None:
    """Call `action` in a thread where writev() of more than one piece is EINVAL, there and in its threads.

    So a TAP behaves that knows no such super-frame: single frames are one piece.
    """
    failures: list[BaseException] = []

    def filtered() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        program = b"".join(
            struct.pack("=HBBI", *instruction)
            for instruction in (
                (LOAD, 0, 0, NUMBER),
                (EQUAL, 0, 3, WRITEV[platform.machine()]),
                (LOAD, 0, 0, THIRD_ARGUMENT),
                (GREATER, 0, 1, 1),
                (RETURN, 0, 0, ERRNO | errno.EINVAL),
                (RETURN, 0, 0, ALLOW),
            )
        )
        kept = ctypes.create_string_buffer(program)
        head = struct.pack("=H6xQ", len(program) // 8, ctypes.addressof(kept))
        try:
            assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            assert libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, head, 0, 0) == 0
            action()
        except BaseException as error:  # handed to the test below
            failures.append(error)

    thread = threading.Thread(target=filtered)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def flow(protocol: int) -> list[Packet]:
    """SEGMENTS of one super-frame; the last one is short, and of TCP has FIN and PSH."""
    return to_node(protocol, SEGMENTS * 1000 - 500, 1000, 70_000, 1, FIN | PSH)


@pytest.mark.skipif(platform.machine() not in WRITEV, reason="the number of writev() here is not known")
@pytest.mark.parametrize(("protocol", "name"), [(TCP, "tcp"), (UDP, "udp")])
def test_a_tap_that_refuses_super_frames(protocol: int, name: str) -> None:
    """The frames of the refused one come singly, unchanged and in order, and so do all that follow."""

    def check() -> None:
        with node_and_peer(features=ALL) as (node, peer):
            for _ in range(3):
                send_together(peer, [peer.packet(part.segment()) for part in flow(protocol)])
                got, writes = collect(node, SEGMENTS)
                assert without_identity(got) == without_identity(flow(protocol))
                assert writes == SEGMENTS
            assert node.engine.features() == {feature: feature != f"join_{name}" for feature in ALL}
            wait_until(lambda: node.engine.counters()["tap_tx_frames"] == 3 * SEGMENTS)
            assert node.engine.counters()["coalesce_refused"] == 1
            assert node.engine.counters()["coalesced_frames"] == 0
            assert node.drops() == {}

    without_joins(check)


def test_frames_of_one_piece_are_not_refused() -> None:
    """The same without the filter: the frames are joined."""
    with node_and_peer(features=ALL) as (node, peer):
        send_together(peer, [peer.packet(part.segment()) for part in flow(TCP)])
        got, writes = collect(node, SEGMENTS)
        assert without_identity(got) == without_identity(flow(TCP))
        assert writes < SEGMENTS
        assert node.engine.features() == dict.fromkeys(ALL, True)


NEAR_AND_FAR = """
import json, socket, subprocess
from shadowmesh._ext.engine import SendKeys
from tests.reference.offload import UDP
from tests.unit.ext_harness import Node, mac, material, raw_sockaddr, udp_socket, wait_until, wire_id
from tests.unit.test_ext_offload import ALL, packet
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
subprocess.run(["ip", "route", "add", "local", "127.0.0.2/32", "dev", "lo", "mtu", "600"], check=True)
far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
far.bind(("127.0.0.2", 0))
seen, sent = [], 0
with Node(1, socket.AF_INET, ALL) as node, udp_socket(socket.AF_INET) as near, far:
    for number, sock in enumerate((near, far)):
        sock.settimeout(5.0)
        node.engine.add_peer(1 + number, mac(100 + number))
        node.engine.set_lane(1 + number, SendKeys(material(number)), 0, wire_id(1 + number))
        node.engine.set_endpoint(1 + number, raw_sockaddr(sock), b"")
    def send(number, sock, count):
        global sent
        sent += count
        whole = packet(mac(100 + number), mac(1), UDP, bytes(count * 1000))
        node.tap.send(whole.vnet(1000) + whole.frame(partial=True))
        for _ in range(count):
            assert len(sock.recv(65536)) > 1000
    def look():
        wait_until(lambda: node.engine.counters()["udp_tx_datagrams"] == sent)
        counters, features = node.engine.counters(), node.engine.features()
        seen.append([counters["udp_gso_sends"], counters["udp_gso_refused"], features["udp_gso"]])
    for _ in range(2):
        for number, sock in enumerate((near, far)):
            send(number, sock, 50)
            look()
    for _ in range(4096 // 50):
        send(1, far, 50)
    look()
    assert node.drops() == {}
print(json.dumps(seen))
"""


@pytest.mark.root
def test_gso_is_given_up_for_one_destination_and_tried_again() -> None:
    """The way to the second peer has an MTU of 600: GSO is EINVAL there, single packets are fragmented."""
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-W", "error", "-c", NEAR_AND_FAR],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        [1, 0, True],
        [1, 1, False],  # refused, and each packet sent by itself
        [2, 1, True],  # to the first peer as before
        [2, 1, True],  # not even tried to the second
        [2, 2, False],  # but after 4096 packets
    ]
