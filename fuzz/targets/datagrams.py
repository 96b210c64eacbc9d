"""Whatever datagrams reach a client and a relay, nothing raises, and traffic goes on."""

from __future__ import annotations

from shadowmesh.units import Address
from tests.protocol.mesh import Mesh

MESH = Mesh()
MESH.start_relay()
for _number in (0, 1):
    MESH.start_client(_number, (1 - _number,))
MESH.pair_up()
MESH.exchange(0, 1)
SEEDS = [data for _, _, _, data in MESH.network.sent]
SOURCES = (Address("192.0.2.1", 4433), Address("198.51.100.1", 5000), Address("203.0.113.5", 99))
_count = 0


def target(data: bytes) -> None:
    """To both ends, from an address that they know and one that they don't; traffic must still cross."""
    global _count
    _count += 1
    assert MESH.relay is not None
    for station in (MESH.clients[0], MESH.relay):
        if data:
            station.receive(data, SOURCES[_count % len(SOURCES)], MESH.network.now)
            MESH.network.flush(station)
    if _count % 50 == 0:
        MESH.network.run_for(0.2)
        assert MESH.connected(0, 1)
        MESH.exchange(0, 1)
        MESH.network.sent.clear()
