"""Members by name: on their own machine, by systemd-resolved and /etc/resolv.conf, and for nobody else."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dns.message
import dns.query
import dns.rcode
import pytest

from shadowmesh.testing.process import wait_until
from tests.e2e.test_membership import Domain, wait_met

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shadowmesh.testing.lab import Host, Lab
    from shadowmesh.testing.mesh import ClientNode
    from shadowmesh.testing.process import Process

pytestmark = pytest.mark.root

UPSTREAM = "127.0.0.2"
WORLD = "www.example.net"
WORLD_ADDRESS = "192.0.2.80"
RELAY_NAME = "relay.example.net"
PROMPT = 2.0
"""Seconds that no look-up may take which does not wait for a server that is dead: libc waits 5 s for one."""

UPSTREAM_PROGRAM = """
import socket, sys
import dns.flags, dns.message, dns.rcode, dns.rrset
at = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
at.bind((sys.argv[1], 53))
known = dict(pair.split("=") for pair in sys.argv[2:])
print("ready", flush=True)
while True:
    data, source = at.recvfrom(4096)
    asked = dns.message.from_wire(data)
    name = asked.question[0].name.to_text(True).lower()
    print("asked", name, flush=True)
    answer = dns.message.make_response(asked, recursion_available=True)
    if name not in known:
        answer.set_rcode(dns.rcode.NXDOMAIN)
    elif asked.question[0].rdtype == 1:
        answer.answer.append(dns.rrset.from_text(name + ".", 60, "IN", "A", known[name]))
    at.sendto(answer.to_wire(), source)
"""
"""The server that the machine had before: knows the world and no member."""


class House:
    """Three members, on alice's machine a server for the rest of the world."""

    def __init__(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home = Domain(lab, monkeypatch)
        self.alice, self.bob, self.carol = (self.home.member(name) for name in ("alice", "bob", "carol"))
        relay = {"address": f"{RELAY_NAME}:4433", "id": self.home.relay.node_id}
        self.alice.config["relays"] = [relay]
        host = self.alice.host
        host.write_hosts({})
        self.file = Path("/etc/netns") / host.namespace / "resolv.conf"
        self.before = f"nameserver {UPSTREAM}\n"
        self.file.write_text(self.before)
        known = [f"{WORLD}={WORLD_ADDRESS}", f"{RELAY_NAME}={self.home.relay.host.ipv4}"]
        self.upstream = host.spawn([sys.executable, "-c", UPSTREAM_PROGRAM, UPSTREAM, *known], "upstream.log")
        self.upstream.wait_for_line("ready", 10.0)

    def start(self) -> None:
        self.home.relay.start()
        for client in (self.alice, self.bob, self.carol):
            client.launch()
        wait_met(self.alice, self.bob, self.carol)

    def restart(self, **names: Any) -> None:
        """alice with other `names:`."""
        if self.alice.running_process.running:
            self.alice.stop()
        self.alice.config["names"] = names
        self.alice.start()
        self.alice.wait_relay()


@pytest.fixture(scope="module")
def house(module_lab: Lab) -> Iterator[House]:
    with pytest.MonkeyPatch.context() as patch:
        made = House(module_lab, patch)
        made.start()
        yield made


def ask(
    host: Host, name: str, kind: str, tcp: bool = False, at: str = "10.77.0.1", within: float = 5.0
) -> tuple[str, list[str]]:
    """Ask our resolver from this machine. Raises dns.exception.Timeout."""
    question = dns.message.make_query(name, kind)

    def talk() -> dns.message.Message:
        return (dns.query.tcp if tcp else dns.query.udp)(question, at, timeout=within)

    answer = host.inside(talk)
    return dns.rcode.to_text(answer.rcode()), [one.to_text() for record in answer.answer for one in record]


def look_up(host: Host, name: str, *more: str, within: float = 10.0) -> str:
    """What programs of this machine get from libc: the first address; empty if there is none."""
    words = host.run(["getent", *more, "ahostsv4", name], False, within).stdout.split()
    return words[0] if words else ""


def names_of(client: ClientNode) -> dict[str, Any]:
    found: dict[str, Any] = client.status()["names"]
    return found


def test_members_are_asked_for_at_their_own_resolver(house: House) -> None:
    alice, bob = house.alice, house.bob
    assert ask(alice.host, "bob.mesh", "A") == ("NOERROR", [bob.ipv4])
    assert ask(alice.host, "BOB.mesh", "AAAA", tcp=True) == ("NOERROR", ["fd77::2"])
    assert ask(alice.host, "alice.mesh", "A", at="fd77::1") == ("NOERROR", [alice.ipv4])
    assert ask(alice.host, "bob.mesh", "A", tcp=True, at="fd77::1") == ("NOERROR", [bob.ipv4])
    assert ask(alice.host, "2.0.77.10.in-addr.arpa", "PTR") == ("NOERROR", ["bob.mesh."])
    assert ask(alice.host, "zoe.mesh", "A") == ("NXDOMAIN", [])
    assert ask(alice.host, WORLD, "A") == ("REFUSED", [])
    assert ask(alice.host, WORLD, "A", tcp=True) == ("REFUSED", [])
    assert "asked zoe" not in house.upstream.output()
    told = names_of(alice)
    assert (told["listen"], told["problem"], told["host"]) == (["10.77.0.1", "fd77::1"], None, "none")
    assert (told["queries"], told["answered"], told["refused"], told["malformed"]) == (8, 6, 2, 0)
    assert "dig @10.77.0.1 alice.mesh" in told["advice"]
    assert "dig @10.77.0.1 alice.mesh" in alice.output()
    assert "names below .mesh are resolved at 10.77.0.1, fd77::1" in alice.verb("status").stdout
    assert house.file.read_text() == house.before


def test_nobody_else_is_answered(house: House) -> None:
    """Neither a member, through the overlay, nor a host of the underlay, to either address."""
    before = names_of(house.alice)["queries"]
    under = house.alice.host.ipv4
    house.home.relay.host.ip_batch([f"route replace 10.77.0.1/32 via {under}"])
    for host in (house.bob.host, house.home.relay.host):
        for tcp in (False, True):
            with pytest.raises((dns.exception.Timeout, OSError)):
                ask(host, "bob.mesh", "A", tcp, within=0.5)
    assert names_of(house.alice)["queries"] == before


def test_a_connection_that_says_nothing_keeps_nobody_out(house: House) -> None:
    def hold() -> list[Any]:
        import socket

        return [socket.create_connection(("10.77.0.1", 53), 3.0) for _ in range(40)]

    held = house.alice.host.inside(hold)
    try:
        assert ask(house.alice.host, "bob.mesh", "A") == ("NOERROR", [house.bob.ipv4])
    finally:
        for one in held:
            one.close()
    wait_until(lambda: _asks(house.alice.host, "bob.mesh", tcp=True), 10.0, "TCP again once they are gone")


def _asks(host: Host, name: str, tcp: bool) -> bool:
    with contextlib.suppress(OSError, EOFError, dns.exception.DNSException):
        return ask(host, name, "A", tcp)[0] == "NOERROR"
    return False


@contextlib.contextmanager
def taken(host: Host, *ports: int) -> Iterator[None]:
    """Another program listens at the address that the resolver will have."""
    listen = f"""
import signal, socket
held = [(socket.socket(), port) for port in {ports}]
for at, port in held:
    at.setsockopt(socket.IPPROTO_IP, 15, 1)  # IP_FREEBIND
    at.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of before may linger
    at.bind(("10.77.0.1", port))
    at.listen()
print("listens", flush=True)
signal.pause()
"""
    other = host.spawn([sys.executable, "-c", listen], f"other{len(ports)}.log")
    try:
        other.wait_for_line("listens", 10.0)
        yield
    finally:
        other.terminate()


def test_a_taken_port_is_told_and_the_client_runs(house: House) -> None:
    alice = house.alice
    alice.stop()
    with taken(alice.host, 53, 1053):
        house.restart()
        told = names_of(alice)
        problem = "port {} of 10.77.0.1: another program listens there"
        assert told["problem"] == f"{problem.format(53)}; {problem.format(1053)} [names.not-served]"
        assert told["listen"] == []
        assert "names below .mesh are not resolved: port 53 of 10.77.0.1" in alice.verb("status").stdout
        alice.wait_peers("bob")
    house.restart(serve="off")
    assert alice.status()["names"] is None
    assert "names below" not in alice.verb("status").stdout


def test_a_line_in_resolv_conf(house: House) -> None:
    """Only when asked; given back at the end and after a crash; a relay is found all the time."""
    alice, file = house.alice, house.file
    house.restart(host="resolv.conf")
    assert names_of(alice)["host"] == "resolv.conf"
    assert "/etc/resolv.conf has it first" in alice.verb("status").stdout
    assert file.read_text().endswith(f"nameserver 127.0.77.53\n{house.before}")
    assert look_up(alice.host, "bob.mesh", within=PROMPT) == house.bob.ipv4
    assert look_up(alice.host, WORLD, within=PROMPT) == WORLD_ADDRESS
    assert look_up(alice.host, "zoe.mesh", within=PROMPT) == ""
    assert "asked bob.mesh" not in house.upstream.output()

    alice.kill9()
    assert "127.0.77.53" in file.read_text()
    assert look_up(alice.host, WORLD, within=PROMPT) == WORLD_ADDRESS, (
        "nobody listens there, which is told at once"
    )
    assert look_up(alice.host, RELAY_NAME, within=PROMPT) == house.home.relay.host.ipv4
    house.restart()
    assert file.read_text() == house.before
    assert names_of(alice)["host"] == "none"
    assert "/etc/resolv.conf is as it was" in alice.output()

    house.restart(host="resolv.conf")
    alice.stop()
    assert file.read_text() == house.before


def test_a_resolv_conf_that_others_write_is_left_to_them(house: House) -> None:
    alice, file = house.alice, house.file
    house.restart(host="resolv.conf")
    theirs = f"nameserver {UPSTREAM}\noptions timeout:3\n"
    try:
        file.write_text(theirs)
        assert names_of(alice)["host"] == "none"
        assert "was changed by somebody else since" in alice.verb("status").stdout
        alice.stop()
        assert file.read_text() == theirs
        read_only = "mount -o bind,ro /etc/resolv.conf /etc/resolv.conf && exec"
        command = ["ip", "netns", "exec", alice.host.namespace, "sh", "-c", f'{read_only} "$@"', "sh"]
        with started_by(alice.host, command):
            house.restart(host="resolv.conf")
        told = names_of(alice)
        assert told["host"] == "none"
        assert "/etc/resolv.conf can't be written: Read-only file system" in told["advice"]
        assert file.read_text() == theirs
        alice.wait_peers("bob")
    finally:
        file.write_text(house.before)
    house.restart()


@contextlib.contextmanager
def started_by(host: Host, command: list[str]) -> Iterator[None]:
    """What is started on this host meanwhile is started by `command`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "_inside", lambda words: [*command, *words])
        yield


BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" \
"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
<policy context="default"><allow own="*"/><allow send_destination="*"/><allow eavesdrop="true"/>
<allow user="*"/></policy></busconfig>
"""
UNPACKED = Path(sys.prefix) / "debian"
"""Where `make setup` unpacks the package."""
RESOLVED = UNPACKED / "lib/systemd/systemd-resolved"
RESOLVECTL = UNPACKED / "usr/bin"


class Resolved:
    """systemd-resolved and a bus of its own on a host, in a mount namespace whose /run begins empty."""

    def __init__(self, house: House) -> None:
        self.host = house.alice.host
        self.file = house.file
        folder = self.file.parent
        bus, settings = house.alice.directory / "bus.conf", house.alice.directory / "resolved.conf"
        bus.write_text(BUS)
        settings.write_text(f"[Resolve]\nDNS={UPSTREAM}\nFallbackDNS=\nLLMNR=no\nMulticastDNS=no\n")
        user = "systemd-resolve:x:990:990:systemd Resolver:/:/usr/sbin/nologin\n"
        (folder / "passwd").write_text(Path("/etc/passwd").read_text() + user)
        (folder / "group").write_text(Path("/etc/group").read_text() + "systemd-resolve:x:990:\n")
        script = (
            "mount -t tmpfs tmpfs /run && mkdir -p /run/dbus /run/systemd/resolve "
            "/run/systemd/resolved.conf.d && chown 990:990 /run/systemd/resolve "
            f"&& cp {settings} /run/systemd/resolved.conf.d/ "
            f"&& exec dbus-daemon --nofork --nopidfile --config-file={bus} --print-address"
        )
        self.bus = self.host.spawn(["unshare", "--mount", "sh", "-c", script], "bus.log")
        self.bus.wait_for_line("unix:path=/run", 10.0)
        space = f"/proc/{self.bus.pid}/ns"
        path = f"PATH={RESOLVECTL}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.inside = ["nsenter", f"--mount={space}/mnt", f"--net={space}/net", "env", path]
        self.process: Process | None = None

    def start(self) -> None:
        self.process = self.host.spawn([str(RESOLVED)], "resolved.log")
        wait_until(
            lambda: UPSTREAM in self.control("dns"),
            10.0,
            lambda: f"{self.control('status')}\n{self.process and self.process.output()[-2000:]}",
        )

    def restart(self) -> None:
        """As after a crash that took its state along."""
        assert self.process is not None
        self.process.kill()
        self.host.run(["rm", "-r", "/run/systemd/resolve/netif"])
        self.start()

    def control(self, *words: str) -> str:
        done = self.host.run(["resolvectl", *words], False)
        return done.stdout + done.stderr

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """What is started on this host meanwhile is started there, and resolves by it."""
        before = self.file.read_text()
        self.file.write_text("nameserver 127.0.0.53\n")
        try:
            with started_by(self.host, self.inside):
                yield
        finally:
            self.file.write_text(before)


@pytest.mark.skipif(not RESOLVED.exists(), reason="make setup had no package systemd-resolved to unpack")
def test_systemd_resolved_asks_for_members_and_for_nothing_else(house: House) -> None:
    alice, bob = house.alice, house.bob
    alice.stop()
    resolved = Resolved(house)
    try:
        with resolved.entered():
            resolved.start()
            house.restart()
            wait_until(lambda: names_of(alice)["host"] == "resolved", 10.0, lambda: str(names_of(alice)))
            assert "systemd-resolved asks it" in alice.verb("status").stdout
            assert names_of(alice)["advice"] is None
            shown = resolved.control("status", "smesh0")
            assert "-DefaultRoute" in shown
            assert "~77.10.in-addr.arpa" in shown
            assert "~mesh" in shown
            assert "DNSSEC=no" in shown
            assert look_up(alice.host, "bob.mesh", within=PROMPT) == bob.ipv4
            assert alice.host.run(["getent", "hosts", bob.ipv4]).stdout.split()[-1] == "bob.mesh"
            assert look_up(alice.host, "zoe.mesh", within=PROMPT) == ""
            assert look_up(alice.host, WORLD, within=PROMPT) == WORLD_ADDRESS
            counted = names_of(alice)
            assert (counted["refused"], counted["malformed"]) == (0, 0), "nothing else came to us"
            assert ".mesh\n" not in house.upstream.output(), "and no member's name went elsewhere"

            alice.running_process.send(signal.SIGSTOP)
            try:
                for name, address in ((WORLD, WORLD_ADDRESS), (RELAY_NAME, house.home.relay.host.ipv4)):
                    resolved.control("flush-caches")
                    assert look_up(alice.host, name, within=PROMPT) == address, "our resolver is dead"
            finally:
                alice.running_process.send(signal.SIGCONT)

            resolved.restart()
            wait_until(lambda: look_up(alice.host, "bob.mesh") == bob.ipv4, 20.0, "it is told again")
            alice.stop()
            with taken(alice.host, 53):
                house.restart()
                assert names_of(alice)["listen"] == ["10.77.0.1:1053", "[fd77::1]:1053"]
                wait_until(lambda: look_up(alice.host, "bob.mesh") == bob.ipv4, 10.0, "it is told the port")
            alice.stop()
            assert look_up(alice.host, WORLD, within=PROMPT) == WORLD_ADDRESS
            assert look_up(alice.host, "bob.mesh", within=PROMPT) == ""
            assert house.file.read_text() == "nameserver 127.0.0.53\n"
    finally:
        for process in (resolved.process, resolved.bus):
            if process is not None:
                process.terminate()
    house.restart()


def test_who_is_revoked_has_no_name_any_more(house: House) -> None:
    alice, home = house.alice, house.home
    carol = house.carol.ipv4
    assert ask(alice.host, "carol.mesh", "A") == ("NOERROR", [carol])
    house.carol.kill9()
    assert ask(alice.host, "carol.mesh", "A") == ("NOERROR", [carol]), "known, though it is away"
    home.run("revoke", "carol")
    alice.verb("network", "spread", str(home.folder / "revocations.pem"))
    wait_until(lambda: ask(alice.host, "carol.mesh", "A") == ("NXDOMAIN", []), 10.0, "carol has no name")
    assert ask(alice.host, "3.0.77.10.in-addr.arpa", "PTR") == ("NXDOMAIN", [])
    assert ask(alice.host, "bob.mesh", "A") == ("NOERROR", [house.bob.ipv4])
