"""The TAP device, made for real in a network namespace of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shadowmesh.errors import DeviceError
from shadowmesh.io.tap import Tap

MAC = bytes.fromhex("020000000001")
ADDRESSES = ["10.77.0.1/24", "fd77::1/64"]


CONTAINER = """
echo 1 > /proc/sys/net/ipv6/conf/default/addr_gen_mode
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
exec "$@"
"""
"""A container has /proc/sys read-only; and this kernel makes no link-local address by itself."""


def in_namespace(code: str, *before: str) -> object:
    """Run `code` in a fresh network namespace, behind `before`; what it assigns to `result` comes back."""
    program = f"""
import asyncio, json, subprocess, socket
from shadowmesh.errors import DeviceError
from shadowmesh.io.tap import Tap
MAC = bytes.fromhex("020000000001")
ADDRESSES = {ADDRESSES!r}
def ip(*words):
    return json.loads(subprocess.run(["ip", "-j", *words], check=True, capture_output=True).stdout)
{code}
print(json.dumps(result))
"""
    done = subprocess.run(
        ["unshare", "--net", "--mount", *before, sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.root
def test_offloads_fall_back_one_by_one() -> None:
    """A kernel without USO, then one without any, each posed by refusing the larger requests."""
    result = in_namespace("""
import fcntl
import shadowmesh.io.tap as module
real, result, refused = fcntl.ioctl, [], set()
def ioctl(fd, request, *rest):
    if request == 0x400454D0 and rest[0] in refused:
        raise OSError(22, "Invalid argument")
    return real(fd, request, *rest)
module.fcntl.ioctl = ioctl
for _, value in module._OFFLOADS:
    with Tap.open("smesh0", MAC, 1380, ADDRESSES) as tap:
        result.append(tap.offloads)
    refused.add(value)
""")
    assert result == [["checksum", "tso", "uso"], ["checksum", "tso"], []]


@pytest.mark.root
def test_a_device_with_addresses_that_goes_with_its_descriptor() -> None:
    result = in_namespace("""
with Tap.open("smesh0", MAC, 1380, ADDRESSES) as tap:
    link = ip("addr", "show", "dev", "smesh0")[0]
    ra = open("/proc/sys/net/ipv6/conf/smesh0/accept_ra").read().strip()
    blocking = __import__("os").get_blocking(tap.fileno())
    up = [tap.up]
    for words in (["set", "smesh0", "down"], ["del", "smesh0"]):
        subprocess.run(["ip", "link", *words], check=True)
        up.append(tap.up)
tap.close()
result = [link, ra, blocking, up, [name for _, name in socket.if_nameindex()]]
""")
    assert isinstance(result, list)
    link, accept_ra, blocking, up, names = result
    assert up == [True, False, False]
    assert (link["address"], link["mtu"]) == (MAC.hex(":"), 1380)
    assert "UP" in link["flags"]
    shown = [f"{entry['local']}/{entry['prefixlen']}" for entry in link["addr_info"]]
    assert shown[:2] == ADDRESSES
    assert not any(entry.get("tentative") for entry in link["addr_info"])
    assert (accept_ra, blocking) == ("0", False)
    assert "smesh0" not in names


@pytest.mark.root
@pytest.mark.parametrize("bridged", [False, True])
def test_in_a_container_the_settings_stay_that_proc_sys_has(bridged: bool) -> None:
    result = in_namespace(
        f"""
from shadowmesh.io.bridge import LinuxBridge
subprocess.run(["ip", "link", "add", "br0", "up", "type", "bridge"], check=True)
with Tap.open("smesh0", MAC, 1380, ADDRESSES, LinuxBridge.find("br0") if {bridged} else None) as tap:
    result = [tap.unset, [entry["local"] for entry in ip("addr", "show", "dev", "smesh0")[0]["addr_info"]]]
""",
        *("sh", "-ec", CONTAINER, "sh"),
    )
    assert isinstance(result, list)
    unset, addresses = result
    if bridged:
        assert (unset, addresses) == (["disable_ipv6=0"], [])
    else:
        assert unset == ["accept_ra=1", "accept_dad=1", "keep_addr_on_down=0"]
        assert addresses == ["10.77.0.1", "fd77::1", "fe80::ff:fe00:1"]


@pytest.mark.root
@pytest.mark.parametrize("runner", ["asyncio.run", "__import__('uvloop').run"])
def test_a_device_made_inside_an_event_loop(runner: str) -> None:
    result = in_namespace(f"""
async def main():
    with Tap.open("smesh0", MAC, 1380, ADDRESSES) as tap:
        return ip("link", "show", "dev", tap.name)[0]["mtu"]
result = {runner}(main())
""")
    assert result == 1380


@pytest.mark.root
@pytest.mark.parametrize(
    ("name", "addresses", "mtu", "expected"),
    [
        ("lo", [], 1380, "there is an interface lo already"),
        ("smesh0", ["10.77.0.1/24", "10.77.0.1/24"], 1380, "interface smesh0: can't add 10.77.0.1/24"),
        ("smesh0", [], 10, "interface smesh0: can't set its MAC address and MTU 10"),
    ],
)
def test_a_failure_leaves_nothing_behind(name: str, addresses: list[str], mtu: int, expected: str) -> None:
    result = in_namespace(f"""
before = len(__import__("os").listdir("/proc/self/fd"))
try:
    Tap.open({name!r}, MAC, {mtu}, {addresses!r})
except DeviceError as error:
    result = [str(error), [name for _, name in socket.if_nameindex()],
              len(__import__("os").listdir("/proc/self/fd")) - before]
""")
    assert isinstance(result, list)
    text, names, leaked = result
    assert expected in text
    assert names == ["lo"]
    assert leaked == 0


@pytest.mark.root
def test_a_name_that_is_in_use() -> None:
    result = in_namespace("""
with Tap.open("smesh0", MAC, 1380, []):
    try:
        Tap.open("smesh0", MAC, 1380, [])
    except DeviceError as error:
        result = str(error)
""")
    assert result == "there is an interface smesh0 already: set another interface.name, or remove it"


IN_A_BRIDGE = """
from shadowmesh.io.bridge import LinuxBridge
def run(*words):
    subprocess.run(["ip", *words], check=True)
def state():
    link = ip("-d", "addr", "show", "dev", "br0")[0]
    return [link["address"], link["mtu"], [a["local"] for a in link["addr_info"] if a["scope"] == "global"]]
run("link", "add", "br0", "address", "0a:00:00:00:00:01", "type", "bridge")
run("link", "set", "br0", "up")
run("link", "add", "port", "address", "0a:00:00:00:00:01", "type", "veth", "peer", "name", "far")
run("link", "set", "port", "master", "br0")
run("address", "add", "10.77.0.1/24", "dev", "br0")
"""


@pytest.mark.root
def test_in_a_bridge_the_addresses_are_the_bridges_and_go_again() -> None:
    """The bridge keeps its MAC (ours is lower), its MTU, and the address that it had already."""
    result = in_namespace(
        IN_A_BRIDGE
        + """
before = state()
bridge = LinuxBridge.find("br0")
with Tap.open("smesh0", MAC, bridge.mtu, [*ADDRESSES, "10.77.0.9/24"], bridge) as tap:
    link = ip("-d", "addr", "show", "dev", "smesh0")[0]
    inside = [link["master"], link["addr_info"], link["address"], link["mtu"], state(), tap.write(bytes(60))]
result = [before, inside, state(), [name for _, name in socket.if_nameindex()], bridge.mac.hex(), bridge.up]
"""
    )
    assert isinstance(result, list)
    before, inside, after, names, bridge_mac, up = result
    assert before == ["0a:00:00:00:00:01", 1500, ["10.77.0.1"]]
    own = [before[0], 1500, ["10.77.0.1", "10.77.0.9", "fd77::1"]]
    assert inside == ["br0", [], MAC.hex(":"), 1500, own, True]
    assert (after, bridge_mac, up) == (before, "0a0000000001", True)
    assert sorted(names) == ["br0", "far", "lo", "port"]


@pytest.mark.root
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ('LinuxBridge.find("br1")', "there is no bridge br1; make it with: ip link add br1 type bridge"),
        ('LinuxBridge.find("port")', "port is no bridge, but an interface of another kind"),
        (
            'Tap.open("smesh0", MAC, 1500, ["10.77.0.9/24", "10.77.0.8/33"], LinuxBridge.find("br0"))',
            "interface smesh0: can't add 10.77.0.8/33",
        ),
        (
            'Tap.open("smesh0", MAC, 1500, [], LinuxBridge("br0", 99, b"\\x02" * 6, 1500, True))',
            "interface smesh0: can't make it a port of br0",
        ),
    ],
)
def test_a_bridge_that_is_none_and_a_failure_leave_all_as_it_was(code: str, expected: str) -> None:
    result = in_namespace(
        IN_A_BRIDGE
        + f"""
before = state()
try:
    {code}
except DeviceError as error:
    result = [str(error), state() == before, [name for _, name in socket.if_nameindex()]]
"""
    )
    assert isinstance(result, list)
    assert expected in result[0]
    assert result[1:] == [True, ["lo", "br0", "far", "port"]]


@pytest.mark.parametrize(
    ("code", "expected"), [(2, "modprobe tun"), (13, "run as root"), (24, "Too many open files")]
)
def test_a_device_file_that_can_not_be_opened(
    code: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(DeviceError, match=expected):
        Tap.open("smesh0", MAC, 1380, [])


BOTH_WAYS = """
import fcntl, socket
import shadowmesh.io.tap as module
from tests.reference.offload import UDP, Packet, split
from tests.unit import ext_harness as harness
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)

class RealNode(harness.Node):
    # An engine on the real device in place of the socketpair.
    def __init__(self, tap):
        harness.Plane.__init__(self, socket.AF_INET6)
        self.mac = MAC
        self.engine = self.plane = harness.Engine(self.udp.fileno(), tap.fileno(), self.event_fd, MAC)
        self.engine.start()
    def __exit__(self, *error):
        harness.Plane.__exit__(self, *error)

def out(near, peer):
    # A send of five datagrams, as the kernel cuts it or leaves it to the engine.
    parts = [bytes([number]) * 1000 for number in range(5)]
    near.sendmsg([b"".join(parts)], [(17, 103, (1000).to_bytes(2, "little"))], 0, ("10.77.0.2", 9))
    got = []
    while len(got) < 5:
        payload = peer.open(peer.udp.recv(65536))[1]
        if payload[-1000:] in parts:
            got.append(payload[-1000:])
    return got == parts

def back(near, node, peer):
    # Five segments in one batch: joined for the device, and datagrams again behind it.
    addresses = socket.inet_aton("10.77.0.2"), socket.inet_aton("10.77.0.1")
    ports = 9, near.getsockname()[1]
    whole = Packet(MAC + peer.mac + b"\\x08\\x00", *addresses, UDP, b"x" * 5000, ports=ports)
    sealed = [peer.packet(part.segment()) for part in split(whole, 1000)]
    control = (17, 103, len(sealed[0]).to_bytes(2, "little"))
    peer.udp.sendmsg([b"".join(sealed)], [control], 0, node.udp.getsockname())
    return [near.recv(65536) for _ in range(5)] == [b"x" * 1000] * 5

result, offloads = [], list(module._OFFLOADS)
while offloads:
    module._OFFLOADS = tuple(offloads)
    with Tap.open("smesh0", MAC, 1380, ["10.77.0.1/24"]) as tap, RealNode(tap) as node:
        peer = harness.Peer(node)
        neighbour = ["ip", "neigh", "add", "10.77.0.2", "lladdr", peer.mac.hex(":"), "dev", "smesh0"]
        subprocess.run(neighbour, check=True)
        with peer.udp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as near:
            near.bind(("10.77.0.1", 0))
            near.settimeout(5.0)
            intact = [out(near, peer), back(near, node, peer)]
            harness.wait_until(lambda: node.engine.counters()["coalesced_frames"] == 1)
            counters = node.engine.counters()
            cut, joined = counters["split_frames"] > 0, counters["coalesced_frames"]
            result.append([list(tap.offloads), intact, cut, joined, node.engine.features()["join_udp"]])
    offloads.pop(0)
"""


@pytest.mark.root
def test_frames_cross_whatever_the_kernel_offers() -> None:
    """USO, TSO without USO, and nothing: each forced; only who cuts the datagrams apart differs."""
    assert in_namespace(BOTH_WAYS) == [
        [["checksum", "tso", "uso"], [True, True], True, 1, True],
        [["checksum", "tso"], [True, True], False, 1, True],
        [[], [True, True], False, 1, True],
    ]
