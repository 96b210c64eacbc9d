"""Several forwarder threads: a socket for each on one port, and ids by which the kernel finds the right one.

Each client is one thread's.  A classic BPF program leads a datagram to the socket with the number of an id's
first byte modulo the threads: the byte behind the first one of a short header, the first byte of the
destination connection id of a long one (RFC 8999 section 5.1).  So whatever the relay allots to a client for
its lanes and channels begins with a byte that leads to its thread.  Nothing but speed depends on it: the
threads hand over what came to the wrong one.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import socket
import struct
from collections.abc import Callable

from shadowmesh.errors import DeviceError
from shadowmesh.io.udp import local_address, open_udp
from shadowmesh.units import ID_SIZE

MOST_THREADS = 8
"""As many as ext/forward.pyx has room for."""
RECEIVE_BUFFER = 32 << 20
"""Bytes before each thread: of a shorter queue, a burst of one client's trains takes more from others."""
_SO_ATTACH_REUSEPORT_CBPF = 51
"""socket(7), asm-generic/socket.h."""
_LONG_HEADER, _LONG_ID, _SHORT_ID = 0x80, 6, 1
_LOAD_BYTE, _JUMP, _JUMP_IF_SET, _MODULO, _RETURN = 0x30, 0x05, 0x45, 0x94, 0x16
"""linux/bpf_common.h: BPF_LD|B|ABS, JMP|JA, JMP|JSET|K, ALU|MOD|K, RET|A."""


class Steering:
    """Threads in turns for newcomers, and ids that lead to them. One thread: any id will do.

    :param random: returns n random bytes.
    """

    def __init__(self, threads: int, random: Callable[[int], bytes]) -> None:
        self._threads = threads
        self._random = random
        self._turns = itertools.cycle(range(threads))

    def next_thread(self) -> int:
        """For a client that comes."""
        return next(self._turns)

    def new_id(self, thread: int) -> bytes:
        """An id of `ID_SIZE` bytes, random but for where it leads."""
        drawn = self._random(ID_SIZE)
        first = drawn[0] - drawn[0] % self._threads + thread
        return bytes([first if first < 256 else first - self._threads]) + drawn[1:]


def threads_for(wanted: int) -> int:
    """How many there will be; 0 wants one for each processor that we may use."""
    return wanted or min(len(os.sched_getaffinity(0)), MOST_THREADS)


def open_steered(host: str, port: int, threads: int) -> list[socket.socket]:
    """So many sockets on one port, each for a thread. Raises DeviceError.

    The first is bound as if it were alone, so that a port that another program has is refused as ever.
    """
    sockets = [open_udp(host, port, receive_buffer=RECEIVE_BUFFER)]
    if threads == 1:
        return sockets
    try:
        sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound = local_address(sockets[0])
        sockets.extend(
            open_udp(bound.host, bound.port, True, RECEIVE_BUFFER) for _ in range(threads - 1)
        )  # one by one, so that those before a failure are closed
        _attach(sockets[0], threads)
    except (OSError, DeviceError) as error:
        for one in sockets:
            one.close()
        text = f"can't share a UDP port between {threads} threads: {error}"
        raise DeviceError(text, "device.listen") from error
    return sockets


def _attach(udp: socket.socket, threads: int) -> None:
    """Choose the socket by `_program`, for all on the port of this one."""
    program = b"".join(struct.pack("=HBBI", *instruction) for instruction in _program(threads))
    room = ctypes.create_string_buffer(program)
    given = struct.pack("@HP", len(program) // 8, ctypes.addressof(room))
    udp.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, given)


def _program(threads: int) -> list[tuple[int, int, int, int]]:
    """Operation, steps to jump if so and if not, operand. What is too short goes to the first socket."""
    return [
        (_LOAD_BYTE, 0, 0, 0),
        (_JUMP_IF_SET, 0, 2, _LONG_HEADER),
        (_LOAD_BYTE, 0, 0, _LONG_ID),
        (_JUMP, 0, 0, 1),
        (_LOAD_BYTE, 0, 0, _SHORT_ID),
        (_MODULO, 0, 0, threads),
        (_RETURN, 0, 0, 0),
    ]
