"""How each error comes that only the log, `why` or a supervisor's check tells of."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec

from shadowmesh.api.client import ApiClient
from shadowmesh.core.shared import Changed
from shadowmesh.io import notify, resolvconf
from shadowmesh.io import spans as spans_module
from shadowmesh.io.tap import Tap
from shadowmesh.io.tracing import trace_to
from shadowmesh.node import lifecycle, tickets, why
from shadowmesh.node.surroundings import Surroundings
from shadowmesh.units import Address
from shadowmesh_relay.config import load_relay_config
from shadowmesh_relay.reload import Admissions
from tests.protocol.mesh import Mesh
from tests.unit.test_api import make_status
from tests.unit.test_config import MINIMAL, load
from tests.unit.test_relay_service import free_port
from tests.unit.test_resolvconf import BEFORE
from tests.unit.test_why import DEAD, SYMMETRIC, side

if TYPE_CHECKING:
    from tests.unit.test_catalogue import World

Provocation = Callable[["World"], str]


class _Last(logging.Handler):
    """Keeps the last line that is a warning or worse."""

    line = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.line = record.getMessage()


def _logged(act: Callable[[], object]) -> str:
    last = _Last(logging.WARNING)
    logging.getLogger().addHandler(last)
    try:
        act()
    finally:
        logging.getLogger().removeHandler(last)
    return last.line


def _pending(world: World) -> str:
    text = (
        f"relay: {{name: r, state_dir: {world.tmp}, listen: '127.0.0.1:4433'}}\nadmission: {{open: true}}\n"
    )
    file = world.file(text, "relay.yaml")
    admissions = Admissions(file, load_relay_config(file))
    world.file(text.replace("name: r", "name: s"), "relay.yaml")
    return _logged(lambda: admissions.reload(lambda _: 0))


def _others_tickets(world: World) -> str:
    world.file(name=tickets.TICKETS_FILE).chmod(0o644)
    return _logged(lambda: tickets.load(world.tmp, bytes(32), []))


def _not_kept(world: World) -> str:
    return _logged(lambda: tickets.save(world.tmp / "nowhere", bytes(32), []))


def _no_netlink(world: World) -> str:
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    async def start() -> None:
        around = Surroundings(load(world.tmp, MINIMAL), Address("::", 1), print, print)
        world.patch.setattr(socket, "socket", refuse)
        around.start()

    return _logged(lambda: asyncio.run(start()))


def _no_manager(world: World) -> str:
    world.patch.setenv("NOTIFY_SOCKET", str(world.tmp / "nobody"))
    return _logged(lambda: notify.ready("alice is up"))


def _left(world: World) -> str:
    """Somebody has put a line below ours."""
    file = world.file(BEFORE, "resolv.conf.test")
    world.patch.setattr(resolvconf, "RESOLV_CONF", file)
    resolvconf.put_first(world.tmp)
    file.write_text(file.read_text() + "nameserver 192.0.2.9\n")
    return _logged(lambda: resolvconf.give_back(world.tmp))


def _no_collector(world: World) -> str:
    world.patch.setattr(spans_module, "LINGER", 0.05)

    def trace() -> None:
        with trace_to(f"http://127.0.0.1:{free_port()}/v1/traces", "x", names=False) as tracing:
            tracing.stages.begin("x", 1.0).end(2.0)

    return _logged(trace)


def _read_only(world: World) -> str:
    tap = SimpleNamespace(name="smesh0", unset=["accept_ra=1"])
    world.patch.setattr(lifecycle, "take_back", lambda _: None)
    world.patch.setattr(Tap, "open", lambda *_: contextlib.nullcontext(tap))
    config = load(world.tmp, MINIMAL)
    return _logged(lambda: lifecycle._open_tap(config, bytes(6), 1380, None, contextlib.ExitStack()))


def _down(world: World) -> str:
    status = make_status()
    down = msgspec.structs.replace(status, node=msgspec.structs.replace(status.node, interface_up=False))
    world.patch.setattr(ApiClient, "status_json", lambda _: msgspec.json.encode(down))
    return world.run("status", "--check", "ready")


def _frames_refused(_: World) -> str:
    """In the log and in `why`."""
    mesh = _pair()
    client, peer = mesh.clients[0], mesh.peer(0, 1)
    client.tables.refusals[peer.handle] = {"ra_guard": 1, "example": ("ra_guard", client.mac, bytes(16))}
    mesh.network.run_for(2)
    (line,) = (one.what for one in client.events if isinstance(one, Changed) and "refused" in one.what)
    assert line.endswith(_story(mesh)[-2].rpartition(" ")[2])
    return line


def _pair(direct: Any = "never") -> Mesh:
    mesh = Mesh()
    mesh.start_relay()
    for number in (0, 1):
        mesh.start_client(number, (1 - number,), direct=direct)
    relay = mesh.relay_address
    mesh.network.filter = lambda source, target, data: relay in (source, target)
    mesh.pair_up()
    return mesh


def _story(mesh: Mesh, over_tcp: str | None = None) -> list[str]:
    """What `why` of client 0 finds."""
    core, peer = mesh.clients[0].core, mesh.peer(0, 1)
    mode = core.peers[peer.member.node_id].routing._mode
    refusals = peer.refusals
    return why.explain(peer.member, peer.routing, mode, core.network, None, refusals, None, over_tcp).findings


def _after(seconds: float) -> Provocation:
    """The first finding where only the relay can be reached."""

    def provoke(_: World) -> str:
        mesh = _pair("auto")
        mesh.network.run_for(seconds)
        return _story(mesh)[0]

    return provoke


def _narrow(_: World) -> str:
    tried = ("failed", f"small packets pass, {why.TOO_LARGE} ones do not")
    return why._relayed("bob", "auto", side(tried), None)[0][-1]


def _nats(_: World) -> str:
    both = side(DEAD, nat=SYMMETRIC)
    return why._relayed("bob", "auto", both, both)[0][-1]


LOGGED: dict[str, Provocation] = {
    "config.doubtful": lambda world: world.doubted("10.77.0.1/24", "10.78.0.1/24"),
    "config.pending": _pending,
    "state.ignored": _others_tickets,
    "state.not-kept": _not_kept,
    "machine.netlink": _no_netlink,
    "machine.manager": _no_manager,
    "device.settings": _read_only,
    "device.down": _down,
    "names.left": _left,
    "tracing.collector": _no_collector,
    "peer.frames-refused": _frames_refused,
    "path.off": lambda _: _story(_pair())[0],
    "path.trying": _after(1.0),
    "path.too-narrow": _narrow,
    "path.unanswered": _after(15.0),
    "path.nat": _nats,
    "path.tcp": lambda _: _story(_pair(), over_tcp="relay.test:4433")[-1],
}
"""By id; each gives a text that ends in it."""
