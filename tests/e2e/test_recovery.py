"""Crashes and restarts under traffic: it comes back by itself, in bounded time."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest

from shadowmesh.testing.process import wait_until

if TYPE_CHECKING:
    from shadowmesh.testing.lab import Host
    from shadowmesh.testing.mesh import Mesh
    from shadowmesh.testing.process import Process

pytestmark = pytest.mark.root

RESUME_LIMIT = 5.0
"""Seconds from the relay's return to the first echo reply: the project's requirement."""

CLIENT_LIMIT = 10.0
"""Seconds from a client's restart: its Python start counts as well."""

SILENCE = 0.5
"""Seconds without a reply after which the traffic counts as interrupted: ten pings."""


class Pinging:
    """`ping -i 0.05` in the background; knows when the last reply came."""

    def __init__(self, host: Host, address: str) -> None:
        command = ["stdbuf", "-oL", "ping", "-n", "-D", "-i", "0.05", address]
        self.process: Process = host.spawn(command, f"ping-{len(host.processes)}.log")
        self.wait_reply(after=0.0, timeout=10.0)

    def last_reply(self) -> float:
        """Wall-clock time of the last reply, as ping prints it; 0 without any."""
        times = re.findall(r"^\[([0-9.]+)\] \d+ bytes from", self.process.output(), re.MULTILINE)
        return float(times[-1]) if times else 0.0

    def wait_reply(self, after: float, timeout: float) -> float:
        """Wait for a reply later than `after`; returns its time."""
        self.process.wait_for(lambda: self.last_reply() > after, timeout, f"a reply after {after:.3f}")
        return self.last_reply()

    def wait_silence(self) -> None:
        """Wait until the traffic is interrupted."""
        wait_until(lambda: time.time() - self.last_reply() > SILENCE, 10.0, "the traffic to stop")

    def stop(self) -> None:
        self.process.terminate()


@pytest.mark.parametrize("crash", [False, True], ids=["goodbye", "SIGKILL"])
def test_relay_restarted_under_traffic(duo: Mesh, crash: bool) -> None:
    """Within 5 s of the relay's return the frames cross again, without anybody doing anything."""
    alice, bob = duo.clients["alice"], duo.clients["bob"]
    relay = duo.relays["relay"]
    pinging = Pinging(alice.host, bob.ipv4)
    try:
        if crash:
            relay.kill9()
        else:
            assert relay.stop() == 0
        pinging.wait_silence()
        relay.start()
        back = time.time()
        resumed = pinging.wait_reply(back, 3 * RESUME_LIMIT)
        assert resumed - back < RESUME_LIMIT
    finally:
        pinging.stop()
    for one, two in ((alice, "bob"), (bob, "alice")):
        one.wait_peers(two)
        assert one.relay_status()["state"] == "connected"


def test_relay_away_for_long(duo: Mesh) -> None:
    """Also when the back-off has grown: the relay is away for several seconds."""
    alice, bob = duo.clients["alice"], duo.clients["bob"]
    relay = duo.relays["relay"]
    pinging = Pinging(alice.host, bob.ipv4)
    try:
        relay.kill9()
        gone = time.time()
        wait_until(lambda: time.time() - gone > 8.0, 20.0, "eight seconds without a relay")
        relay.start()
        back = time.time()
        assert pinging.wait_reply(back, 3 * RESUME_LIMIT) - back < RESUME_LIMIT
    finally:
        pinging.stop()


@pytest.mark.parametrize("name", ["alice", "bob"])
def test_client_killed_and_started_again(duo: Mesh, name: str) -> None:
    """The other side takes the new session though the old one never said goodbye."""
    victim = duo.clients[name]
    other = duo.clients["bob" if name == "alice" else "alice"]
    before = other.peer(name)["last_handshake"]
    assert before is not None
    pinging = Pinging(other.host, victim.ipv4)
    try:
        victim.kill9()
        pinging.wait_silence()
        assert victim.interface not in victim.host.interfaces()
        begin = time.time()
        victim.start()
        assert pinging.wait_reply(begin, 3 * CLIENT_LIMIT) - begin < CLIENT_LIMIT
    finally:
        pinging.stop()
    victim.host.ping(other.ipv4)
    victim.host.ping(other.ipv6)
    assert other.running_process.running


def test_client_restarted_in_order(duo: Mesh) -> None:
    """A clean stop tells the peer: it shows the session as gone before any timer."""
    alice, bob = duo.clients["alice"], duo.clients["bob"]
    assert alice.stop() == 0
    wait_until(lambda: bob.peer("alice")["state"] != "connected", 3.0, "bob to see that alice left")
    alice.start()
    alice.wait_peers("bob")
    bob.wait_peers("alice")
    bob.host.ping(alice.ipv4)


@pytest.mark.parametrize("crash", [False, True], ids=["goodbye", "SIGKILL"])
def test_restarted_client_resumes_its_relay_session(duo: Mesh, crash: bool) -> None:
    alice, bob = duo.clients["alice"], duo.clients["bob"]
    tickets = alice.state_dir / "tickets"
    wait_until(tickets.exists, 5.0, "a ticket")
    assert tickets.stat().st_mode & 0o777 == 0o600
    if crash:
        alice.kill9()
    else:
        alice.stop()
    before, used = len(alice.output()), tickets.read_bytes()
    alice.start()
    alice.wait_peers("bob")
    assert "connected, resumed" in alice.output()[before:]
    alice.host.ping(bob.ipv4)
    wait_until(tickets.exists, 5.0, "the next ticket")
    assert tickets.read_bytes() != used


def test_damaged_tickets_cost_a_line_in_the_log(duo: Mesh) -> None:
    alice, bob = duo.clients["alice"], duo.clients["bob"]
    alice.stop()
    (alice.state_dir / "tickets").write_bytes(b"damaged")
    before = len(alice.output())
    alice.start()
    alice.wait_peers("bob")
    said = alice.output()[before:]
    assert "tickets is ignored: it is damaged" in said
    assert "resumed" not in said
    alice.host.ping(bob.ipv4)


def test_both_clients_started_at_once(duo: Mesh) -> None:
    """Simultaneous opening ends in one session that carries frames both ways."""
    clients = list(duo.clients.values())
    for client in clients:
        client.stop()
    for client in clients:
        client.launch()
    alice, bob = clients
    alice.wait_peers("bob")
    bob.wait_peers("alice")
    alice.host.ping(bob.ipv4)
    bob.host.ping(alice.ipv6)


def test_underlay_interrupted(duo: Mesh) -> None:
    """A cable pulled for two seconds and put back."""
    alice, bob = duo.clients["alice"], duo.clients["bob"]
    port = f"port{alice.host.number}"
    pinging = Pinging(alice.host, bob.ipv4)
    try:
        duo.lab.switch.run(["ip", "link", "set", port, "down"])
        pinging.wait_silence()
        wait_until(lambda: time.time() - pinging.last_reply() > 2.0, 10.0, "two seconds")
        duo.lab.switch.run(["ip", "link", "set", port, "up"])
        back = time.time()
        assert pinging.wait_reply(back, 3 * RESUME_LIMIT) - back < RESUME_LIMIT
    finally:
        pinging.stop()
