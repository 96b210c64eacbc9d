"""systemd-resolved: which questions of this machine it asks our resolver, set for our own interface only.

A link's servers and routing domains are its way to split names: what is below `~DOMAIN` goes to that link's
servers, and nothing else does, since the link is no default route for names. No file is touched. The settings
are the link's, and vanish with it, also after a crash. Source: systemd-resolved.service(8), resolvectl(1).

By `resolvectl`, which comes with it, rather than its D-Bus calls: they happen once in the life of an
interface, and a library for them would be there all the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Sequence
from pathlib import Path

from shadowmesh.errors import DeviceError

STUB = Path("/run/systemd/resolve/stub-resolv.conf")
"""Documented as a file for others. Written at each start and change, and left where nothing has changed;
its folder tells of both."""
RESOLV_CONF, NSSWITCH = Path("/etc/resolv.conf"), Path("/etc/nsswitch.conf")
TIMEOUT = 5.0
"""Seconds for one call."""
MAX_WORDS = 200

Stamp = tuple[int, int]


def stamp() -> Stamp | None:
    """Differs once systemd-resolved was started again or knows other servers; None where it does not run."""
    try:
        STUB.stat()
        found = STUB.parent.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


async def split(interface: str, servers: Sequence[str], domains: Sequence[str]) -> None:
    """Let it ask `servers` for what is below `domains`, and nothing else. Raises DeviceError.

    Neither DNSSEC, which would prove that no such domain exists, nor TLS, for these.
    """
    await _call("dns", interface, *servers)
    await _call("domain", interface, *(f"~{domain}" for domain in domains))
    await _call("default-route", interface, "no")
    await _call("dnssec", interface, "no")
    await _call("dnsovertls", interface, "no")


async def revert(interface: str) -> None:
    """Take it back; what fails is of an interface that is about to go."""
    with contextlib.suppress(DeviceError):
        await _call("revert", interface)


def unasked() -> str:
    """Why programs of this machine may not ask systemd-resolved at all; empty if they do."""
    try:
        servers = RESOLV_CONF.read_text(errors="replace")
        switch = NSSWITCH.read_text(errors="replace")
    except OSError:
        return ""
    if re.search(r"^nameserver\s+127\.0\.0\.5[34]\s*$", servers, re.MULTILINE) or re.search(
        r"^hosts:.*\bresolve\b", switch, re.MULTILINE
    ):
        return ""
    return f"{RESOLV_CONF} names other servers than systemd-resolved; link it to {STUB}"


async def _call(*arguments: str) -> None:
    try:
        process = await asyncio.create_subprocess_exec(
            "resolvectl", *arguments, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE
        )
    except OSError as error:
        raise DeviceError(f"resolvectl can't be started: {error.strerror}") from error
    try:
        _, said = await asyncio.wait_for(process.communicate(), TIMEOUT)
    except TimeoutError:
        raise DeviceError(f"resolvectl {arguments[0]}: no answer within {TIMEOUT:g} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        words = " ".join(said.decode(errors="replace").split())[:MAX_WORDS]
        raise DeviceError(f"resolvectl {arguments[0]}: {words or f'exit code {process.returncode}'}")
