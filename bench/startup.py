"""How long does a verb of the client take, from the shell's call to its end, compared with `python -c pass`?

A stand-in answers on the Unix socket at once, so that only the verb is measured: its start, its imports, its
question and what it prints. Each command runs in turn with the bare interpreter, many times; the fastest
of each counts, since everything else on the machine can only add. CPU time is told as well: it depends less
on what else runs. Needs neither root nor network.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import msgspec

from shadowmesh.api.schema import NodeStatus, PeerStatus, PingReply, Side, Status, WhyReply
from shadowmesh.output import table

ROOT = Path(__file__).resolve().parent.parent
BUDGET = 150.0
"""Milliseconds that a verb may take on a machine that does nothing else."""
BARE = (sys.executable, "-c", "pass")
VERBS = (
    ("--help",),
    ("version",),
    ("status",),
    ("status", "--check", "ready"),
    ("peers",),
    ("ping", "bob", "--count", "1"),
    ("why", "bob"),
    ("down", "--help"),
    ("get", "--config", str(ROOT / "configs/client-full.yaml")),
)
"""Those that people type, and that ask the running client at most."""


def answers() -> dict[str, bytes]:
    """What the stand-in says, by path: two peers, one session."""
    node = NodeStatus(
        name="alice",
        node_id="a" * 52,
        version="0",
        interface="smesh0",
        mac="02:00:00:00:00:01",
        mtu=1380,
        addresses=["10.77.0.1/24"],
        listen="[::]:4400",
        uptime=1.0,
        connected_after=0.1,
    )
    bob = PeerStatus(name="bob", node_id="b" * 52, addresses=["10.77.0.2"], state="connected")
    carol = PeerStatus(name="carol", node_id="c" * 52, addresses=["10.77.0.3"], state="absent")
    status = Status(node=node, relays=[], peers=[bob, carol], counters={}, drops={})
    ping = PingReply(peer="bob", node_id="b" * 52, path="direct", rtt_ms=1.0, direct=True)
    why = WhyReply(peer="bob", node_id="b" * 52, direct=True, here=Side(path="direct", reason="it works"))
    return {
        path: msgspec.json.encode(reply)
        for path, reply in (("/v1/status", status), ("/v1/ping", ping), ("/v1/why", why))
    }


@contextlib.contextmanager
def stand_in(path: Path) -> Iterator[None]:
    """A client that answers on `path` what it always answers."""
    known = answers()

    def serve(listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            with connection:
                request = connection.recv(65536)
                if not request:
                    return
                if request.startswith(b"POST") and not request.endswith(b"}"):
                    connection.recv(65536)  # the body, which came by itself
                body = known[request.split(b" ", 2)[1].decode()]
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(64)
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield
        finally:
            with socket.socket(socket.AF_UNIX) as last:  # says nothing: that ends it
                last.connect(str(path))
            thread.join()


def once(command: Sequence[str], environment: dict[str, str]) -> tuple[float, float]:
    """Milliseconds of one run: by the clock, and of CPU time."""
    began = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment, cwd=ROOT
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    took = time.perf_counter() - began
    process.stderr.close()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: {said.decode().strip()}")
    return took * 1000, (used.ru_utime + used.ru_stime) * 1000


def measure(runs: int, program: str) -> list[dict[str, float | str]]:
    """One row for each verb, the first for the bare interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "socket"
        environment = {**os.environ, "SHADOWMESH_SOCKET": str(path)}
        commands = {"python -c pass": BARE, **{" ".join(verb[:3]): (program, *verb) for verb in VERBS}}
        commands["get"] = commands.pop(next(name for name in commands if name.startswith("get")))
        with stand_in(path):
            found = {name: [once(command, environment)] for name, command in commands.items()}
            for _ in range(runs - 1):
                for name, command in commands.items():
                    found[name].append(once(command, environment))
    bare = min(took for took, _ in found["python -c pass"])
    rows: list[dict[str, float | str]] = []
    for name, times in found.items():
        took, cpu = (min(values) for values in zip(*times, strict=True))
        figures = {"ms": round(took, 1), "cpu_ms": round(cpu, 1), "ratio": round(took / bare, 2)}
        rows.append({"verb": name, **figures})
    return rows


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=20, help="how often each runs (20)")
    parser.add_argument("--json", action="store_true", help="print figures for programs")
    parser.add_argument("--smoke", action="store_true", help="only show that it works")
    options = parser.parse_args()
    program = Path(sys.executable).with_name("shadowmesh-client")
    rows = measure(1 if options.smoke else options.runs, str(program))
    if options.json:
        print(json.dumps({"budget_ms": BUDGET, "verbs": rows}))
        return
    cells = [(str(row["verb"]), *(f"{row[key]}" for key in ("ms", "cpu_ms", "ratio"))) for row in rows]
    head = ("verb", "ms", "cpu ms", "x python")
    print("\n".join(table(head, cells, frozenset(head[1:]))))
    late = [str(row["verb"]) for row in rows if float(row["ms"]) > BUDGET]
    print(f"over {BUDGET:g} ms: {', '.join(late)}" if late else f"all within {BUDGET:g} ms")


if __name__ == "__main__":
    main()
