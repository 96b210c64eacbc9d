"""The lab itself, without ShadowMesh: links, processes, sockets, and that nothing is ever left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shadowmesh.testing.lab import NETNS_DIRECTORY, NETNS_ETC, Lab
from shadowmesh.testing.process import LabError, LabTimeout, wait_until
from tests.e2e.frames import BROADCAST, Port, barrier

pytestmark = pytest.mark.root


def alive(pid: int) -> bool:
    """False also for a zombie, which has no command line: an orphan waits for the system's init."""
    path = Path(f"/proc/{pid}/cmdline")
    return path.exists() and path.read_bytes() != b""


def test_hosts_reach_each_other_at_the_whole_mtu() -> None:
    with Lab(mtu=9000) as lab:
        one, two = lab.host("one"), lab.host("two")
        assert lab.host("one") is one
        for address, header in ((two.ipv4, 28), (two.ipv6, 48)):
            assert address is not None
            one.ping(address)
            ping = ["ping", "-n", "-c", "1", "-W", "1", "-M", "do", "-s"]
            assert one.run([*ping, str(9000 - header), address]).returncode == 0
            assert one.run([*ping, str(9001 - header), address], check=False).returncode != 0
    lab.check_leaks()


def test_underlay_of_one_family_has_no_other() -> None:
    with Lab(ipv4=False) as lab:
        one, two = lab.host("one"), lab.host("two")
        assert one.ipv4 is None
        assert one.address == "fd99::1"
        one.ping(two.address)
        assert "10.99" not in one.run(["ip", "addr"]).stdout
    lab.check_leaks()


def test_frames_cross_the_switch_once() -> None:
    """The instrument of the traffic tests: every frame size, exact counts, and none comes back."""
    with Lab() as lab:
        ports = [Port(lab.host(name), "under0") for name in ("one", "two", "three")]
        one, two, three = ports
        for size in (0, 1, 46, 1486):
            frame = one.send(two.mac, b"\x5a" * size)
            two.wait(frame)
        frame = one.send(BROADCAST, b"to all" + bytes(60))
        two.wait(frame)
        three.wait(frame)
        barrier(two, one, b"1")
        barrier(two, three, b"2")
        assert [port.count(frame) for port in ports] == [0, 1, 1]
        for port in ports:
            port.__exit__(None, None, None)
    lab.check_leaks()


def test_processes_are_ended_and_reported() -> None:
    with Lab() as lab:
        host = lab.host("one")
        polite = host.spawn(["sleep", "1000"], "polite.log")
        program = "trap '' TERM; echo ready; while :; do sleep 1; done"
        stubborn = host.spawn(["sh", "-c", program], "stubborn.log")
        assert stubborn.wait_for_line("^ready$", 5.0).group() == "ready"
        assert {polite.pid, stubborn.pid} <= set(host.pids())
        assert polite.terminate() == -signal.SIGTERM
        assert stubborn.terminate(timeout=0.2) == -signal.SIGKILL
        brief = host.spawn(["sh", "-c", "echo it was me; exit 3"], "brief.log")
        with pytest.raises(LabError, match=r"exit code 3(.|\n)*it was me"):
            brief.wait_for_line("never printed", 5.0)
        assert brief.wait(1.0) == 3
        forever = host.spawn(["sleep", "1000"], "forever.log")
        with pytest.raises(LabTimeout, match="a line like 'never'"):
            forever.wait_for_line("never", 0.1)
        before = forever.cpu_seconds()
        assert 0.0 < before < 1.0
    lab.check_leaks()
    assert not forever.running


def test_a_stray_process_is_ended_and_counts_as_a_leak() -> None:
    with Lab() as lab:
        host = lab.host("one")
        host.run(["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 &"])
        pid = wait_until(host.pids, 5.0, "the stray process")[0]
    assert not alive(pid)
    with pytest.raises(LabError, match="sleep 1000"):
        lab.check_leaks()


def test_failures_leave_nothing() -> None:
    with pytest.raises(ZeroDivisionError), Lab() as lab:  # noqa: PT012
        lab.host("one").spawn(["sleep", "1000"], "x.log")
        raise ZeroDivisionError
    lab.check_leaks()
    with pytest.raises(LabError, match="no-such-device"), Lab() as lab:
        lab.host("one").run(["ip", "link", "show", "no-such-device"])
    lab.check_leaks()
    with pytest.raises(LabTimeout, match="sleep 1000"), Lab() as lab:
        lab.host("one").run(["sleep", "1000"], timeout=0.1)
    lab.check_leaks()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_leaves_nothing(number: signal.Signals) -> None:
    """A program that dies by a signal in the middle of a lab takes its lab along."""
    program = (
        "import signal, sys, time\n"
        "from shadowmesh.testing.lab import Lab\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))\n"
        "with Lab() as lab:\n"
        "    process = lab.host('one').spawn(['sleep', '1000'], 'x.log')\n"
        "    print(lab.prefix, process.pid, lab.directory, flush=True)\n"
        "    time.sleep(1000)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        assert child.stdout is not None
        prefix, pid, directory = child.stdout.readline().split()
        child.send_signal(number)
        assert child.wait(20) != 0
    assert not list(NETNS_DIRECTORY.glob(f"{prefix}-*"))
    assert not alive(int(pid))
    assert not os.path.exists(directory)


def test_names_resolve_when_they_are_written() -> None:
    with Lab() as lab:
        host = lab.host("one")
        host.write_hosts({})
        look_up = ["getent", "hosts", "relay.test"]
        waiting = host.spawn(["sh", "-c", "until getent hosts relay.test; do sleep 0.1; done"], "x.log")
        assert host.run(look_up, check=False).returncode != 0
        assert waiting.running
        host.write_hosts({"relay.test": "10.99.0.7"})
        assert waiting.wait(10.0) == 0, "a process that runs already sees the new name"
        assert "10.99.0.7" in host.run(look_up).stdout
    lab.check_leaks()
    assert not (NETNS_ETC / host.namespace).exists()


def test_sockets_belong_to_their_namespace(lab: Lab) -> None:
    one, two = lab.host("one"), lab.host("two")
    with (
        one.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        two.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
    ):
        receiver.settimeout(5.0)
        receiver.bind((two.address, 7))
        sender.sendto(b"hello", (two.address, 7))
        assert receiver.recvfrom(10)[0] == b"hello"
        with pytest.raises(OSError, match="assign requested address"):
            sender.bind((two.address, 8))
    with pytest.raises(ZeroDivisionError):
        one.inside(lambda: 1 / 0)


def test_iperf3_gives_json(lab: Lab) -> None:
    one, two = lab.host("one"), lab.host("two")
    server = two.spawn(["iperf3", "-s", "-1", "--forceflush"], "iperf3.log")
    server.wait_for_line("listening", 5.0)
    result = json.loads(one.run(["iperf3", "-c", two.address, "-n", "4M", "-J"]).stdout)
    assert result["end"]["sum_received"]["bits_per_second"] > 1e6
    assert server.wait(5.0) == 0


def test_waiting_ends_at_the_deadline() -> None:
    begin = time.monotonic()
    with pytest.raises(LabTimeout, match="never true"):
        wait_until(lambda: False, 0.1, "never true")
    assert 0.1 <= time.monotonic() - begin < 5.0
