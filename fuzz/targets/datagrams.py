"""Whatever datagrams reach a client and a relay, altered, repeated, of another connection or from another
address, nothing raises, no tables grow, and traffic goes on.

An input is a program of datagrams for a mesh in memory: made of what it sends itself, since nothing else
opens.
"""

from __future__ import annotations

from fuzz.program import Program, string
from shadowmesh.units import Address
from tests.protocol.mesh import Mesh

COVERS = (
    "shadowmesh.core.node",
    "shadowmesh.core.routing",
    "shadowmesh_relay.protocol",
    "shadowmesh.wire.headers",
)
SOURCES = (Address("192.0.2.1", 4433), Address("198.51.100.1", 5000), Address("203.0.113.5", 99))
BLIND_RUNS = 60
"""Of the tests: an input takes milliseconds."""

STEPS = 10
RAW, OLD, RECENT, ALTER, CUT, SPLICE, READDRESS = range(7)
KEPT = 400
"""Datagrams that are remembered."""


def _mesh() -> Mesh:
    mesh = Mesh()
    mesh.start_relay()
    for number in (0, 1):
        mesh.start_client(number, (1 - number,))
    mesh.pair_up()
    mesh.exchange(0, 1)
    return mesh


MESH = _mesh()
OLD_ONES = [data for _, _, _, data in MESH.network.sent][:KEPT]
RECENT_ONES = list(OLD_ONES[-60:])
INITIAL = b"\xc3\0\0\0\1\x08destinat\x08sourceid\0\x44\x9e" + bytes(1174)
SEEDS = [
    *(bytes([what, number % 2, number % 3, 0, number]) for number in range(12) for what in (OLD, RECENT)),
    *(bytes([ALTER, number % 2, 0, 0, number, 0, 1 << number, 1]) for number in range(8)),
    bytes([RAW, 1, 2]) + string(INITIAL) + bytes([RAW, 0, 0]) + string(b"\x43" + bytes(40)),
    bytes([CUT, 1, 0, 0, 0, 4, 0, SPLICE, 1, 1, 0, 1, 0, 20, 0, 2, READDRESS, 0, 0, 0, 7, 0, 9]),
]


def made(what: int, program: Program) -> bytes:
    """A datagram."""
    if what == RAW:
        return program.string()
    known = RECENT_ONES if what == RECENT else OLD_ONES + RECENT_ONES
    data = bytearray(known[program.number(2) % len(known)])
    if what == ALTER:
        data[program.number(2) % len(data)] ^= program.number()
    elif what == CUT:
        del data[program.number(2) % len(data) :]
    elif what == SPLICE:
        place = program.number(2) % len(data)
        data[place:] = known[program.number(2) % len(known)][place:]
    elif what == READDRESS:
        data[1:9] = known[program.number(2) % len(known)][1:9]
    return bytes(data)


def target(data: bytes) -> None:
    """To either end, from an address that it knows or one that it doesn't; traffic must still cross."""
    program = Program(data)
    assert MESH.relay is not None
    stations = (MESH.clients[0], MESH.relay)
    for _ in range(STEPS):
        if not program:
            break
        what, station = program.number() % 7, stations[program.number() % 2]
        source = program.choose(SOURCES)
        if datagram := made(what, program):
            station.receive(datagram, source, MESH.network.now)
            MESH.network.flush(station)
    MESH.network.run_for(0.2)
    assert MESH.connected(0, 1)
    MESH.exchange(0, 1)
    assert len(MESH.relay.core.clients) == 2
    assert len(MESH.relay.tables.channels) <= 4
    assert len(MESH.clients[0].tables.lanes) <= 200
    RECENT_ONES[:] = [one for _, _, _, one in MESH.network.sent][-60:] or RECENT_ONES
    MESH.network.sent.clear()
