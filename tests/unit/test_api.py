"""The local control API: a real server on a real socket, asked by the real client."""

from __future__ import annotations

import asyncio
import socket
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from shadowmesh.api.client import ApiClient, ApiFailed, NoReply, NotRunning, UnknownPeer
from shadowmesh.api.schema import (
    DelegateReply,
    InvitationReply,
    InvitationRequest,
    InvitationsReply,
    InvitationVerdict,
    NatStatus,
    Netcheck,
    NodeStatus,
    PathStatus,
    PeerStatus,
    PingReply,
    RelayCheck,
    RelayStatus,
    ReloadReply,
    RevocationsReply,
    Side,
    Status,
    TriedAddress,
    VerdictReply,
    WhyReply,
)
from shadowmesh.api.server import serve_api
from shadowmesh.errors import ConfigError
from shadowmesh.node.live import Live
from shadowmesh.node.recent import RecentLog
from shadowmesh.node.samples import PeerReading, Reading
from shadowmesh.web.server import MAX_BODY, SocketInUse, bind_socket


def make_paths() -> list[PathStatus]:
    """One that works, and one that does not."""
    return [
        PathStatus(
            path="relay 192.0.2.1:4433",
            kind="relay",
            state="usable",
            in_use=True,
            rtt_ms=1.94,
            jitter_ms=0.2,
            loss=0.04,
            budget=1452,
        ),
        PathStatus(
            path="direct 198.51.100.7:5000",
            kind="local",
            state="failed",
            in_use=False,
            detail="no answer",
        ),
    ]


def make_status() -> Status:
    """A status with every kind of entry; also what the tests of the command line show."""
    return Status(
        node=NodeStatus(
            name="alice",
            node_id="a" * 52,
            version="0.1.0",
            interface="smesh0",
            mac="02:00:00:00:00:01",
            mtu=1380,
            addresses=["10.77.0.1/24"],
            listen="[::]:40000",
            uptime=3725.0,
        ),
        relays=[
            RelayStatus(
                address="192.0.2.1:4433",
                node_id="r" * 52,
                state="connected",
                rtt_ms=0.4,
                loss=0.03,
                load=12,
                home=True,
                home_reason="the only one that answers",
            ),
            RelayStatus(
                address="relay.example.net:1", node_id="s" * 52, state="resolving", last_error="no name"
            ),
        ],
        peers=[
            PeerStatus(
                name="bob",
                node_id="b" * 52,
                addresses=["10.77.0.2", "fd77::2"],
                state="connected",
                path="relay 192.0.2.1:4433",
                path_reason="it is the first that works",
                paths=make_paths(),
                rtt_ms=1.94,
                tx_bytes=1536,
                rx_bytes=10,
                tx_frames=2,
                rx_frames=1,
                last_handshake=75.0,
                epoch=0,
                cipher="CHACHA20-POLY1305",
                key_exchange="X25519+ML-KEM-1024",
            ),
            PeerStatus(name="carol", node_id="c" * 52, addresses=["10.77.0.3"], state="absent"),
        ],
        counters={"tx_frames": 2},
        drops={"replayed": 3, "authentication": 0},
    )


def make_story() -> WhyReply:
    """Of a peer that is reached through a relay."""
    tried = [TriedAddress(address="198.51.100.7:5000", state="failed", detail="no answer")]
    return WhyReply(
        peer="bob",
        node_id="b" * 52,
        direct=False,
        here=Side(path="relay 192.0.2.1:4433", reason="it is the first that works", tried=tried),
        there=Side(path="relay 192.0.2.1:4433", reason="it is the first that works", nat="mapping unknown"),
        findings=["none of 1 addresses of bob has answered us [path.unanswered]"],
        advice=["let UDP through"],
    )


def make_netcheck() -> Netcheck:
    """A home behind an easy NAT, with one relay that answers and one that does not."""
    return Netcheck(
        nat=NatStatus(
            mapping="endpoint-independent",
            filtering="address-and-port-dependent",
            local=["192.168.1.7:40000"],
            observed=["203.0.113.9:40000"],
            mapped="203.0.113.9:40001",
            port_mapping={"pcp": "maps 203.0.113.9:40001"},
        ),
        udp="works",
        ipv4="works",
        ipv6="no route",
        datagram=1200,
        relays=[
            RelayCheck(address="192.0.2.1:4433", state="connected", rtt_ms=0.4, second_port="silent"),
            RelayCheck(address="relay.example.net:1", state="waiting", last_error="no name"),
        ],
    )


class FakeControl:
    """A daemon with two peers: bob answers, carol does not."""

    def __init__(self) -> None:
        self.stopped = asyncio.Event()
        self.sent = 0
        """Bytes to bob, in all."""
        self.recent = RecentLog()
        self.live = Live(self.totals, lambda: self.sent // 1000, self.status, self.recent)

    def totals(self) -> Reading:
        bob = PeerReading("b" * 52, "bob", self.sent, 0, 1.94)
        return Reading(1000.0, 3, [bob, PeerReading("c" * 52, "carol", 0, 0, None)])

    def status(self) -> Status:
        return make_status()

    async def netcheck(self) -> Netcheck:
        return make_netcheck()

    async def ping(self, peer: str, timeout: float) -> PingReply:  # noqa: ASYNC109
        if peer == "bob":
            return PingReply(peer="bob", node_id="b" * 52, path="relay 192.0.2.1:4433", rtt_ms=1.94)
        if peer == "carol":
            raise TimeoutError
        if peer == "bug":
            raise RuntimeError("secret detail")
        raise LookupError(peer)

    def why(self, peer: str) -> WhyReply:
        if peer != "bob":
            raise LookupError(peer)
        return make_story()

    def take_revocations(self, file: str) -> RevocationsReply:
        if file != "/etc/list.pem":
            raise ConfigError(f"{file}: is no revocation list")
        return RevocationsReply(number=3, newer=True)

    def reload(self) -> ReloadReply:
        if self.stopped.is_set():
            raise ConfigError("client.yaml:3: firewall: wrong\nclient.yaml:4: too")
        return ReloadReply(applied=["firewall"])

    def invitations(self) -> InvitationsReply:
        if self.stopped.is_set():
            raise ConfigError("this client is in no network")
        return InvitationsReply(network="home", network_id="h" * 52)

    def delegate(self) -> DelegateReply:
        return DelegateReply(network_id="h" * 52, ed25519=b"e" * 32, mldsa=b"m" * 2592)

    def invite(self, wanted: InvitationRequest) -> InvitationReply:
        if len(wanted.delegation) < 12_000:
            raise ConfigError("the delegation is damaged")
        return InvitationReply(token="smesh1x", relay="192.0.2.1:4433", expires=wanted.ttl)

    def judge(self, wanted: InvitationVerdict) -> VerdictReply:
        return VerdictReply(name=wanted.label, node_id="b" * 52)

    def request_stop(self) -> None:
        self.stopped.set()


async def raw(path: Path, request: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_status_arrives_as_it_was_made(tmp_path: Path) -> None:
    path = tmp_path / "run" / "api.sock"
    async with serve_api(path, FakeControl()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        data = await asyncio.to_thread(ApiClient(path).status_json)
    assert msgspec.json.decode(data, type=Status) == make_status()
    assert not path.exists()


async def test_netcheck_arrives_as_it_was_made(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    async with serve_api(path, FakeControl()):
        assert await asyncio.to_thread(ApiClient(path).netcheck) == make_netcheck()


async def test_a_revocation_list_is_handed_in_by_its_file(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    client = ApiClient(path)
    async with serve_api(path, FakeControl()):
        assert (await asyncio.to_thread(client.spread, Path("/etc/list.pem"))).number == 3
        with pytest.raises(ApiFailed, match="is no revocation list"):
            await asyncio.to_thread(client.spread, Path("/etc/other.pem"))


async def test_reload_and_its_refusal(tmp_path: Path) -> None:
    path, control = tmp_path / "api.sock", FakeControl()
    async with serve_api(path, control):
        assert (await asyncio.to_thread(ApiClient(path).reload)).applied == ["firewall"]
        control.stopped.set()
        with pytest.raises(ConfigError, match=r"(?s)client\.yaml:3: firewall: wrong.*:4: too"):
            await asyncio.to_thread(ApiClient(path).reload)


async def test_ping_and_its_failures(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    client = ApiClient(path)
    async with serve_api(path, FakeControl()):
        reply = await asyncio.to_thread(client.ping, "bob", 1.0)
        assert (reply.peer, reply.path, reply.rtt_ms) == ("bob", "relay 192.0.2.1:4433", 1.94)
        with pytest.raises(UnknownPeer, match="no peer 'eve'"):
            await asyncio.to_thread(client.ping, "eve", 1.0)
        with pytest.raises(NoReply, match=r"no reply within 0\.5 s"):
            await asyncio.to_thread(client.ping, "carol", 0.5)
        with pytest.raises(ApiFailed, match="timeout"):
            await asyncio.to_thread(client.ping, "bob", 3600.0)


async def test_why_arrives_as_it_was_made(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    async with serve_api(path, FakeControl()):
        data = await asyncio.to_thread(ApiClient(path).why_json, "bob")
        with pytest.raises(UnknownPeer, match="no peer 'eve'"):
            await asyncio.to_thread(ApiClient(path).why_json, "eve")
    assert msgspec.json.decode(data, type=WhyReply) == make_story()


async def test_a_bug_is_logged_and_not_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "api.sock"
    async with serve_api(path, FakeControl()):
        with pytest.raises(ApiFailed) as caught:
            await asyncio.to_thread(ApiClient(path).ping, "bug", 1.0)
    assert "secret" not in str(caught.value)
    assert "secret detail" in caplog.text


async def test_down_waits_until_the_socket_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    control = FakeControl()

    async def daemon() -> None:
        async with serve_api(path, control):
            await control.stopped.wait()

    running = asyncio.create_task(daemon())
    await asyncio.sleep(0)
    await asyncio.to_thread(ApiClient(path).down, 10.0)
    assert not path.exists()
    await running


SLOW_CLIENT = """
import asyncio, sys, time
from pathlib import Path
from shadowmesh.api.server import serve_api
from tests.unit.test_api import FakeControl
async def main():
    control = FakeControl()
    async with serve_api(Path(sys.argv[1]), control):
        print("ready", flush=True)
        await control.stopped.wait()
asyncio.run(main())
time.sleep(0.3)  # giving back what is not the socket
"""


def test_down_waits_until_the_process_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with subprocess.Popen(
        [sys.executable, "-c", SLOW_CLIENT, str(path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        ApiClient(path).down(10.0)
        assert client.poll() == 0


def test_down_gives_up_on_a_client_that_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "api.sock"
    path.touch()
    client = ApiClient(path)
    monkeypatch.setattr(client, "_request", lambda *_: b"")
    with pytest.raises(ApiFailed, match="has not stopped within 0 s"):
        client.down(0.0)


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        (b"GET /v2/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"404"),
        (b"GET /v1/status/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"404"),
        (b"GET /v1/down HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"405"),
        (b"POST /v1/ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{]", b"400"),
        (
            b'POST /v1/ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 7\r\n\r\n{"a":1}',
            b"400",
        ),
        (
            b"POST /v1/ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 12\r\n\r\n"
            b'{"peer":"\xff"}',
            b"400",
        ),
        (
            b"POST /v1/ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 40000\r\n\r\n"
            + b" " * max(40_000, MAX_BODY + 1),
            b"413",
        ),
    ],
)
async def test_wrong_requests_get_json_errors(tmp_path: Path, request_text: bytes, status: bytes) -> None:
    path = tmp_path / "api.sock"
    async with serve_api(path, FakeControl()):
        answer = await raw(path, request_text)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status)
    assert b"application/json" in head
    assert set(msgspec.json.decode(body)) == {"error", "message", "ids"}


async def test_what_is_no_http_after_the_head_of_a_head(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "api.sock"
    async with serve_api(path, FakeControl()):
        chunked = b" /v1/ping HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nno\r\n"
        head, _, body = (await raw(path, b"HEAD" + chunked)).partition(b"\r\n\r\n")
        assert (head.split(b"\r\n")[0], body) == (b"HTTP/1.1 400 Bad Request", b"")
        head, _, body = (await raw(path, b"POST" + chunked)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert body
    assert "data_received" not in caplog.text


async def test_a_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    async with serve_api(path, FakeControl()):
        with pytest.raises(SocketInUse):
            bind_socket(path)
        assert await asyncio.to_thread(ApiClient(path).status_json)


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    path.write_text("precious")
    with pytest.raises(OSError, match="not a socket"):
        bind_socket(path)
    assert path.read_text() == "precious"


async def test_the_socket_of_a_successor_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    async with serve_api(path, FakeControl()):
        path.rename(tmp_path / "moved.sock")
        path.touch()
    assert path.exists()


def test_asking_without_a_client(tmp_path: Path) -> None:
    with pytest.raises(NotRunning, match=r"there is no socket .*absent\.sock"):
        ApiClient(tmp_path / "absent.sock").status_json()
    stale = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(stale))
    with pytest.raises(NotRunning, match="nobody answers on"):
        ApiClient(stale).status_json()


def test_what_answers_may_be_no_client_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "other.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        client = socket.socket(socket.AF_UNIX)
        client.close()
        listener.setblocking(False)

        def answer() -> bytes:
            return ApiClient(path).status_json()

        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(answer)
            listener.settimeout(5)
            connection, _ = listener.accept()
            connection.recv(4096)
            connection.sendall(b"220 smtp ready\r\n")
            connection.close()
            with pytest.raises(ApiFailed, match="does not answer"):
                asked.result(5)


async def test_invitations_go_both_ways_and_refusals_are_told(tmp_path: Path) -> None:
    path, control = tmp_path / "api.sock", FakeControl()
    async with serve_api(path, control):
        client = ApiClient(path)
        assert (await asyncio.to_thread(client.delegate)).mldsa == b"m" * 2592
        wanted = InvitationRequest(name="bob", delegation=bytes(12_900), ttl=60)
        assert (await asyncio.to_thread(client.invite, wanted)).expires == 60
        with pytest.raises(ConfigError, match="damaged"):
            await asyncio.to_thread(client.invite, InvitationRequest(name="bob", delegation=b"", ttl=60))
        verdict = InvitationVerdict(label="bob", verdict="approved")
        assert (await asyncio.to_thread(client.judge, verdict)).name == "bob"
        data = await asyncio.to_thread(client.invitations_json)
        assert msgspec.json.decode(data, type=InvitationsReply).network == "home"
        control.stopped.set()
        with pytest.raises(ConfigError, match="in no network"):
            await asyncio.to_thread(client.invitations_json)
