"""Every error that a person meets has an id, a cause and a remedy, and comes when it should."""

from __future__ import annotations

import ast
import asyncio
import errno
import fcntl
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from shadowmesh import catalogue
from shadowmesh.api.client import ApiClient, NoReply, answered
from shadowmesh.cli import top
from shadowmesh.cli.main import main as client
from shadowmesh.cli.network import PASSPHRASE_VARIABLE
from shadowmesh.command import explain
from shadowmesh.config import load_client_config, refuse_bridge, refuse_group
from shadowmesh.core.joiner import Rejected
from shadowmesh.core.shared import Fatal
from shadowmesh.crypto import identity as identities
from shadowmesh.crypto.identity import node_id_text
from shadowmesh.errors import NotMember
from shadowmesh.io import bridge, documents, tap
from shadowmesh.io.authority import LEDGER_FILE
from shadowmesh.io.invitations import INVITATIONS_FILE, open_invitations
from shadowmesh.io.joined import require_room
from shadowmesh.io.membership import CLOCK_FILE, guard_with, open_clock, open_guard
from shadowmesh.io.tap import Tap
from shadowmesh.io.tokens import load_tokens
from shadowmesh.io.udp import open_udp
from shadowmesh.node import joining, lifecycle
from shadowmesh.node.daemon import Daemon
from shadowmesh.node.inviting import Inviting
from shadowmesh.web.metrics import serve_metrics
from shadowmesh.web.problem import ErrorKind, Problem
from shadowmesh_relay import control, verbs
from shadowmesh_relay.certificate import tls_context
from shadowmesh_relay.cli import main as relay
from shadowmesh_relay.public import PublicStatus, page
from tests.unit.catalogue_logged import LOGGED
from tests.unit.catalogue_running import RUNNING
from tests.unit.test_api import make_status

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
ID = r"[a-z]+\.[a-z-]+"
PASSPHRASE = "correct horse battery"
NOBODY = SimpleNamespace(
    members=SimpleNamespace(membership=None), guests=SimpleNamespace(invitations=None, refused={}), relays=[]
)
"""A core that is in no network and has no relay."""


class World:
    """What a provocation works with."""

    def __init__(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.tmp, self.patch, self._capsys = tmp_path, monkeypatch, capsys

    def run(self, *arguments: str, command: Callable[[list[str]], int] = client) -> str:
        """What the command says when it fails."""
        assert command(list(arguments)) != 0
        said = self._capsys.readouterr()
        return said.err or said.out

    def file(self, content: str | bytes = "nothing of ours", name: str = "file") -> Path:
        path = self.tmp / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        path.chmod(0o600)
        return path

    def check(self, text: str | bytes) -> str:
        """`up --check` of a file with this text."""
        return self.run("up", "-c", str(self.file(text, "client.yaml")), "--check")

    def changed(self, old: str, new: str) -> str:
        """The same, of the example with this change."""
        text = (CONFIGS / "client.yaml").read_text()
        assert old in text
        return self.check(text.replace(old, new))

    def doubted(self, old: str, new: str) -> str:
        """What `up --check` warns of in the example with this change."""
        text = (CONFIGS / "client.yaml").read_text()
        assert client(["up", "-c", str(self.file(text.replace(old, new), "client.yaml")), "--check"]) == 0
        return self._capsys.readouterr().err

    def told(self, action: Callable[[], object]) -> str:
        """What a person reads of what it raises."""
        with pytest.raises(Exception) as caught:
            action()
        return explain(caught.value)[1]

    def asked(self, error: BaseException) -> str:
        """What `status` says where asking the client fails so."""

        def fail(_client: ApiClient) -> bytes:
            raise error

        self.patch.setattr(ApiClient, "status_json", fail)
        return self.run("status")

    def network(self, *arguments: str) -> str:
        """What a verb of the authority says, that fails."""
        self.patch.setenv(PASSPHRASE_VARIABLE, PASSPHRASE)
        return self.run("network", *arguments, "--state-dir", str(self.tmp))

    def authority(self) -> Path:
        """Make one; the file that it exports."""
        self.patch.setenv(PASSPHRASE_VARIABLE, PASSPHRASE)
        create = ["network", "create", "home", "--subnet", "10.77.0.0/16", "--state-dir", str(self.tmp)]
        assert client(create) == 0
        self._capsys.readouterr()
        assert client(["network", "export", "--state-dir", str(self.tmp)]) == 0
        return self.file(self._capsys.readouterr().out, "home.pem")


def _identity(world: World) -> None:
    identities.create(world.tmp, "alice")


def _broken_identity(world: World) -> str:
    world.tmp.chmod(0o700)
    world.file("damaged", "identity.pem")
    return world.run("id", "--state-dir", str(world.tmp))


def _open_identity(world: World) -> str:
    _identity(world)
    (world.tmp / "identity.pem").chmod(0o644)
    return world.run("id", "--state-dir", str(world.tmp))


def _foreign_identity(world: World) -> str:
    _identity(world)
    world.patch.setattr(os, "geteuid", lambda: os.getuid() + 4711)
    real = Path.stat

    def stat(path: Path, **more: Any) -> Any:
        found = real(path, **more)
        return SimpleNamespace(st_mode=found.st_mode, st_uid=4712)

    world.patch.setattr(Path, "stat", stat)
    return world.told(lambda: identities.check_private(world.tmp, 0, "", ""))


def _own_id(world: World) -> str:
    _identity(world)
    own = node_id_text(identities.load(world.tmp).node_id)
    text = (CONFIGS / "client.yaml").read_text()
    text = re.sub(r"id: bobexample\w+", f"id: {own}", text)
    return world.check(text.replace("node:\n", f"node:\n  state_dir: {world.tmp}\n"))


def _firewall_test(world: World) -> str:
    test = (
        "{expect: allow, direction: in, peer: bob, proto: tcp, src: 10.77.0.2, dst: 10.77.0.1, dst_port: 22}"
    )
    text = (CONFIGS / "client.yaml").read_text()
    return world.check(f"{text}\nfirewall:\n  inbound: deny\n  tests:\n    - {test}\n")


def _library(world: World) -> str:
    _identity(world)
    missing = "aead_library: /nowhere.so"
    config = load_client_config(world.file((CONFIGS / "client.yaml").read_text() + missing, "client.yaml"))
    return world.told(lambda: lifecycle._choose_aead(config))


def _no_capability(world: World) -> str:
    status = world.file("CapEff:\t0000000000000000\n")
    real = Path.read_text
    world.patch.setattr(
        Path, "read_text", lambda path, *a: real(status if str(path) == "/proc/self/status" else path, *a)
    )
    return world.run("up", "-c", str(CONFIGS / "client.yaml"))


def _refuse(number: int) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


def _device(world: World, module: object, name: str, number: int) -> str:
    world.patch.setattr(module, name, _refuse(number))
    return world.told(lambda: Tap.open("smesh9", bytes(6), 1380, []))


def _interface(world: World) -> str:
    return world.told(lambda: tap._configure("nosuchone", bytes(6), 1380, [], None))


def _bridge(world: World) -> str:
    text = (CONFIGS / "client.yaml").read_text().replace("interface:\n", "interface:\n  bridge: br9\n")
    config = load_client_config(world.file(text, "client.yaml"))
    return world.told(lambda: refuse_bridge(config, "bob has not the right"))


def _group(world: World) -> str:
    config = load_client_config(world.file((CONFIGS / "client.yaml").read_text(), "client.yaml"))
    return world.told(lambda: refuse_group(config, "there is no group nobodys"))


def _address(_world: World) -> str:
    from shadowmesh.io.iproute import NetlinkError

    def add(*_: object, **__: object) -> None:
        raise NetlinkError(errno.EACCES)

    netlink = cast("Any", SimpleNamespace(addr=add))
    return _world.told(lambda: bridge.add_addresses(netlink, 1, ["10.77.0.1/24"], shared=False))


def _daemon(act: Callable[[Daemon], None]) -> Callable[[World], str]:
    def provoke(_world: World) -> str:
        daemon = cast("Any", Daemon.__new__(Daemon))
        daemon.failure, daemon._stop = None, asyncio.Event()
        daemon._subnets = SimpleNamespace(handle_network=lambda: None)
        daemon._device = SimpleNamespace(gone=True, name="smesh0")
        act(daemon)
        return explain(daemon.failure)[1]

    return provoke


def _port_taken(world: World) -> str:
    with open_udp("127.0.0.1", 0) as taken:
        return world.told(lambda: open_udp("127.0.0.1", taken.getsockname()[1]))


async def _metrics(path: Path) -> None:
    async with serve_metrics(path, cast("Any", None)):
        pass


def _running(world: World) -> str:
    with lifecycle.only_one(world.tmp):
        return world.told(lambda: lifecycle.only_one(world.tmp).__enter__())


def _contradiction(world: World) -> str:
    exported = world.authority()
    known = documents.load_network(exported)[0]
    other = cast("Any", SimpleNamespace(network=known, revocations=None, clock=None))
    rotated = cast("Any", SimpleNamespace(id=known.id, links=[object()]))
    other.network = SimpleNamespace(id=known.id, links=[object()], name="home")
    return world.told(lambda: guard_with(rotated, other, exported))


def _another(world: World) -> str:
    network = documents.load_network(world.authority())[0]
    known = cast("Any", SimpleNamespace(network=SimpleNamespace(id=bytes(32), name="other", links=[])))
    return world.told(lambda: guard_with(network, known, world.tmp / "home.pem"))


def _kept(world: World) -> str:
    exported = world.authority()
    short = node_id_text(documents.load_network(exported)[0].id)[:10]
    world.file("damaged", f"revocations-{short}.pem")
    return world.told(lambda: open_guard(exported, world.tmp))


def _not_valid(world: World) -> str:
    """The certificate of another node than this machine."""
    exported, state = world.authority(), world.tmp / "state"
    certificate = world.tmp / "bob.pem"
    sign = ["network", "sign", node_id_text(b"b" * 32), "--name", "bob", "-o", str(certificate)]
    assert client([*sign, "--state-dir", str(world.tmp)]) == 0
    identities.create(state, "alice")
    text = f"node: {{name: alice, state_dir: {state}}}\n"
    text += f"network: {{file: {exported}, certificate: {certificate}}}"
    relays = (CONFIGS / "client.yaml").read_text().partition("\nrelays:")[2].partition("\npeers:")[0]
    return world.check(f"{text}\nrelays:{relays}\n")


def _joiner(**outcome: object) -> Callable[[World], str]:
    def provoke(world: World) -> str:
        silent = SimpleNamespace(name="r:1", last_error=None)
        joiner = SimpleNamespace(waits=False, problem=None, **outcome)
        core = cast("Any", SimpleNamespace(joiner=joiner, relays=[silent]))
        return world.told(lambda: asyncio.run(joining._wait(core, -1.0, lambda: None)))

    return provoke


def _inviting(core: object, what: str) -> Callable[[World], str]:
    def provoke(world: World) -> str:
        inviting = Inviting(cast("Any", core), cast("Any", None))
        wanted = cast("Any", SimpleNamespace(verdict="approved", label="nobody"))
        return world.told(lambda: getattr(inviting, what)(*[wanted][: what != "show"]))

    return provoke


def _book(error: Exception) -> object:
    def decide(*_: object) -> None:
        raise error

    return SimpleNamespace(
        **(vars(NOBODY) | {"guests": SimpleNamespace(invitations=SimpleNamespace(decide=decide), refused={})})
    )


def _relay_answers(action: Callable[..., Any]) -> Callable[[World], str]:
    def provoke(world: World) -> str:
        world.patch.setattr(control, "request", action)
        return world.run("status", "--socket", str(world.tmp / "s"), command=relay)

    return provoke


def _relay_stays(world: World) -> str:
    world.patch.setattr(verbs, "ask_drain", lambda *_: SimpleNamespace(clients=0))
    world.patch.setattr(verbs, "ask_status", lambda *_: make_status())
    world.patch.setattr(verbs, "GRACE", -10.0)
    return world.run("drain", "--timeout", "1", command=relay)


def _relay_runs(world: World) -> str:
    """Two on one socket."""
    _identity(world)
    with open_udp("127.0.0.1", 0) as free:
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    text = f"relay: {{name: r, state_dir: {world.tmp}, socket: {world.tmp}/relay.sock, listen: '{listen}'}}"
    file = world.file(f"{text}\nadmission: {{open: true}}\n", "relay.yaml")
    with socket.socket(socket.AF_UNIX) as there:
        there.bind(str(world.tmp / "relay.sock"))
        there.listen()
        serve = (sys.executable, "-m", "shadowmesh_relay.cli", "serve", "-c", str(file))
        return subprocess.run(serve, capture_output=True, text=True, check=False).stderr


def _no_ledger(world: World) -> str:
    world.authority()
    (world.tmp / LEDGER_FILE).unlink()
    (world.tmp / LEDGER_FILE).mkdir()
    return world.network("list")


def _no_reply(world: World) -> str:
    def why(_client: ApiClient, _peer: str) -> bytes:
        raise NoReply("there is no session")

    world.patch.setattr(ApiClient, "why_json", why)
    return world.run("why", "bob")


MISSING = "/nowhere/at/all"


def _no_textual(world: World) -> str:
    world.patch.setenv("TERM", "xterm")
    world.patch.setattr(top, "at_terminal", lambda: True)
    world.patch.setattr(ApiClient, "status_json", lambda _: b"{}")
    world.patch.delitem(sys.modules, "shadowmesh.cli.top_app", raising=False)
    world.patch.setitem(sys.modules, "textual.app", None)
    return world.run("top")


def _raise_answer(status: int, kind: ErrorKind) -> None:
    """What the verbs make of such an answer of the client."""
    raise answered(status, msgspec.json.encode(Problem(error=kind, message="the client said no")))


PROVOCATIONS: dict[str, Callable[[World], str]] = {
    "command.usage": lambda world: world.run("stauts"),
    "command.refused": lambda world: (
        world.authority(),
        world.network("revoke", "nobody"),
    )[1],
    "command.terminal": lambda world: world.run("top"),
    "command.library": _no_textual,
    "program.bug": lambda world: world.asked(LookupError("what nobody foresaw")),
    "machine.memory": lambda world: world.asked(MemoryError()),
    "machine.resource": lambda world: world.asked(OSError(errno.ENOSPC, "No space left on device")),
    "config.unreadable": lambda world: world.run("up", "-c", MISSING),
    "config.no-yaml": lambda world: world.check("node: [unclosed"),
    "config.unknown-key": lambda world: world.changed("interface:", "interfaces:"),
    "config.twice": lambda world: world.changed("node:\n", "node:\n  name: bob\n"),
    "config.missing": lambda world: world.changed("  name: alice", "  socket: /run/s"),
    "config.value": lambda world: world.changed("10.77.0.1/24", "10.77.0.1000/24"),
    "config.conflict": lambda world: world.changed("interface:\n", "interface:\n  vlans: [10]\n"),
    "config.own-id": _own_id,
    "config.no-relay": lambda world: world.check("node: {name: alice}\nrelays: []\n"),
    "config.own-domain": lambda world: world.changed("relay.example.net:4433", "relay.mesh:4433"),
    "config.bridge": _bridge,
    "config.group": _group,
    "config.firewall-test": _firewall_test,
    "config.token-file": lambda world: world.told(lambda: load_tokens(world.file("short"))),
    "config.tls": lambda world: world.told(lambda: tls_context(world.file(), world.file())),
    "config.library": _library,
    "identity.missing": lambda world: world.run("id", "--state-dir", str(world.tmp)),
    "identity.file": _broken_identity,
    "identity.folder": lambda world: world.run("init", "--name", "a", "--state-dir", str(world.file() / "x")),
    "identity.mode": _open_identity,
    "identity.owner": _foreign_identity,
    "identity.two-holders": _daemon(lambda daemon: daemon._serve_event(Fatal("another machine has it"))),
    "device.root": _no_capability,
    "device.tun": lambda world: _device(world, os, "open", errno.ENOENT),
    "device.create": lambda world: _device(world, fcntl, "ioctl", errno.EBUSY),
    "device.interface": _interface,
    "device.address": _address,
    "device.bridge": lambda world: world.told(lambda: bridge.LinuxBridge.find("nosuchbridge")),
    "device.removed": _daemon(lambda daemon: daemon._handle_wake()),
    "device.listen": _port_taken,
    "device.socket": lambda world: world.told(lambda: asyncio.run(_metrics(world.file() / "socket"))),
    "client.running": _running,
    "client.not-running": lambda world: world.run("status", "--socket", str(world.tmp / "nobody")),
    "client.forbidden": lambda world: world.told(lambda: _raise_answer(403, "forbidden")),
    "client.no-answer": lambda world: world.told(lambda: ApiClient(Path("/" + 200 * "x")).status_json()),
    "peer.unknown": lambda world: world.run(
        *("firewall", "test", "-c", str(CONFIGS / "client.yaml"), "--from", "nobody", "--proto", "icmp")
    ),
    "peer.no-reply": _no_reply,
    "network.none": _inviting(NOBODY, "show"),
    "network.file": lambda world: world.told(lambda: documents.load_network(world.file())),
    "network.certificate": lambda world: world.told(lambda: documents.load_credentials(world.file())),
    "network.list": lambda world: world.told(
        lambda: documents.load_list(world.file(), documents.load_network(world.authority())[0])
    ),
    "network.delegation": lambda world: world.told(lambda: documents.load_delegation(world.file())),
    "network.public-keys": lambda world: world.told(lambda: documents.load_public(world.file())),
    "network.not-valid": _not_valid,
    "network.kept": _kept,
    "network.contradiction": _contradiction,
    "network.another": _another,
    "network.clock-file": lambda world: (
        world.file("noon", CLOCK_FILE),
        world.told(lambda: open_clock(world.tmp)),
    )[1],
    "authority.missing": lambda world: world.network("list"),
    "authority.exists": lambda world: (
        world.authority(),
        world.network("create", "home", "--subnet", "10.77.0.0/16"),
    )[1],
    "authority.damaged": lambda world: (
        world.authority(),
        world.file("damaged", LEDGER_FILE),
        world.network("list"),
    )[2],
    "authority.folder": _no_ledger,
    "authority.passphrase": lambda world: world.run(
        *("network", "create", "home", "--subnet", "10.77.0.0/16", "--state-dir", str(world.tmp)),
        *("--passphrase-file", str(world.file("short"))),
    ),
    "invite.refused": _inviting(_book(NotMember("unknown_invitation", "nobody waits")), "judge"),
    "invite.no-relay": _inviting(NOBODY, "invite"),
    "invite.file": lambda world: world.told(
        lambda: open_invitations(
            cast("Any", None), cast("Any", None), world.file("", INVITATIONS_FILE).parent
        )
    ),
    "join.token": lambda world: world.run("join", "smesh1nothing", "-c", str(world.tmp / "c.yaml")),
    "join.refused": _joiner(outcome=Rejected("invitation_used", "it was used")),
    "join.unanswered": _joiner(outcome=None),
    "join.configured": lambda world: world.told(lambda: require_room(world.file())),
    "join.folder": lambda world: world.told(lambda: require_room(world.file() / "x" / "client.yaml")),
    "relay.running": _relay_runs,
    "relay.not-running": lambda world: world.run("status", "--socket", MISSING, command=relay),
    "relay.socket": _relay_answers(_refuse(errno.EACCES)),
    "relay.no-answer": _relay_answers(_refuse(errno.ETIMEDOUT)),
    "relay.refused": _relay_answers(lambda *_: (500, b"")),
    "relay.draining": lambda _: str(
        json.loads(page("/ready", PublicStatus(uptime=1, draining=True))[1])["reason"]
    ),
    "relay.stopping": _relay_stays,
    **RUNNING,
    **LOGGED,
}


@pytest.mark.parametrize("error_id", PROVOCATIONS)
def test_it_comes_when_it_should(
    error_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = PROVOCATIONS[error_id](World(tmp_path, monkeypatch, capsys))
    assert text.rstrip().endswith(f" [{error_id}]"), text
    assert "Traceback" not in text


def test_every_entry_is_provoked_and_says_something() -> None:
    assert PROVOCATIONS.keys() == catalogue.ENTRIES.keys()
    for error_id, entry in catalogue.ENTRIES.items():
        assert re.fullmatch(ID, error_id)
        assert entry.cause.endswith(".")
        assert entry.remedy.endswith(".")


def test_the_page_is_made_from_the_table() -> None:
    assert (ROOT / "docs/errors.md").read_text() == catalogue.page(), "python -m shadowmesh.catalogue"


def named_in(tree: ast.AST) -> Iterator[str]:
    """The ids that a module gives to its errors."""
    kinds = {
        "ConfigError",
        "IdentityError",
        "DeviceError",
        "CommandFailed",
        "Failure",
        "refuse",
        "_refuse_later",
        "_fail",
    }
    for node in ast.walk(tree):
        given: list[ast.expr] = []
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            given = [*node.args, *(word.value for word in node.keywords)] if name in kinds else []
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "error_id":
            given = [node.value]
        texts = (one.value for one in given if isinstance(one, ast.Constant))
        yield from (text for text in texts if isinstance(text, str) and re.fullmatch(ID, text))


def test_every_id_in_the_sources_has_an_entry() -> None:
    sources = (*ROOT.glob("shadowmesh/**/*.py"), *ROOT.glob("relay/*.py"))
    found = {name for path in sources for name in named_in(ast.parse(path.read_text()))}
    assert found >= {"config.unknown-key", "device.removed", "client.not-running", "peer.absent"}
    assert found <= catalogue.ENTRIES.keys()
