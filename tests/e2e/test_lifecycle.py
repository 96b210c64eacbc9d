"""Start and stop of a client: nothing is left by any end, and every refusal says why."""

from __future__ import annotations

import json
import re
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from shadowmesh.testing.mesh import Mesh, command_path, wait_gone
from shadowmesh.testing.process import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shadowmesh.testing.lab import Lab
    from shadowmesh.testing.mesh import ClientNode

pytestmark = pytest.mark.root

REFUSED = 3
RUNS_ALREADY = 5


@pytest.fixture(scope="module")
def pair(module_lab: Lab) -> Mesh:
    """A relay that runs; alice and bob, configured and not started."""
    mesh = Mesh(module_lab)
    mesh.relay()
    for name in ("alice", "bob"):
        mesh.client(name)
    mesh.configure().relays["relay"].start()
    return mesh


@pytest.fixture
def alice(pair: Mesh) -> Iterator[ClientNode]:
    """alice, with a fresh configuration, stopped afterwards and looked after."""
    client = pair.clients["alice"]
    client.config = {}
    pair.configure()
    client.write_config()
    yield client
    try:
        if client.process is not None:
            client.process.terminate()
        wait_gone(client)
    finally:
        # A detached client that a failed test left behind must not fail the next test too.
        client.host.kill_strays()
        client.socket_path.unlink(missing_ok=True)


def test_start_line_names_everything(alice: ClientNode) -> None:
    alice.config["node"]["name"] = "alicia"
    process = alice.start().running_process
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"
    process.wait_for_line(
        rf"^{time} INFO alicia \({alice.node_id}\) is up on {alice.interface}, "
        rf"{alice.ipv4}/24, {alice.ipv6}/64, "
        r"UDP \[::\]:\d+, ShadowMesh \d+\.\d+\.\d+$",
        5.0,
    )
    process.wait_for_line(rf"^{time} WARNING .*node\.name: is alicia, but .* made for alice;", 5.0)


def test_relay_tells_its_manager_and_its_totals(pair: Mesh, alice: ClientNode) -> None:
    relay = pair.relays["relay"]
    relay.stop()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            path = relay.directory / "notify"
            manager.bind(str(path))
            manager.settimeout(10.0)
            command = [command_path("shadowmesh-relay"), "serve", "-c", str(relay.config_path)]
            process = relay.host.spawn(command, "managed.log", {"NOTIFY_SOCKET": str(path)})
            assert manager.recv(1000).startswith(b"READY=1\nSTATUS=relay (")
            process.wait_for_line(r"serves on UDP \[::\]:4433, admits 2 members, ShadowMesh \d", 5.0)
            alice.start()
            alice.wait_relay()
            process.send(signal.SIGUSR1)
            totals = process.wait_for_line(r" INFO clients 1, udp_rx_datagrams \d+.*$", 5.0)[0]
            assert "tap_" not in totals
            assert process.terminate() == 0
            assert manager.recv(1000) == b"STOPPING=1"
            path.unlink()
    finally:
        relay.start()


def test_own_node_id_among_the_peers_is_refused(alice: ClientNode) -> None:
    alice.config["peers"][0]["id"] = alice.node_id
    _refused(alice, REFUSED, word="peers[0].id: is this machine's own NodeID")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_leaves_nothing(alice: ClientNode, number: signal.Signals) -> None:
    process = alice.start().running_process
    alice.wait_relay()
    assert alice.interface in alice.host.interfaces()
    assert process.terminate(number=number) == 0
    assert alice.remains() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_during_the_start_leaves_nothing(alice: ClientNode, number: signal.Signals) -> None:
    """From the moment that the device is there, long before the client is ready."""
    process = alice.launch()
    process.wait_for(lambda: alice.interface in alice.host.interfaces(), 20.0, "the interface")
    process.terminate(number=number)
    assert alice.remains() == []


def test_down_leaves_nothing(alice: ClientNode) -> None:
    process = alice.start().running_process
    assert alice.verb("down").returncode == 0
    assert process.wait(5.0) == 0
    assert alice.remains() == []
    assert alice.verb("status", check=False).returncode == 4


def test_second_up_says_that_it_runs(alice: ClientNode) -> None:
    first = alice.start().running_process
    done = alice.run(["up", "-c", str(alice.config_path)], check=False)
    assert done.returncode == RUNS_ALREADY, done
    assert "already" in done.stdout + done.stderr
    assert first.running
    assert alice.answers()
    assert alice.interface in alice.host.interfaces()


def test_detach_returns_when_ready(alice: ClientNode) -> None:
    done = alice.run(["up", "-c", str(alice.config_path), "--detach"])
    assert done.returncode == 0
    log = alice.state_dir / "client.log"
    said = re.fullmatch(rf"alice is up on {alice.interface} \(pid (\d+)\); log: {log}\n", done.stdout)
    assert said, done.stdout
    assert int(said[1]) in alice.host.pids()
    assert alice.status()["node"]["name"] == "alice", "ready means that status answers"
    assert alice.interface in alice.host.interfaces()
    again = alice.run(["up", "-c", str(alice.config_path), "--detach"], check=False)
    assert again.returncode == RUNS_ALREADY
    assert "already" in again.stderr
    assert "already" not in log.read_text(), "the log is that of the client that runs"
    alice.verb("down")
    wait_gone(alice)


def test_detach_reports_a_failed_start(alice: ClientNode) -> None:
    alice.host.run(["ip", "link", "add", alice.interface, "type", "bridge"])
    try:
        done = alice.run(["up", "-c", str(alice.config_path), "--detach"], check=False)
        assert done.returncode not in (0, RUNS_ALREADY)
        assert alice.interface in done.stdout + done.stderr
        assert alice.host.pids() == []
    finally:
        alice.host.run(["ip", "link", "del", alice.interface])


def test_stale_socket_of_a_killed_client_is_no_obstacle(alice: ClientNode) -> None:
    alice.start().kill9()
    assert alice.interface not in alice.host.interfaces(), "a TAP device ends with its process"
    alice.start()
    alice.wait_relay()


def _refused(alice: ClientNode, *codes: int, word: str) -> None:
    """`up` ends by itself with one of the codes and says `word`; nothing of it is left."""
    process = alice.launch()
    assert process.wait(20.0) in codes, process.report()
    assert word.lower() in process.output().lower(), process.output()
    assert "Traceback" not in process.output()
    assert alice.remains() == []


def test_bad_device_name_is_refused(alice: ClientNode) -> None:
    alice.config["interface"]["name"] = "name-of-more-than-15"
    _refused(alice, REFUSED, word="name-of-more-than-15")


def test_device_that_exists_is_refused_and_kept(alice: ClientNode) -> None:
    alice.host.run(["ip", "link", "add", "taken0", "type", "bridge"])
    alice.config["interface"]["name"] = "taken0"
    _refused(alice, 1, REFUSED, word="taken0")
    assert "taken0" in alice.host.interfaces(), "a device of somebody else stays"
    alice.host.run(["ip", "link", "del", "taken0"])


def test_port_in_use_is_refused(alice: ClientNode) -> None:
    with alice.host.socket(socket.AF_INET6, socket.SOCK_DGRAM) as holder:
        holder.bind(("::", 41_001))
        alice.config["listen"]["port"] = 41_001
        _refused(alice, 1, REFUSED, word="41001")


def test_keys_that_others_can_read_are_refused(alice: ClientNode) -> None:
    files = [path for path in alice.state_dir.rglob("*") if path.is_file()]
    keys = [path for path in files if path.stat().st_mode & 0o077 == 0]
    assert keys, "the identity is in files of mode 0600"
    for path in keys:
        path.chmod(0o644)
    try:
        _refused(alice, REFUSED, word="chmod")
    finally:
        for path in keys:
            path.chmod(0o600)


def test_damaged_keys_are_refused(alice: ClientNode) -> None:
    keys = [path for path in alice.state_dir.rglob("*") if path.is_file()]
    contents = {path: path.read_bytes() for path in keys}
    for path in keys:
        path.write_bytes(contents[path][: len(contents[path]) // 2])
    try:
        _refused(alice, REFUSED, word=str(alice.state_dir))
    finally:
        for path, data in contents.items():
            path.write_bytes(data)


def test_missing_identity_is_refused_with_the_command(alice: ClientNode) -> None:
    alice.config["node"]["state_dir"] = str(alice.directory / "nowhere")
    _refused(alice, REFUSED, word="init")
    assert not (alice.directory / "nowhere").exists()


def test_bad_configuration_is_refused_with_its_place(alice: ClientNode) -> None:
    alice.config["peers"][0]["id"] = "not-a-node-id"
    _refused(alice, REFUSED, word="config.yaml")
    check = alice.run(["up", "-c", str(alice.config_path), "--check"], check=False)
    assert check.returncode == REFUSED
    assert "peers" in check.stdout + check.stderr


def test_check_only_checks(alice: ClientNode) -> None:
    assert alice.run(["up", "-c", str(alice.config_path), "--check"]).returncode == 0
    assert alice.remains() == []


def test_init_never_overwrites(alice: ClientNode) -> None:
    arguments = ["init", "--name", "alice", "--state-dir", str(alice.state_dir), "--json"]
    before = {path: path.read_bytes() for path in alice.state_dir.rglob("*") if path.is_file()}
    assert json.loads(alice.run(arguments).stdout)["node_id"] == alice.node_id
    assert before == {path: path.read_bytes() for path in before}
    assert alice.state_dir.stat().st_mode & 0o777 == 0o700


def test_client_starts_without_the_relay(pair: Mesh, alice: ClientNode) -> None:
    """The relay is not there: the client is up, says so, and connects when the relay appears."""
    relay = pair.relays["relay"]
    relay.stop()
    try:
        alice.start()
        assert alice.interface in alice.host.interfaces()
        assert alice.relay_status()["state"] in ("connecting", "waiting")
        wait_until(lambda: alice.relay_status()["last_error"], 20.0, "the status to say why")
    finally:
        relay.start()
    alice.wait_relay(timeout=40.0)


def test_client_starts_without_name_resolution(pair: Mesh, alice: ClientNode) -> None:
    """The relay's name does not resolve yet: the client is up, and connects once it does."""
    alice.host.write_hosts({})
    alice.config["relays"][0]["address"] = "relay.mesh.test:4433"
    alice.start()
    wait_until(lambda: alice.relay_status()["last_error"], 20.0, "an error about the name")
    assert alice.relay_status()["state"] in ("resolving", "waiting")
    alice.host.write_hosts({"relay.mesh.test": pair.relays["relay"].host.address})
    alice.wait_relay(timeout=40.0)


def test_relay_stops_clean_and_is_missed_at_once(pair: Mesh, alice: ClientNode) -> None:
    """SIGTERM at the relay: it says goodbye, so its clients know long before any timer."""
    relay = pair.relays["relay"]
    alice.start()
    alice.wait_relay()
    assert relay.stop() == 0
    try:
        wait_until(lambda: alice.relay_status()["state"] != "connected", 1.0, "alice to notice the goodbye")
        assert relay.host.pids() == []
    finally:
        relay.start()
