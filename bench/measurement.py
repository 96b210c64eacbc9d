"""The figures of one round of one system that is up, each by its own method.

Starts no system and judges nothing: `compare.py` does the former, `verdict.py` the latter.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from shadowmesh.testing.process import LabError
from shadowmesh.testing.traffic import iperf

if TYPE_CHECKING:
    import argparse

    from bench.systems.base import System
    from shadowmesh.testing.lab import Host

Run = dict[str, float]

FLOOD = Path(__file__).resolve().parent / "flood.py"
FLOOD_PORT = 5301
FLOOD_RATES = (50_000, 100_000, 200_000, 400_000, 0)
"""Datagrams a second offered, one after another; 0 is without a limit.  The peak is the best of them."""
FLOOD_SECONDS = 2

PING_INTERVAL = 0.01
"""Seconds.  Below 10 ms ping polls instead of sleeping, and keeps a core awake that is idle otherwise."""

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
"""linux/if_tun.h"""


class Measurement:
    """One system that is up: the figures of one round, each by its own method."""

    def __init__(
        self, system: System, near: Host, far: Host, address: str, options: argparse.Namespace
    ) -> None:
        self._system = system
        self._near = near
        self._far = far
        self._address = address
        self._options = options

    def all(self) -> Run:
        """Everything of one round, in an order that leaves the idle figures undisturbed."""
        run: Run = {}
        run |= self._ping("idle")
        run |= self._tcp()
        with ThreadPoolExecutor(1) as pool:
            load = pool.submit(self._iperf, self._options.seconds + 1)
            time.sleep(0.5)
            run |= self._ping("load")
            load.result()
        run |= self._floods()
        if self._system.ends:
            run["rss_mb"] = max(resident(process.pid) for process in self._system.ends) / 1e6
        return run

    def _iperf(self, seconds: int, reverse: bool = False, streams: int = 1) -> tuple[float, int]:
        asked = self._options.congestion
        done = iperf(self._near, self._address, seconds, asked, reverse, streams)
        if done.congestion != asked:
            raise LabError(f"TCP ran with {done.congestion}, not {asked}")
        return done.gbit_per_second, done.received_bytes

    def _cpu(self) -> float:
        return sum(process.cpu_seconds() for process in (*self._system.ends, *self._system.helpers))

    def _tcp(self) -> Run:
        seconds = self._options.seconds
        before = self._cpu()
        one, received = self._iperf(seconds)
        run = {"tcp1_gbit": one}
        if self._system.ends:
            run["cpu_s_per_gb"] = (self._cpu() - before) / (received / 1e9)
        run["tcp4_gbit"], _ = self._iperf(seconds, streams=4)
        run["reverse_gbit"], _ = self._iperf(seconds, reverse=True)
        return run

    def _ping(self, state: str) -> Run:
        """p50 and p99 in µs of `seconds` of echoes."""
        count = max(10, int(self._options.seconds / PING_INTERVAL))
        command = ["ping", "-n", "-i", str(PING_INTERVAL), "-c", str(count), "-W", "1", self._address]
        done = self._near.run(command, check=False, timeout=self._options.seconds + 30)
        times = sorted(float(value) * 1000 for value in re.findall(r"time=([0-9.]+) ms", done.stdout))
        # Once each: a duplicate would stand for an echo that was lost.
        answered = len(set(re.findall(r"icmp_seq=(\d+)", done.stdout)))
        if not times:
            raise LabError(f"{' '.join(command)}: no answer\n{done.stdout}{done.stderr}")
        return {
            f"rtt_{state}_p50_us": times[len(times) // 2],
            f"rtt_{state}_p99_us": times[min(len(times) - 1, len(times) * 99 // 100)],
            f"rtt_{state}_lost_percent": 100 * (count - answered) / count,
        }

    def _floods(self) -> Run:
        rates = (0,) if self._options.smoke else FLOOD_RATES
        seconds = min(self._options.seconds, FLOOD_SECONDS)
        received = {rate: self._flood(rate, seconds) for rate in rates}
        return {
            "udp64_peak_kpps": max(taken for _, taken in received.values()),
            "udp64_flood_kpps": received[0][1],
            "udp64_offered_kpps": received[0][0],
        }

    def _flood(self, rate: int, seconds: int) -> tuple[float, float]:
        """64-byte datagrams sent and received, in thousands a second, at one rate that is asked for."""
        arguments = flood_arguments("receive", self._address, seconds)
        sink = self._far.spawn(arguments, f"flood-{len(self._far.processes)}.log")
        try:
            sink.wait_for_line("listening", 10.0)
            offered = flood(self._near, self._address, seconds, rate)
            sink.wait(30.0)
            if sink.returncode:
                raise LabError(sink.report())
            return offered, float(json.loads(sink.output().splitlines()[-1])["per_second"]) / 1000
        finally:
            sink.terminate()


def flood_arguments(role: str, address: str, seconds: int) -> list[str]:
    """The command line of `flood.py`; -S: no site packages, nothing to load but the standard library."""
    return [sys.executable, "-S", str(FLOOD), role, address, str(FLOOD_PORT), str(seconds)]


def flood(source: Host, address: str, seconds: int, rate: int = 0) -> float:
    """Send; returns what was sent, in thousands a second."""
    done = source.run([*flood_arguments("send", address, seconds), str(rate)])
    return float(json.loads(done.stdout)["per_second"]) / 1000


def flood_ceiling(host: Host, seconds: int) -> float:
    """What the source of small datagrams can send: into a TAP that nobody reads, while nothing else runs.

    No system can show more than that, however fast it is.
    """
    tap = host.inside(lambda: os.open("/dev/net/tun", os.O_RDWR))
    try:
        # A TAP belongs to the namespace of the thread that opened its descriptor.
        fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", b"sink0", IFF_TAP | IFF_NO_PI))
        host.run(["ip", "address", "add", "10.89.0.1/24", "dev", "sink0"])
        host.run(["ip", "link", "set", "sink0", "up"])
        host.run(["ip", "neighbour", "add", "10.89.0.2", "lladdr", "02:00:00:00:00:02", "dev", "sink0"])
        return flood(host, "10.89.0.2", seconds)
    finally:
        os.close(tap)


def resident(pid: int) -> int:
    """Resident memory of a process in bytes."""
    match = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(match[1]) * 1024 if match else 0
