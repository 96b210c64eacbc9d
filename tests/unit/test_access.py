"""Who may open the socket of the local API, and what those may ask who may not change anything."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shadowmesh.api.access import closed_folder, socket_group
from shadowmesh.api.client import ApiClient
from shadowmesh.api.routes import OPERATIONS
from shadowmesh.api.schema import InvitationRequest, InvitationVerdict
from shadowmesh.api.server import create_app, serve_api
from shadowmesh.config import load_client_config
from shadowmesh.errors import ConfigError
from shadowmesh.units import Address
from shadowmesh.web import server
from shadowmesh.web.caller import Caller
from tests.unit.another_user import STRANGER, Stranger
from tests.unit.test_api import FakeControl


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """pytest's own are closed to other users."""
    folder = Path(tempfile.mkdtemp(prefix="shadowmesh-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


READING: dict[str, Callable[[ApiClient], object]] = {
    "status": lambda client: client.status(),
    "samples": lambda client: client.samples(),
    "log": lambda client: client.log(),
    "events": lambda client: next(client.events("status")),
    "ping": lambda client: client.ping("bob", 1.0),
    "why": lambda client: client.why_json("bob"),
    "netcheck": lambda client: client.netcheck(),
    "invitations": lambda client: client.invitations_json(),
    "delegate": lambda client: client.delegate(),
    "openapi": lambda client: client._request("GET", "/v1/openapi.json"),
}
CHANGING: dict[str, Callable[[ApiClient], object]] = {
    "revocations": lambda client: client.spread(Path("/etc/list.pem")),
    "reload": lambda client: client.reload(),
    "invite": lambda client: client.invite(InvitationRequest(name="x", delegation=bytes(12_900), ttl=1)),
    "judge": lambda client: client.judge(InvitationVerdict(label="bob", verdict="approved")),
    "down": lambda client: client.down(1.0),
}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")


def asked(questions: dict[str, Callable[[ApiClient], object]], path: Path) -> dict[str, Callable[[], object]]:
    return {name: functools.partial(question, ApiClient(path)) for name, question in questions.items()}


@needs_root
def test_members_of_the_group_read_and_change_nothing(open_folder: Path) -> None:
    assert {one.id for one in OPERATIONS if one.changes} == set(CHANGING)
    assert {one.id for one in OPERATIONS if not one.changes} == set(READING)
    path, group = open_folder / "api.sock", 12345
    member = Stranger([group], asked({**READING, **CHANGING}, path), gid=0)
    other = Stranger([], asked({"status": READING["status"]}, path))

    async def serve() -> None:
        control = FakeControl()
        async with serve_api(path, control, group):
            status = path.stat()
            assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o660, 0, group)
            found = await asyncio.to_thread(member.answers)
            assert [found[name] for name in READING if not found[name].startswith("answered")] == []
            for name in CHANGING:
                assert found[name].startswith("Forbidden: the user with uid 65534 may read here"), found[name]
                assert "use sudo" in found[name]
            assert not control.stopped.is_set()
            refused = (await asyncio.to_thread(other.answers))["status"]
            assert refused.startswith("Forbidden: may not open"), refused
            assert (await asyncio.to_thread(ApiClient(path).reload)).applied == ["firewall"]
        control.live.stop()

    asyncio.run(serve())


async def test_who_can_not_be_named_changes_nothing() -> None:
    """Over TCP the kernel names nobody."""
    control = FakeControl()
    with server.bind_tcp(Address("127.0.0.1", 0)) as listener:
        async with server.serve(listener, create_app(control)):
            reader, writer = await asyncio.open_connection(*listener.getsockname()[:2])
            writer.write(b"POST /v1/down HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 403")
            writer.close()
    assert not control.stopped.is_set()


@needs_root
def test_without_a_group_the_socket_is_its_owners(open_folder: Path) -> None:
    path = open_folder / "api.sock"
    stranger = Stranger([0], asked({"status": READING["status"]}, path))

    async def serve() -> str:
        async with serve_api(path, FakeControl()):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            return (await asyncio.to_thread(stranger.answers))["status"]

    assert asyncio.run(serve()).startswith("Forbidden: may not open")


@needs_root
def test_members_of_the_group_leave_room_for_root(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = open_folder / "api.sock"
    monkeypatch.setattr(server, "MAX_GUESTS", 3)

    def crowd() -> None:
        held = [socket.socket(socket.AF_UNIX) for _ in range(4)]
        for one in held:
            one.settimeout(10.0)
            one.connect(str(path))
        with contextlib.suppress(ConnectionError):
            assert held[3].recv(1) == b""
        held[0].sendall(b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n")
        assert held[0].recv(12) == b"HTTP/1.1 200"

    stranger = Stranger([], {"crowd": crowd})

    async def serve() -> dict[str, str]:
        async with serve_api(path, FakeControl(), STRANGER):
            found = await asyncio.to_thread(stranger.answers)
            await asyncio.to_thread(ApiClient(path).status)
            return found

    assert asyncio.run(serve()) == {"crowd": "answered NoneType"}


def config_with(folder: Path, group: str) -> Path:
    file = folder / "client.yaml"
    node_id = "a" * 52
    file.write_text(
        f"node: {{name: alice, state_dir: {folder}}}\n".replace("}", f", socket_group: {group}}}")
        + f'relays: [{{address: "192.0.2.1:4433", id: {node_id}}}]\n'
    )
    return file


def test_the_group_of_the_configuration(tmp_path: Path) -> None:
    assert socket_group(load_client_config(config_with(tmp_path, "root"))) == 0
    with pytest.raises(
        ConfigError, match=r"client\.yaml:1: node\.socket_group: .*no group nosuchgroup.*groupadd"
    ):
        socket_group(load_client_config(config_with(tmp_path, "nosuchgroup")))
    with pytest.raises(ConfigError, match=r"node\.socket_group: '-x' is not the name of a group"):
        load_client_config(config_with(tmp_path, "-x"))


def test_a_folder_that_members_can_not_enter_is_told(tmp_path: Path) -> None:
    group = tmp_path.stat().st_gid
    for mode, of, reached in (
        (0o755, 1, True),
        (0o710, group, True),
        (0o710, group + 1, False),
        (0o700, group, False),
    ):
        tmp_path.chmod(mode)
        assert (closed_folder(tmp_path / "api.sock", of) == "") is reached, oct(mode)


@pytest.mark.parametrize(("uid", "owns"), [(0, True), (998, True), (1000, False)])
def test_root_and_our_own_user_own_us(monkeypatch: pytest.MonkeyPatch, uid: int, owns: bool) -> None:
    """Also where we are not root; groups and process ids give nothing."""
    monkeypatch.setattr(os, "geteuid", lambda: 998)
    assert Caller(pid=0, uid=uid, gid=0).owns_us is owns
