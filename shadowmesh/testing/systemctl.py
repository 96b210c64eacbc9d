"""A stand-in for systemctl(1) on machines of a lab, where there is no systemd.

Starts the ExecStart of a unit in the background, and returns when it has said READY=1 (sd_notify(3)), as
systemctl does for Type=notify.  It takes only the verbs that the manual uses, and of the unit's other
settings only its directories: tests/e2e/test_units.py is about the rest.
"""

from __future__ import annotations

import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

UNITS = (Path("/etc/systemd/system"), Path("/lib/systemd/system"))
STATE = Path("/run/systemctl")
LOGS = Path("/var/log")
START_TIMEOUT = STOP_TIMEOUT = 30.0


def setting(unit: str, name: str) -> str:
    """A setting of the unit's file; SystemExit if there is no such unit."""
    for folder in UNITS:
        path = folder / f"{unit}.service"
        if path.exists():
            found = re.search(rf"^{name}=(.*)$", path.read_text(), re.MULTILINE)
            return found[1] if found else ""
    sys.exit(f"Failed to start {unit}.service: Unit {unit}.service not found.")


def start(unit: str) -> None:
    """Start it, and wait until it is ready."""
    if pid(unit):
        return
    STATE.mkdir(parents=True, exist_ok=True)
    for kind, top in (("Runtime", "/run"), ("State", "/var/lib")):
        for name in setting(unit, f"{kind}Directory").split():
            mode = int(setting(unit, f"{kind}DirectoryMode") or "755", 8)
            Path(top, name).mkdir(mode=mode, parents=True, exist_ok=True)
    command = shlex.split(setting(unit, "ExecStart"))
    told, tell = os.pipe()
    if not os.fork():
        os.setsid()
        supervise(unit, command, tell)
        os._exit(0)
    os.close(tell)
    ready = select.select([told], [], [], START_TIMEOUT)[0] and os.read(told, 1)
    if not ready:
        sys.exit(f"Job for {unit}.service failed:\n{(LOGS / f'{unit}.log').read_text()[-2000:]}")


def supervise(unit: str, command: list[str], tell: int) -> None:
    """Run it to its end, and take what it tells; a byte to `tell` when it is ready."""
    where = STATE / f"{unit}.notify"
    where.unlink(missing_ok=True)
    environment = {**os.environ, "NOTIFY_SOCKET": str(where)}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, (LOGS / f"{unit}.log").open("ab") as log:
        notify.bind(str(where))
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        (STATE / f"{unit}.pid").write_text(str(process.pid))
        # Whoever called systemctl waits for the end of its output.
        for number in (0, 1, 2):
            os.dup2(log.fileno(), number)
        while process.poll() is None:
            if select.select([notify], [], [], 0.1)[0] and b"READY=1" in notify.recv(4096):
                os.write(tell, b"1")


def pid(unit: str) -> int:
    """Process id of a unit that runs, else 0."""
    path = STATE / f"{unit}.pid"
    found = int(path.read_text()) if path.exists() else 0
    return found if Path(f"/proc/{found}").exists() else 0


def stop(unit: str) -> None:
    """End it, and wait until it has ended."""
    running = pid(unit)
    if running:
        os.kill(running, signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT
        while pid(unit) and time.monotonic() < deadline:
            time.sleep(0.02)


def main(arguments: list[str]) -> None:
    """`systemctl VERB [--now] [UNIT…]`."""
    words = [word for word in arguments if word != "--now"]
    verb, units = words[0], words[1:]
    for unit in units:
        if verb in ("stop", "restart") or (verb == "disable" and "--now" in arguments):
            stop(unit)
        if verb in ("start", "restart") or (verb == "enable" and "--now" in arguments):
            start(unit)
        if verb == "reload":
            subprocess.run(shlex.split(setting(unit, "ExecReload")), check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
