"""Checks of machine, kernel, permissions, files, configuration and versions. Pure functions of the facts."""

from __future__ import annotations

from shadowmesh.config import ClientConfig
from shadowmesh.diagnosis.facts import Facts, FileFact, Unseen
from shadowmesh.diagnosis.findings import (
    Result,
    Verdict,
    check,
    listed,
    note,
    ok,
    problem,
    skipped,
    warning,
)
from shadowmesh.output import duration, size

OK, SKIPPED, NOTE, WARNING, PROBLEM = Result

USO_KERNEL = (6, 2)
"""Linux that takes UDP segments from and gives them to a TAP device (TUN_F_USO4)."""
LITTLE_MEMORY = 64 << 20
"""Bytes; a client takes 60 MB."""
LITTLE_SPACE, NO_SPACE = 64 << 20, 1 << 20
"""Bytes; a detached client's log and the known members are some MB."""
BUFFER = 4 << 20
"""What `io.udp.BUFFER` asks for; a test compares them."""
SMALL_BUFFER = 1 << 20
"""Bytes; below, a fast stream loses packets in bursts."""
HYBRID_OPENSSL = (3, 5)
"""OpenSSL that offers X25519MLKEM768 in TLS."""


@check("machine.kernel", OK, NOTE, PROBLEM)
def kernel(facts: Facts) -> Verdict:
    """Linux, and one that has all offloads."""
    machine = facts.machine
    text = f"{machine.system} {machine.release} on {machine.architecture}"
    if machine.system != "Linux":
        return problem(f"this is {text}", "run it on Linux; there is no client for other systems")
    if _release(machine.release) < USO_KERNEL:
        return note(f"{text} has no UDP offload for interfaces", "Linux 6.2 or newer is faster with UDP")
    return ok(text)


@check("machine.memory", OK, WARNING, SKIPPED)
def memory(facts: Facts) -> Verdict:
    """Memory that is left."""
    left = facts.machine.memory
    if left is None:
        return skipped("the kernel does not tell how much memory is left")
    if left < LITTLE_MEMORY:
        return warning(
            f"only {size(left)} of memory are left", "end other programs, or give the machine more"
        )
    return ok(f"{size(left)} of memory are left")


@check("machine.disk", OK, WARNING, PROBLEM, SKIPPED)
def disk(facts: Facts) -> Verdict:
    """Room for the state directory."""
    if isinstance(facts.files, Unseen):
        return skipped(facts.files)
    free = facts.files.free
    if isinstance(free, Unseen):
        return skipped(free)
    text = f"{size(free)} are free for {facts.files.state_dir.path}"
    remedy = "make room there: certificates, revocations and the clock are kept in it"
    if free < NO_SPACE:
        return problem(f"only {text}", remedy)
    return warning(f"only {text}", remedy) if free < LITTLE_SPACE else ok(text)


@check("machine.receive_buffer", OK, NOTE, WARNING)
def receive_buffer(facts: Facts) -> Verdict:
    """What a UDP socket of ours may hold."""
    got, limit = facts.kernel.receive_buffer, facts.kernel.receive_limit
    shown = "" if limit is None else f" (net.core.rmem_max is {size(limit)})"
    if got >= BUFFER:
        return ok(f"a UDP socket gets the {size(BUFFER)} of receive buffer that it asks for")
    text = f"a UDP socket gets {size(got)} of receive buffer, of the {size(BUFFER)} that it asks for{shown}"
    remedy = f"sysctl -w net.core.rmem_max={BUFFER}, and a file in /etc/sysctl.d"
    if not facts.machine.net_admin:
        return note(f"{text}; root is not held to that limit", "run doctor as the client runs, with sudo")
    return warning(text, remedy) if got < SMALL_BUFFER else note(text, remedy)


@check("kernel.tun", OK, PROBLEM, SKIPPED)
def tun(facts: Facts) -> Verdict:
    """/dev/net/tun."""
    wrong = facts.kernel.tun
    if isinstance(wrong, Unseen):
        return skipped(wrong)
    if wrong:
        return problem(wrong.partition(": ")[0], wrong.partition(": ")[2] or "load the module tun")
    return ok("/dev/net/tun opens")


@check("kernel.tun_offload", OK, NOTE, SKIPPED)
def tun_offload(facts: Facts) -> Verdict:
    """Large frames from and to the interface."""
    offered = facts.kernel.vnet_header
    if isinstance(offered, Unseen):
        return skipped(offered)
    if not offered:
        return note(
            "the kernel has no IFF_VNET_HDR: large frames can't be taken whole", "a newer kernel is faster"
        )
    if not isinstance(facts.status, Unseen):
        off = [name for name, used in facts.status.node.features.items() if not used and "udp_g" not in name]
        if off:
            return note(f"the running client does without {', '.join(off)}", "a newer kernel is faster")
    return ok("large frames are taken from the interface whole")


@check("kernel.udp_offload", OK, NOTE)
def udp_offload(facts: Facts) -> Verdict:
    """UDP GSO and GRO."""
    missing = ["UDP GSO"] * (not facts.kernel.udp_segments) + ["UDP GRO"] * (not facts.kernel.udp_coalesces)
    if not isinstance(facts.status, Unseen):
        used = facts.status.node.features
        missing += ["udp_gso in the running client"] * (not used.get("udp_gso", True))
        missing += ["udp_gro in the running client"] * (not used.get("udp_gro", True))
    if missing:
        return note(f"there is no {', no '.join(missing)}", "speed only; Linux has both from 5.0 on")
    return ok("several datagrams go by one call, both ways (UDP GSO and GRO)")


@check("kernel.reuse_port", OK, NOTE)
def reuse_port(facts: Facts) -> Verdict:
    """SO_REUSEPORT."""
    if facts.kernel.shares_ports:
        return ok("several sockets may share a port (SO_REUSEPORT)")
    return note("the kernel has no SO_REUSEPORT", "a relay here has to do with one thread")


@check("kernel.netlink", OK, PROBLEM)
def netlink(facts: Facts) -> Verdict:
    """Reading links, addresses and routes."""
    if facts.kernel.netlink:
        remedy = "allow AF_NETLINK where a container or unit restricts address families"
        return problem(f"netlink does not answer: {facts.kernel.netlink}", remedy)
    return ok("links, addresses and routes can be read")


@check("permission.net_admin", OK, NOTE, PROBLEM)
def net_admin(facts: Facts) -> Verdict:
    """CAP_NET_ADMIN."""
    if facts.machine.net_admin:
        return ok("an interface may be made (CAP_NET_ADMIN)")
    if not isinstance(facts.status, Unseen):
        return ok("the client runs; this process itself may make no interface")
    if facts.machine.root:
        return problem(
            "this root may make no interface", "give the container CAP_NET_ADMIN (--cap-add NET_ADMIN)"
        )
    return note("this user may make no interface", "run up, and doctor for all of its checks, with sudo")


@check("permission.socket", OK, WARNING, SKIPPED)
def control_socket(facts: Facts) -> Verdict:
    """Who may tell the client what to do."""
    if facts.socket.mode is None:
        return skipped(facts.socket.problem or f"there is no socket {facts.socket.path}")
    text = f"{facts.socket.path} has mode {facts.socket.mode:04o}"
    if facts.socket.mode & 0o002:
        return warning(f"{text}: everybody may stop the client", f"chmod o-rwx {facts.socket.path}")
    return ok(text)


@check("permission.state_dir", OK, PROBLEM, SKIPPED)
def state_dir(facts: Facts) -> Verdict:
    """The folder of the identity."""
    if isinstance(facts.files, Unseen):
        return skipped(facts.files)
    folder = facts.files.state_dir
    if folder.problem:
        return skipped(folder.problem)
    if folder.mode is None:
        return problem(f"there is no {folder.path}", "shadowmesh-client init --name NAME makes it")
    if folder.mode & 0o022:
        return problem(
            f"{folder.path} can be changed by others (mode {folder.mode:04o}): the identity could be swapped",
            f"chmod 700 {folder.path}",
        )
    return ok(f"{folder.path} has mode {folder.mode:04o}")


@check("permission.keys", OK, WARNING, PROBLEM, SKIPPED)
def keys(facts: Facts) -> Verdict:
    """Files that nobody else may read."""
    if isinstance(facts.files, Unseen):
        return skipped(facts.files)
    identity = facts.files.identity
    if identity.problem:
        return skipped(identity.problem)
    if identity.mode is None:
        return problem(
            f"there is no identity {identity.path}", "shadowmesh-client init --name NAME makes one"
        )
    if identity.mode & 0o077:
        return problem(
            f"{identity.path} can be read by others (mode {identity.mode:04o}): its keys may be known",
            f"chmod 600 {identity.path}; if others use this machine, make a new identity",
        )
    seen = facts.files.keys
    open_ = [f"{one.path} (mode {one.mode:04o})" for one in seen if _readable(one, 0o077)]
    open_ += [f"{one.path} (mode {one.mode:04o})" for one in facts.files.tokens if _readable(one, 0o007)]
    lost = [one.path for one in facts.files.tokens if one.mode is None]
    if lost:
        return problem(f"there is no {listed(lost)}", "put the relay's token there, or take token_file out")
    if open_:
        return warning(f"others can read {listed(open_)}", "chmod 600, and replace what may be known")
    return ok(
        f"{identity.path} and {sum(one.mode is not None for one in seen)} more are for their owner only"
    )


@check("config.loads", OK, PROBLEM, SKIPPED)
def config_loads(facts: Facts) -> Verdict:
    """The configuration itself."""
    if facts.config_problem:
        wrong = facts.config_problem.splitlines()
        return problem(listed(wrong), "mend the file; shadowmesh-client up -c FILE --check tells all of it")
    if isinstance(facts.config, Unseen):
        return skipped(facts.config)
    return ok(f"{facts.config.file} loads")


@check("config.doubts", OK, WARNING, SKIPPED)
def config_doubts(facts: Facts) -> Verdict:
    """What is allowed and looks like a mistake."""
    if isinstance(facts.config, Unseen):
        return skipped(facts.config)
    if facts.doubts:
        return warning(listed(facts.doubts), "change it, if it is not meant")
    return ok("nothing in it looks like a mistake")


@check("config.mode", OK, WARNING, PROBLEM, SKIPPED)
def config_mode(facts: Facts) -> Verdict:
    """Who may read and change the configuration."""
    if isinstance(facts.files, Unseen):
        return skipped(facts.files)
    file = facts.files.config
    if file.mode is None:
        return skipped(file.problem or f"there is no {file.path}")
    text = f"{file.path} (mode {file.mode:04o})"
    if file.mode & 0o002:
        return problem(f"everybody can change {text}", f"chmod go-w {file.path}")
    if file.mode & 0o004 and isinstance(facts.config, ClientConfig) and _has_password(facts.config):
        return warning(f"everybody can read {text}, with a proxy's password in it", f"chmod 600 {file.path}")
    return ok(f"{text} is as safe as what is in it")


@check("client.running", OK, NOTE, PROBLEM, SKIPPED)
def running(facts: Facts) -> Verdict:
    """Whether a client answers."""
    if not isinstance(facts.status, Unseen):
        return ok(f"{facts.status.node.name} has been up for {duration(facts.status.node.uptime)}")
    if facts.silent:
        return problem(facts.silent, "look into its log; restart it")
    if facts.stopped:
        return note(facts.status.reason, "start it with `shadowmesh-client up -c client.yaml`")
    return skipped(facts.status)


@check("version.client", OK, WARNING, SKIPPED)
def client_version(facts: Facts) -> Verdict:
    """Whether what runs is what is installed."""
    if isinstance(facts.status, Unseen):
        return skipped(facts.status)
    runs, installed = facts.status.node.version, facts.machine.installed
    if runs != installed:
        return warning(f"version {runs} runs, and {installed} is installed", "restart the client")
    return ok(f"version {runs} runs, as installed")


@check("version.runtime", OK, NOTE, PROBLEM)
def runtime(facts: Facts) -> Verdict:
    """Python and OpenSSL."""
    machine = facts.machine
    text = f"Python {'.'.join(map(str, machine.python))}, {machine.openssl_text}"
    if machine.python < (3, 11) or machine.openssl < (3, 0):
        return problem(f"{text}: too old", "Python 3.11 and OpenSSL 3.0 at least")
    if machine.openssl < HYBRID_OPENSSL and _over_tcp(facts):
        found = f"{text}: the outer TLS of a relay over TCP is classical; the sessions in it are not"
        return note(found, "OpenSSL 3.5 or newer offers X25519MLKEM768 there")
    return ok(text)


def _release(text: str) -> tuple[int, int]:
    """6.1.0-18-amd64 -> (6, 1)."""
    numbers = ["".join(c for c in part if c.isdigit()) for part in text.partition("-")[0].split(".")[:2]]
    major, minor = (*(int(number or 0) for number in numbers), 0, 0)[:2]
    return major, minor


def _readable(file: FileFact, forbidden: int) -> bool:
    return file.mode is not None and bool(file.mode & forbidden)


def _has_password(config: ClientConfig) -> bool:
    return any("@" in relay.proxy for relay in config.relays)


def _over_tcp(facts: Facts) -> bool:
    return not isinstance(facts.netcheck, Unseen) and any(
        relay.transport == "tcp" for relay in facts.netcheck.relays
    )
