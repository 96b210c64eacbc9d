"""A stream of numbered UDP datagrams between two hosts of the lab: what is lost, doubled, late?

`Stream` starts both ends; this module run as a program is each of them, inside its namespace:

    python -m shadowmesh.testing.stream send ADDRESS PORT RATE SIZE
    python -m shadowmesh.testing.stream receive ADDRESS PORT

Both run until SIGTERM and then print one line of JSON; the receiver also prints each gap as it ends.
One datagram a call, so that every one is a packet of its own on the link.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import socket
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from shadowmesh.testing.process import LabError

if TYPE_CHECKING:
    from types import TracebackType

    from shadowmesh.testing.lab import Host
    from shadowmesh.testing.process import Process

PORT = 5400
SIZE = 200
"""Bytes of UDP payload."""
NUMBER_SIZE = 8
BURST = 32
"""Datagrams at most without a look at the clock."""
GAP = 0.05
"""Seconds without a datagram that count as a gap."""
SETTLE = 0.3
"""Seconds for what is under way when the sender stops."""
SO_RCVBUFFORCE = 33
"""socket(7), asm-generic/socket.h: beyond net.core.rmem_max, for root."""
BUFFER = 4 << 20


@dataclass(frozen=True)
class Gap:
    """A silence: when it began, by the wall clock, and how long it was, in seconds."""

    began: float
    length: float


@dataclass(frozen=True)
class Result:
    """What became of a stream."""

    sent: int
    received: int
    """Different datagrams that arrived."""
    doubled: int
    """Arrivals of a datagram that had arrived before."""
    overtaken: int
    """Arrivals after one with a higher number."""
    per_second: float
    """Datagrams sent."""
    gaps: list[Gap]

    @property
    def lost(self) -> int:
        """Datagrams that never arrived."""
        return self.sent - self.received

    def __str__(self) -> str:
        longest = max((gap.length for gap in self.gaps), default=0.0)
        return (
            f"{self.sent} sent at {self.per_second:.0f}/s, {self.lost} lost, {self.doubled} doubled, "
            f"{self.overtaken} overtaken, " + (f"longest gap {longest:.3f} s" if longest else "no gap")
        )


class Stream:
    """Context manager: a stream from `source` to `address` of `target`; the sender starts at once.

    :param rate: datagrams a second.
    :param size: bytes of UDP payload.
    """

    def __init__(
        self, source: Host, target: Host, address: str, rate: int, size: int = SIZE, port: int = PORT
    ) -> None:
        self._source, self._target = source, target
        self._where = [address, str(port)]
        self._how = [str(rate), str(size)]
        self._sender: Process
        self._receiver: Process

    def __enter__(self) -> Self:
        program = [sys.executable, "-m", "shadowmesh.testing.stream"]
        count = len(self._target.processes) + len(self._source.processes)
        self._receiver = self._target.spawn(
            [*program, "receive", *self._where], f"stream-{count}-receive.log"
        )
        self._receiver.wait_for_line("listening", 10.0)
        command = [*program, "send", *self._where, *self._how]
        self._sender = self._source.spawn(command, f"stream-{count}-send.log")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in (self._sender, self._receiver):
            process.terminate()

    def wait_flowing(self, timeout: float = 10.0) -> None:
        """Return when the first datagram has arrived."""
        self._receiver.wait_for_line("first", timeout)

    def gaps(self) -> list[Gap]:
        """The gaps that have ended so far."""
        lines = [line for line in self._receiver.output().splitlines() if line.startswith('{"began"')]
        return [Gap(**json.loads(line)) for line in lines]

    def stop(self) -> Result:
        """End it, and count.  `LabError` if an end died."""
        self._sender.terminate()
        time.sleep(SETTLE)
        self._receiver.terminate()
        sent, received = _last(self._sender), _last(self._receiver)
        return Result(
            sent=int(sent["sent"]),
            received=int(received["received"]),
            doubled=int(received["doubled"]),
            overtaken=int(received["overtaken"]),
            per_second=sent["sent"] / sent["seconds"],
            gaps=self.gaps(),
        )


def _last(process: Process) -> dict[str, float]:
    try:
        document: dict[str, float] = json.loads(process.output().splitlines()[-1])
        return document
    except (IndexError, ValueError):
        raise LabError(f"no result\n{process.report()}") from None


def queue_drops(host: Host, interface: str) -> int:
    """Packets that the kernel of this host dropped in queues: of sockets, and of `interface` either way."""
    counters = host.run(["cat", "/proc/net/snmp"]).stdout.splitlines()
    names, values = (line.split() for line in counters if line.startswith("Udp:"))
    drops = sum(int(values[names.index(name)]) for name in ("RcvbufErrors", "SndbufErrors"))
    link = host.link(interface)
    if link is not None:
        drops += sum(int(link["stats64"][side]["dropped"]) for side in ("rx", "tx"))
    return drops


# The two ends.


class _Stopped(Exception):
    """SIGTERM came while the receiver waited."""


_stopping: list[int] = []
"""Signals that the sender was told to end by: it looks between datagrams, so that it counts them right."""


def _send(address: str, port: int, rate: int, size: int) -> dict[str, float]:
    sent, padding = 0, bytes(size - NUMBER_SIZE)
    begin = time.monotonic()
    signal.signal(signal.SIGTERM, lambda number, _frame: _stopping.append(number))
    with socket.socket(_family(address), socket.SOCK_DGRAM) as link:
        link.connect((address, port))
        while not _stopping:
            due = int((time.monotonic() - begin) * rate) - sent
            for number in range(sent, sent + min(due, BURST)):
                with contextlib.suppress(ConnectionRefusedError):
                    link.send(number.to_bytes(NUMBER_SIZE, "big") + padding)
                sent = number + 1
            if due < BURST:
                time.sleep(min(0.001, max(0.0, begin + (sent + 1) / rate - time.monotonic())))
    return {"sent": sent, "seconds": time.monotonic() - begin}


class _Counter:
    """What has arrived."""

    def __init__(self) -> None:
        self._seen = bytearray(1 << 20)
        self._highest = -1
        self.received = self.doubled = self.overtaken = 0

    def add(self, number: int) -> None:
        if number >= len(self._seen):
            self._seen.extend(bytes(number + len(self._seen)))
        if self._seen[number]:
            self.doubled += 1
            return
        self._seen[number] = 1
        self.received += 1
        if number > self._highest:
            self._highest = number
        else:
            self.overtaken += 1


def _receive(address: str, port: int) -> dict[str, float]:
    counter, buffer, last = _Counter(), bytearray(65_536), 0.0
    number = memoryview(buffer)[:NUMBER_SIZE]
    signal.signal(signal.SIGTERM, _stop)
    with socket.socket(_family(address), socket.SOCK_DGRAM) as link, contextlib.suppress(_Stopped):
        link.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        link.bind((address, port))
        print("listening", flush=True)
        while True:
            link.recv_into(buffer)
            now = time.time()
            if not last:
                print("first", flush=True)
            elif now - last > GAP:
                print(json.dumps({"began": last, "length": now - last}), flush=True)
            last = now
            counter.add(int.from_bytes(number, "big"))
    return {"received": counter.received, "doubled": counter.doubled, "overtaken": counter.overtaken}


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _stop(*_: object) -> None:
    raise _Stopped


def main() -> None:
    """`send ADDRESS PORT RATE SIZE` or `receive ADDRESS PORT`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("role", choices=("send", "receive"))
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("rate", type=int, nargs="?", default=1000, help="datagrams a second")
    parser.add_argument("size", type=int, nargs="?", default=SIZE, help="bytes of UDP payload")
    arguments = parser.parse_args()
    target = (arguments.address, arguments.port)
    if arguments.role == "send":
        print(json.dumps(_send(*target, arguments.rate, arguments.size)))
    else:
        print(json.dumps(_receive(*target)))


if __name__ == "__main__":
    main()
