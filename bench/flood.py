"""Small UDP datagrams, as many as asked for: the sender and the sink of `compare.py`.

`sendmmsg` and `recvmmsg` by ctypes, 64 and 256 datagrams a call, no UDP GSO and no GRO: each datagram
is one packet from the socket on, as from a program that sends small messages.  Run as a program
inside a namespace; prints one line of JSON.  Standard library only, so that it starts fast.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import json
import socket
import time

PAYLOAD = 64
SEND_BATCH, RECEIVE_BATCH = 64, 256
BUFFER = 4 << 20
SO_RCVBUFFORCE = 33
"""socket(7), asm-generic/socket.h: beyond net.core.rmem_max, for root."""
MSG_WAITFORONE = 0x10000
QUIET = 0.3
"""Seconds without a datagram after which the sink takes the flood for ended."""


class Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class Header(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.POINTER(Vector)),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class Message(ctypes.Structure):
    _fields_ = (("header", Header), ("length", ctypes.c_uint))


class Batch:
    """`count` messages that all use one buffer: what is in them is of no interest."""

    def __init__(self, count: int, size: int) -> None:
        self._buffer = ctypes.create_string_buffer(size)
        self._vector = Vector(ctypes.addressof(self._buffer), size)
        self.messages = (Message * count)()
        for message in self.messages:
            message.header.vectors = ctypes.pointer(self._vector)
            message.header.vector_count = 1


LIBC = ctypes.CDLL(None, use_errno=True)


def send(address: str, port: int, seconds: float, rate: int) -> dict[str, float]:
    """Send for `seconds` at `rate` datagrams a second; 0: as fast as it goes.  Returns what was offered."""
    batch = Batch(SEND_BATCH, PAYLOAD)
    sent = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.connect((address, port))
        begin = time.monotonic()
        while (elapsed := time.monotonic() - begin) < seconds:
            due = SEND_BATCH if not rate else min(SEND_BATCH, int(elapsed * rate) - sent)
            if due < min(16, SEND_BATCH) and rate:
                time.sleep(16 / rate)
                continue
            done = LIBC.sendmmsg(link.fileno(), batch.messages, due, 0)
            if done < 0 and ctypes.get_errno() not in (errno.ENOBUFS, errno.EAGAIN, errno.ECONNREFUSED):
                raise OSError(ctypes.get_errno(), "sendmmsg")
            sent += max(0, done)
    return {"packets": sent, "per_second": sent / elapsed}


def receive(address: str, port: int, seconds: float) -> dict[str, float]:
    """Count what comes until it has been quiet for `QUIET`; gives up after `seconds` + 3 without anything."""
    batch = Batch(RECEIVE_BATCH, 2048)
    count, first, last = 0, 0.0, 0.0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        link.bind((address, port))
        print("listening", flush=True)
        link.settimeout(seconds + 3)
        while True:
            try:
                link.recv(2048)  # waits with a time-out, which recvmmsg's own does not do reliably
            except TimeoutError:
                break
            last = time.monotonic()
            if not first:
                first = last
                link.settimeout(QUIET)
            done = LIBC.recvmmsg(
                link.fileno(), batch.messages, RECEIVE_BATCH, socket.MSG_DONTWAIT | MSG_WAITFORONE, None
            )
            count += 1 + max(0, done)
    return {"packets": count, "per_second": count / (last - first) if last > first else 0.0}


def main() -> None:
    """`send ADDRESS PORT SECONDS RATE` or `receive ADDRESS PORT SECONDS`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("role", choices=("send", "receive"))
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("rate", type=int, nargs="?", default=0, help="datagrams a second; 0: no limit")
    arguments = parser.parse_args()
    target = (arguments.address, arguments.port, arguments.seconds)
    print(json.dumps(send(*target, arguments.rate) if arguments.role == "send" else receive(*target)))


if __name__ == "__main__":
    main()
