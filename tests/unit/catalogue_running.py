"""How each error comes that ends no command: what `status` shows of it, from whole nodes on virtual time and
from the parts of a client that tell people of this machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from shadowmesh.cli import status as verb
from shadowmesh.config import Route
from shadowmesh.core.shared import Changed
from shadowmesh.crypto.identity import node_id_text
from shadowmesh.io import resolvconf, resolved, routes
from shadowmesh.membership.authority import DAY, Authority, Ledger, Request
from shadowmesh.membership.clock import RELEASED
from shadowmesh.node import netcheck, report
from shadowmesh.node.bridge import BridgeService
from shadowmesh.node.inviting import Inviting
from shadowmesh.node.standing import network_status
from shadowmesh.node.subnets import Subnets
from shadowmesh.overlay.bridge import BridgePort
from shadowmesh.session.link import CloseCode
from shadowmesh.session.machine import Refused
from shadowmesh.units import Address
from shadowmesh.wire.messages import Present
from shadowmesh_relay.admission import Admission
from shadowmesh_relay.limits import Limits
from shadowmesh_relay.testing import MemoryRelay
from tests.protocol.mesh import IDENTITIES, Mesh
from tests.protocol.test_join import INVITER, Inviter
from tests.protocol.test_membership import Domain
from tests.protocol.test_relay_limits import mesh_with
from tests.protocol.test_renewal import Home
from tests.protocol.test_tcp import TcpMesh
from tests.unit.test_guard import KEY, NETWORK, NOW, at, core_of
from tests.unit.test_node_names import World as Machine
from tests.unit.test_node_names import prepared, shown, until
from tests.unit.test_relay_cluster import Side
from tests.unit.test_report import ENGINE

if TYPE_CHECKING:
    from tests.unit.test_catalogue import World

Provocation = Callable[["World"], str]
UNASKED = resolved.unasked
"""Before a test has put another one there."""
NOBODY_ADMITTED = Admission(False, frozenset())


def _of_relay(mesh: Mesh) -> str:
    """What `status` prints of the relay of client 0 once it has failed; `netcheck` and the log agree."""
    client = mesh.clients[0]
    relay = client.core.relays[0]
    mesh.network.run_until(lambda: relay.last_error is not None, 10.0)
    seen = report._relay(relay, None, None)
    assert netcheck._relay(relay, None).last_error == seen.last_error
    lines = [event.what for event in client.events if isinstance(event, Changed)]
    assert f"not connected: {seen.last_error}" in lines
    return verb._relays([seen])[-1]


def _of_peer(mesh: Mesh, number: int, other: int) -> str:
    """What `status` of one client prints of another."""
    core, peer = mesh.clients[number].core, mesh.peer(number, other)
    return verb._peers([report._peer(peer, core, ENGINE, (), mesh.network.now)])[-1]


def _mesh(admission: Admission | None = None) -> Mesh:
    """With a relay and one client, that may be connected by now."""
    mesh = Mesh()
    mesh.start_relay(admission)
    mesh.start_client(0, (1,))
    mesh.network.run_for(1.0)
    return mesh


def _unresolved(_: World) -> str:
    mesh = Mesh()
    mesh.names = {}
    mesh.start_client(0, ())
    return _of_relay(mesh)


def _silence(_: World) -> str:
    mesh = Mesh()
    mesh.start_client(0, ())
    return _of_relay(mesh)


def _neither_way(_: World) -> str:
    mesh = TcpMesh()
    mesh.blocked, mesh.reachable = True, False
    mesh.start_tcp_relay()
    mesh.start_tcp_client()
    return _of_relay(mesh)


def _another_node(_: World) -> str:
    """The relay passes client 1 off as client 2, whom client 0 waits for: client 1 refuses."""
    mesh = Mesh()
    relay = mesh.start_relay()
    mesh.start_client(0, (2,))
    mesh.start_client(1, (0,))
    mesh.network.run_for(3.0)
    clients = relay.core.clients
    clients[IDENTITIES[2].node_id] = clients[IDENTITIES[1].node_id]
    present = Present(IDENTITIES[2].node_id, b"impostor")
    relay.core._rendezvous._tell(clients[IDENTITIES[0].node_id], present, mesh.network.now)
    mesh.network.flush(relay)
    mesh.network.run_until(lambda: mesh.peer(1, 0).last_error is not None, 10.0)
    return _of_peer(mesh, 1, 0)


def _garbage(_: World) -> str:
    mesh = _mesh()
    assert mesh.relay is not None
    core = mesh.relay.core
    driver = core.clients[IDENTITIES[0].node_id].driver
    driver.link.send_encoded(b"\xee" * 64)
    core._links.pump(driver, mesh.network.now)
    mesh.network.flush(mesh.relay)
    return _of_relay(mesh)


def _unproved(world: World) -> str:
    """Whoever has proved nothing closes with a code and words that say much more."""
    mesh = Mesh()
    impostor = MemoryRelay(IDENTITIES[5], NOBODY_ADMITTED, mesh.relay_address, mesh.network.now, 5)

    def refuse(*_: Any, **__: Any) -> None:
        raise Refused(CloseCode.DUPLICATE, "stop [identity.two-holders]")

    world.patch.setattr(impostor.core._reception, "admit", refuse)
    mesh.network.attach(impostor)
    mesh.start_client(0, (), relay_id=IDENTITIES[5].node_id)
    return _of_relay(mesh)


def _goodbye(_: World) -> str:
    mesh = _mesh()
    assert mesh.relay is not None
    mesh.relay.core.close(mesh.network.now)
    mesh.network.flush(mesh.relay)
    return _of_relay(mesh)


def _two_holders(_: World) -> str:
    mesh = _mesh()
    mesh.start_client(0, (1,), Address("198.51.100.88", 2))
    mesh.network.run_until(lambda: bool(mesh.fatal(0)), 20.0)
    return _of_relay(mesh)


def _absent(_: World) -> str:
    return _of_peer(_mesh(), 0, 1)


def _no_relay(_: World) -> str:
    mesh = Mesh()
    mesh.start_client(0, (1,))
    return _of_peer(mesh, 0, 1)


def _no_channel(_: World) -> str:
    mesh, _relay = mesh_with(Limits(channels_per_client=1))
    for number in range(3):
        mesh.start_client(number, tuple({0, 1, 2} - {number}))
    pairs = [(one, other) for one in range(3) for other in range(3) if one != other]
    failed: list[tuple[int, int]] = []

    def found() -> bool:
        failed[:] = [pair for pair in pairs if mesh.peer(*pair).last_error is not None]
        return bool(failed)

    mesh.network.run_until(found, 20.0)
    return _of_peer(mesh, *failed[0])


def _not_renewed(_: World) -> str:
    domain = Domain()
    lab = Home(domain, able=False)
    domain.wall += 60 * DAY
    core = lab.mesh.clients[0].core
    lab.mesh.network.run_until(lambda: core.renewals.last_error is not None, 30.0)
    seen = network_status(core, "smesh0")
    return seen.renewal_error or "" if seen is not None else ""


def _of_network(core: Any) -> str:
    """The last warning that `status` prints of a member."""
    return verb._network(network_status(core, "smesh0"))[-1]


def _old_list(_: World) -> str:
    member = at()
    authority = Authority(KEY, NETWORK, Ledger(network=node_id_text(NETWORK.id)))
    authority.sign(Request(node=b"x" * 32, name="x"), NOW)
    member.revocations.merge_untrusted(authority.revoke("x", NOW - 40 * DAY).document)
    return _of_network(core_of(member))


def _new_key(_: World) -> str:
    member = at()
    authority = Authority(KEY, NETWORK, Ledger(network=node_id_text(NETWORK.id)))
    member.merge_network_untrusted(authority.rotate(30, NOW).network.document)
    return _of_network(core_of(member))


def _peer_expired(_: World) -> str:
    domain, mesh = Domain(), Mesh()
    mesh.start_relay(Admission(False, frozenset(), [domain.guard()]))
    for number, days in ((0, 9), (1, 30)):
        mesh.start_client(number, (), membership=domain.member(number, days=days))
    mesh.network.run_until(lambda: len(mesh.clients[1].core.peers) == 1, 5.0)
    mesh.pair_up()
    domain.wall += 9 * DAY + 3600
    return _of_network(mesh.clients[1].core)


def _no_forwarding(world: World) -> str:
    world.patch.setattr(routes, "forwards", lambda interface, version: False)
    core = Mesh().start_client(0, (), membership=Domain().member(0, routes=["192.168.5.0/24"])).core
    return _of_network(core)


def _not_taken(_: World) -> str:
    domain, mesh = Domain(), Mesh()
    mesh.start_relay(Admission(False, frozenset(one.node_id for one in IDENTITIES[:1])))
    inviter = Inviter(domain, mesh, domain.member(INVITER))
    inviter.start()
    mesh.network.run_for(2.0)
    inviter.invite()
    assert inviter.client is not None
    core = inviter.client.core
    mesh.network.run_until(lambda: bool(core.guests.refused), 5.0)
    (why,) = Inviting(core, IDENTITIES[INVITER]).show().refused.values()
    return why


def _cluster(_: World) -> str:
    cluster = Side(Address("192.0.2.1", 4433)).cluster
    cluster.handle_disconnected("NATS at nats.test:4222: refused", 5.0)
    return cluster.report(9.0).reason


def _route(_: World) -> str:
    """Through a peer that may carry none."""
    mesh = Mesh()
    core = mesh.start_client(0, (1,)).core
    name = mesh.peer(0, 1).name
    route = Route(via=name, to="192.168.5.0/24", metric=1024)
    config: Any = SimpleNamespace(
        interface=SimpleNamespace(bridge=None, name="smesh0", addresses=()), peers=(), routes=(route,)
    )
    subnets = Subnets(config, core, lambda: None)
    asyncio.run(subnets._look())
    return [line for line in verb._routes(subnets.status()) if line][-1]


def _loop(_: World) -> str:
    service: Any = BridgeService.__new__(BridgeService)
    service._port, service._name, service._vlans = BridgePort(bytes(6), (), bytes, 0.0), "br0", ()
    service._engine = SimpleNamespace(
        bridge_counters=lambda: dict.fromkeys(("near", "far", "not_learned"), 0)
    )
    service._port.handle_reflected(0.0)
    return str(service.status().reason)


def _names(
    before: Callable[[Machine], None], after: Callable[[], None] = lambda: None, **section: str
) -> Provocation:
    """What `status` prints of the resolver where the machine is so `before` and `after` it began."""

    async def run(machine: Machine) -> str:
        before(machine)
        names = machine.make(**section)
        await names.start()
        after()
        await until(lambda: "[" in (shown(names).problem or shown(names).advice or ""))
        lines = verb._names(shown(names))
        await names.stop()
        return lines[-1]

    return lambda world: asyncio.run(run(prepared(world.tmp, world.patch)))


def _unasked(world: World) -> str:
    """The machine's files name other servers."""

    def before(_: Machine) -> None:
        world.patch.setattr(resolved, "unasked", UNASKED)
        world.patch.setattr(resolved, "RESOLV_CONF", resolvconf.RESOLV_CONF)
        world.patch.setattr(resolved, "NSSWITCH", world.file("hosts: files dns\n"))

    return _names(before)(world)


def _rotates(_: Machine) -> None:
    resolvconf.RESOLV_CONF.write_text("nameserver 192.0.2.53\noptions rotate\n")


def _rewritten() -> None:
    resolvconf.RESOLV_CONF.write_text("nameserver 192.0.2.9\n")


def _set(**facts: Any) -> Callable[[Machine], None]:
    return lambda machine: vars(machine).update(facts)


RUNNING: dict[str, Provocation] = {
    "peer.absent": _absent,
    "peer.no-relay": _no_relay,
    "peer.no-channel": _no_channel,
    "link.unresolved": _unresolved,
    "link.no-answer": _silence,
    "link.tcp": _neither_way,
    "link.refused": lambda _: _of_relay(_mesh(NOBODY_ADMITTED)),
    "link.refused-here": _another_node,
    "link.protocol": _garbage,
    "link.transport": _unproved,
    "link.ended": _goodbye,
    "link.two-holders": _two_holders,
    "names.not-served": _names(lambda machine: machine.change(addresses=("fe80::1/64",))),
    "names.no-resolved": _names(_set(stamp=None)),
    "names.resolved": _names(_set(refusal="resolvectl dns: link is busy")),
    "names.unasked": _unasked,
    "names.bridge": _names(lambda machine: machine.change(bridge="br0")),
    "names.resolv-conf": _names(_rotates, host="resolv.conf"),
    "names.changed": _names(_set(), _rewritten, host="resolv.conf"),
    "route.refused": _route,
    "bridge.loop": _loop,
    "invite.not-taken": _not_taken,
    "relay.cluster": _cluster,
    "network.not-renewed": _not_renewed,
    "network.revoked": lambda _: _of_network(core_of(at(revoked=True))),
    "network.sign-again": _new_key,
    "network.expires": lambda _: _of_network(core_of(at(NOW + 21 * DAY))),
    "network.clock": lambda _: _of_network(core_of(at(RELEASED - 500))),
    "network.list-old": _old_list,
    "network.peer-expired": _peer_expired,
    "network.no-forwarding": _no_forwarding,
}
"""By id; each gives a text that ends in it."""
