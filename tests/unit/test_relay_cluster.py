"""A relay in a cluster: its configuration, what it tells of that, and its connection to a real NATS."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
import logging
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from shadowmesh.errors import ConfigError
from shadowmesh.stages import Stages
from shadowmesh.units import Address
from shadowmesh_relay import nats_link
from shadowmesh_relay.cluster import Cluster
from shadowmesh_relay.cluster_config import ClusterSection, parse_nats, shown
from shadowmesh_relay.cluster_wire import Beat, Presence, entry_key
from shadowmesh_relay.config import load_relay_config
from shadowmesh_relay.limits import Limits
from shadowmesh_relay.nats_link import NatsLink
from shadowmesh_relay.rendezvous import Rendezvous
from shadowmesh_relay.steering import Steering
from shadowmesh_relay.testing import MemoryForwarder
from shadowmesh_relay.verbs import _cluster

from .test_relay_service import free_port

DEADLINE = 15.0
RELAY = 'relay: {{name: relay1, state_dir: /tmp/state, listen: "{listen}"}}\nadmission: {{open: true}}\n'
needs_nats = pytest.mark.skipif(
    shutil.which("nats-server") is None and os.environ.get("CI") != "true",
    reason="nats-server is not installed",
)


# Configuration.


def load(folder: Path, cluster: str, listen: str = "192.0.2.1:4433") -> ClusterSection | None:
    path = folder / "relay.yaml"
    path.write_text(RELAY.format(listen=listen) + cluster)
    return load_relay_config(path).cluster


def test_a_relay_by_itself_is_the_default(tmp_path: Path) -> None:
    assert load(tmp_path, "") is None


def test_defaults_of_a_cluster(tmp_path: Path) -> None:
    found = load(tmp_path, "cluster: {nats: nats://nats.test}")
    wanted = ClusterSection(("nats://nats.test:4222",), "shadowmesh", Address("192.0.2.1", 4433))
    assert found == wanted


def test_all_keys_of_a_cluster(tmp_path: Path) -> None:
    keys = 'nats: ["tls://u:p%40ss@[2001:db8::1]:4333", tls://token@nats2.test], name: east, replicas: 3'
    keys += ', address: "[2001:db8::7]:4433", ca: /ca.pem, certificate: /relay.crt, key: /relay.key'
    found = load(tmp_path, f"cluster: {{{keys}}}", "[::]:4433")
    assert found is not None
    assert found.nats == ("tls://u:p%40ss@[2001:db8::1]:4333", "tls://token@nats2.test:4222")
    assert [shown(url) for url in found.nats] == ["[2001:db8::1]:4333", "nats2.test:4222"]
    assert (found.name, found.replicas, found.address) == ("east", 3, Address("2001:db8::7", 4433))
    assert (found.ca, found.certificate, found.key) == (
        Path("/ca.pem"),
        Path("/relay.crt"),
        Path("/relay.key"),
    )


@pytest.mark.parametrize(
    ("cluster", "listen", "problem"),
    [
        ("cluster: {}", "192.0.2.1:4433", r"cluster\.nats: is missing"),
        ("cluster: {nats: []}", "192.0.2.1:4433", r"cluster\.nats: is missing"),
        (
            "cluster: {nats: nats://a}",
            "[::]:4433",
            r"cluster\.address: is missing, as listen names no address",
        ),
        ("cluster: {nats: nats://a}", "0.0.0.0:4433", r"cluster\.address: is missing"),
        ("cluster: {nats: redis://a}", "192.0.2.1:4433", "is no URL of a NATS server"),
        ("cluster: {nats: nats://secret@}", "192.0.2.1:4433", "is no URL of a NATS server"),
        ("cluster: {nats: nats://a/secret}", "192.0.2.1:4433", "is no URL of a NATS server"),
        ("cluster: {nats: nats://secret:secret@a:port}", "192.0.2.1:4433", "is no URL of a NATS server"),
        ('cluster: {nats: nats://a, address: "relay.test:4433"}', "192.0.2.1:4433", "is no IP address"),
        ('cluster: {nats: nats://a, address: "[ff02::1]:4433"}', "192.0.2.1:4433", "no address of one relay"),
        ('cluster: {nats: nats://a, address: "0.0.0.0:4433"}', "192.0.2.1:4433", "no address of one relay"),
        ("cluster: {nats: nats://a, replicas: 6}", "192.0.2.1:4433", "6 is not between 1 and 5"),
        ("cluster: {nats: nats://a, name: a.b}", "192.0.2.1:4433", "is not a name"),
        ("cluster: {nats: nats://a, ca: /ca}", "192.0.2.1:4433", "all URLs begin with tls://"),
        ("cluster: {nats: tls://a, key: /key}", "192.0.2.1:4433", "certificate and key go together"),
        ("cluster: {nats: nats://a, servers: b}", "192.0.2.1:4433", "unknown key"),
    ],
)
def test_mistakes_are_named_with_their_line_and_without_secrets(
    tmp_path: Path, cluster: str, listen: str, problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem) as error:
        load(tmp_path, cluster, listen)
    assert "relay.yaml:3: " in str(error.value)
    assert "secret" not in str(error.value)


def test_a_relay_by_itself_imports_no_nats() -> None:
    """9 MB that most relays don't need."""
    program = "import sys, shadowmesh_relay.cli, shadowmesh_relay.server; sys.exit('nats' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_status_shows_relays_and_why_there_is_no_connection() -> None:
    side = Side(Address("192.0.2.1", 4433))
    side.cluster.handle_disconnected("NATS at nats.test:4222: refused", 5.0)
    beat = Beat(b"x" * 16, b"n" * 32, "relay\x1b2", "192.0.2.2", 4433)
    side.cluster.handle_message_untrusted(msgspec.msgpack.encode(beat), 6.0)
    lines = _cluster(side.cluster.report(9.0))
    assert lines[0].startswith(
        "cluster shadowmesh: NOT CONNECTED (NATS at nats.test:4222: refused [relay.cluster])"
    )
    assert re.search(r"relay\?2 .*192\.0\.2\.2:4433 +alive +3", "\n".join(lines))


# A real server.


class Client:
    """What a cluster looks at of a client."""

    visit = None
    network = mark = b""

    def __init__(self) -> None:
        self.node, self.instance = secrets.token_bytes(32), secrets.token_bytes(8)
        self.interests: set[bytes] = set()


class Side:
    """A relay without sockets."""

    def __init__(self, address: Address) -> None:
        self.clients: dict[bytes, Any] = {}
        self.link: asyncio.Task[None] | None = None
        beat = Beat(secrets.token_bytes(16), secrets.token_bytes(32), "relay", *address)
        self.cluster = Cluster("shadowmesh", beat, 0.0, time.time)
        tables = MemoryForwarder()
        self.rendezvous = Rendezvous(
            self.clients, tables, Steering(1, os.urandom), lambda *_: None, Limits(), Stages()
        )
        self.cluster.serve(self.clients, self.rendezvous, tables)

    def come(self) -> Client:
        client: Any = Client()
        self.clients[client.node] = client
        self.cluster.handle_arrival(client, time.monotonic())
        return client  # type: ignore[no-any-return]

    def end(self) -> None:
        """The relay ends in order."""
        assert self.link is not None
        self.link.cancel()

    def knows(self, client: Client) -> bool:
        return bool(self.cluster.find(client.node))


async def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def linked(*urls: str, **more: Any) -> AsyncIterator[list[Side]]:
    """Two relays of one cluster."""
    sides = [Side(Address("192.0.2.1", 4433)), Side(Address("192.0.2.2", 4433))]
    section = ClusterSection(urls, "shadowmesh", Address("192.0.2.1", 4433), **more)
    for side in sides:
        side.link = asyncio.create_task(NatsLink(section, side.cluster, lambda: None).run())
    try:
        yield sides
    finally:
        for side in sides:
            side.end()
        await asyncio.gather(*(side.link for side in sides if side.link), return_exceptions=True)


@contextlib.contextmanager
def nats_server(folder: Path, port: int, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    command = ["nats-server", "-js", "-sd", str(folder), "-a", "127.0.0.1", "-p", str(port), *arguments]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


@needs_nats
async def test_relays_share_presence_and_say_when_they_end(tmp_path: Path) -> None:
    port = free_port()
    with nats_server(tmp_path, port, "--user", "relays", "--pass", "secret"):
        async with linked(f"nats://relays:secret@127.0.0.1:{port}") as (first, second):
            early = first.come()
            await until(lambda: second.knows(early), "the entry of a client")
            late = second.come()
            await until(lambda: first.knows(late), "the entry of a client that comes later")
            del second.clients[late.node]
            second.cluster.handle_departure(late, time.monotonic())  # type: ignore[arg-type]
            await until(lambda: not first.knows(late), "that it left")
            assert first.cluster.drops == second.cluster.drops == {}
            second.end()
            await until(lambda: not first.cluster.report(0.0).relays, "that a relay ended")


@needs_nats
async def test_a_server_that_is_not_there_is_tried_again_and_another_one_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dead, port = free_port(), free_port()
    caplog.set_level(logging.INFO, "shadowmesh.relay")
    urls = f"nats://u:secret@127.0.0.1:{dead}", f"nats://u:secret@127.0.0.1:{port}"
    async with linked(*urls) as (first, second):
        client = first.come()
        await until(lambda: "the cluster is out of reach" in caplog.text, "a line about it")
        with nats_server(tmp_path, port, "--user", "u", "--pass", "secret") as process:
            await until(lambda: second.knows(client), "presence once there is a server")
            process.kill()
            process.wait()
            await until(lambda: not first.cluster.connected, "that it is gone")
            assert second.knows(client), "nobody is forgotten for that"
        with nats_server(tmp_path / "anew", port, "--user", "u", "--pass", "secret"):
            await until(lambda: second.cluster.connections == 2, "the next connection")
            await until(
                lambda: not first.cluster._unwritten and first.cluster.connected, "all is written anew"
            )
    assert "secret" not in caplog.text
    assert caplog.text.count("out of reach") <= 4, "once for each time that it is lost"


class BrokenClient:
    """Of NATS, with a mistake in it that changes from try to try."""

    is_connected, last_error = False, None
    errors: Iterator[BaseException]

    async def connect(self, *_: object, **__: object) -> None:
        raise next(self.errors)

    async def close(self) -> None:
        raise AssertionError("and another one at its end")


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_link, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(nats_link, "LONGEST_PAUSE", 0.02)


@pytest.mark.usefixtures("hurried")
async def test_mistakes_are_lost_connections_and_each_kind_is_in_the_log_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = 0

    def errors() -> Iterator[BaseException]:
        nonlocal tries
        while True:
            tries += 1
            yield (KeyError("first"), asyncio.CancelledError(), KeyError("second"))[tries % 3]

    monkeypatch.setattr(BrokenClient, "errors", errors(), raising=False)
    monkeypatch.setattr(nats_link, "NatsClient", BrokenClient)
    async with linked("nats://127.0.0.1:1") as (first, second):
        assert second.link is not None
        second.link.cancel()  # before it began
        await until(lambda: tries > 9, "that it tries again")
        assert first.link is not None
        assert not first.link.done()
    assert first.link.cancelled()
    assert caplog.text.count("internal error") == 1


async def test_the_link_ends_when_it_is_to_even_if_its_end_goes_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, mistakes = asyncio.Event(), iter([AssertionError("at its end")])

    async def connect(*_: object, **__: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def close(_: object) -> None:
        for error in mistakes:
            raise error

    monkeypatch.setattr(BrokenClient, "connect", connect)
    monkeypatch.setattr(BrokenClient, "close", close)
    monkeypatch.setattr(nats_link, "NatsClient", BrokenClient)
    async with linked("nats://127.0.0.1:1") as (first, second):
        assert second.link is not None
        second.end()
        await asyncio.wait_for(begun.wait(), DEADLINE)
        assert first.link is not None
        first.end()
        await asyncio.wait([first.link], timeout=5.0)
        assert first.link.cancelled()


@pytest.mark.usefixtures("hurried")
async def test_clients_that_cannot_be_told_do_not_end_the_link() -> None:
    calls = 0

    def drive() -> None:
        nonlocal calls
        calls += 1
        raise KeyError("told")

    section = ClusterSection(("nats://127.0.0.1:1",), "x", Address("192.0.2.1", 4433))
    link = asyncio.create_task(NatsLink(section, Side(Address("192.0.2.1", 4433)).cluster, drive).run())
    await until(lambda: calls > 3 or link.done(), "the next try, and timers")
    assert not link.done()
    link.cancel()
    await asyncio.gather(link, return_exceptions=True)


@needs_nats
@pytest.mark.parametrize("name", ["poll", "poll_writes"])
async def test_a_mistake_of_ours_costs_one_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    port = free_port()
    with nats_server(tmp_path, port):
        async with linked(f"nats://127.0.0.1:{port}") as (first, second):
            right = getattr(first.cluster, name)
            told: list[bool] = []

            def wrong(*arguments: object) -> Any:
                if not told:
                    told.append(True)
                    raise KeyError("mistake")
                return right(*arguments)

            setattr(first.cluster, name, wrong)
            await until(lambda: first.cluster.connections == 2, "the next connection")
            client = first.come()
            await until(lambda: second.knows(client), "that it works")
    assert caplog.text.count("internal error") == 1


@needs_nats
async def test_a_wrong_password_is_told_and_not_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    with nats_server(tmp_path, port, "--user", "relays", "--pass", "right"):
        async with linked(f"nats://relays:opensesame@127.0.0.1:{port}") as (first, _):
            await until(lambda: "Authorization" in first.cluster.report(0.0).reason, "what the server says")
            assert "opensesame" not in caplog.text + first.cluster.report(0.0).reason


def certify(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nats")])
    now = dt.datetime.now(dt.UTC)
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )
    certificate, private = folder / "nats.crt", folder / "nats.key"
    certificate.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    form = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    return certificate, private


@needs_nats
async def test_tls_with_a_ca_of_ones_own_and_a_token(tmp_path: Path) -> None:
    certificate, key = certify(tmp_path)
    port = free_port()
    tls = ("--tls", "--tlscert", str(certificate), "--tlskey", str(key), "--auth", "a-token")
    with nats_server(tmp_path, port, *tls):
        url = f"tls://a-token@127.0.0.1:{port}"
        async with linked(url, ca=certificate) as (first, second):
            client = first.come()
            await until(lambda: second.knows(client), "presence over TLS")
        async with linked(url) as (first, _):
            await until(
                lambda: "certificate" in first.cluster.report(0.0).reason, "that nobody vouches for it"
            )
            assert first.cluster.connections == 0


def test_a_file_that_is_no_certificate_is_a_configuration_error(tmp_path: Path) -> None:
    section = ClusterSection(("tls://a:1",), "x", Address("192.0.2.1", 4433), ca=tmp_path / "none.pem")
    with pytest.raises(ConfigError, match="cluster: ca, certificate or key can't be used"):
        nats_link._tls(section)


def test_urls() -> None:
    assert parse_nats("nats://nats.test") == "nats://nats.test:4222"
    assert parse_nats("tls://u:p@nats.test:1/") == "tls://u:p@nats.test:1"


def test_keys_of_the_directory() -> None:
    assert entry_key(bytes(32), bytes(16)) == "a" * 52 + "." + "0" * 32
    assert len(msgspec.msgpack.encode(Presence(bytes(8), 1 << 50, bytes(32), bytes(8)))) < 128
