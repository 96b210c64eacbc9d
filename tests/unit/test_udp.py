"""The UDP socket: what may be fragmented on its way, seen on the loopback interface's own MTU of 65536."""

from __future__ import annotations

import errno
import socket

import pytest

from shadowmesh.io.udp import ALWAYS_FITS, open_udp, send, why_not
from shadowmesh.units import Address, Whole


class Watched:
    """A socket that notes whether fragmenting was allowed at each send."""

    def __init__(self, inner: socket.socket) -> None:
        self.inner = inner
        self.family = inner.family
        self.setsockopt = inner.setsockopt
        self.allowed: list[bool] = []

    def sendto(self, data: bytes, address: tuple[str, int]) -> None:
        self.allowed.append(self.inner.getsockopt(socket.IPPROTO_IP, 10) == 0)


@pytest.mark.parametrize("host", ["::", "127.0.0.1"])
def test_quic_may_be_fragmented_and_probes_may_not(host: str) -> None:
    with open_udp(host, 0) as udp:
        watched = Watched(udp)
        for data in (bytes(1200), Whole(bytes(1200)), bytes(ALWAYS_FITS), bytes(1200)):
            assert send(watched, data, Address("127.0.0.1", 9))  # type: ignore[arg-type]
        assert watched.allowed == [True, False, False, True]
        assert udp.getsockopt(socket.IPPROTO_IP, 10) == 2, "the engine's packets are never fragmented"


def test_a_low_port_that_is_refused_names_the_remedy() -> None:
    assert why_not(PermissionError(errno.EACCES, "Permission denied")).endswith(
        "ports below 1024 are for root or CAP_NET_BIND_SERVICE (systemd: configs/ports.conf)"
    )
    assert why_not(OSError(errno.EADDRNOTAVAIL, "Cannot assign")) == "Cannot assign"
