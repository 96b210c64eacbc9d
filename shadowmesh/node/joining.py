"""The node that lives until it has joined by a token, or until it is clear that it will not.

Writes nothing but the identity, which has to be there before the certificate is asked for: it is the same one
when the verb is tried again.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path

from shadowmesh.command import CommandFailed, ExitCode
from shadowmesh.config import ClientConfig, Interface, Listen, NodeSection, Paths, RelayPeer
from shadowmesh.core.joiner import Joiner, Rejected
from shadowmesh.core.node import Core
from shadowmesh.core.shared import Tables
from shadowmesh.crypto import identity as identities
from shadowmesh.crypto.identity import Identity
from shadowmesh.errors import Failure
from shadowmesh.io.membership import open_clock
from shadowmesh.membership.invitations import Admitted
from shadowmesh.membership.token import Token
from shadowmesh.node.alone import run_alone
from shadowmesh.values import parse_host_port, parse_name, parse_tcp

POLL = 0.02


def join(
    token: Token, state_dir: Path, socket_path: Path, timeout: float, waiting: Callable[[Identity], None]
) -> tuple[Identity, Admitted]:
    """Become a member. Raises CommandFailed with the reason, ShadowMeshError.

    :param timeout: seconds within which the inviter has to be reached.
    :param waiting: called once a person at the inviter has to decide; that may take as long as it takes.
    """
    identity = identities.create(state_dir, _machine_name())
    host, port = parse_host_port(token.address)
    tcp = parse_tcp(token.tcp) if token.tcp else None
    config = ClientConfig(
        node=NodeSection(identity.name, state_dir, socket_path),
        listen=Listen("::", 0),
        interface=Interface("none", (), "auto"),
        relays=(RelayPeer(host, port, token.relay, tcp=tcp),),
        peers=(),
        paths=Paths("never", "off"),
    )
    clock = open_clock(state_dir)

    def make(tables: Tables) -> Core:
        return Core(config, identity, tables, secrets.token_bytes, time.monotonic(), token=token, clock=clock)

    async def serve(core: Core, _daemon: object) -> Admitted:
        return await _wait(core, timeout, lambda: waiting(identity))

    return identity, run_alone(config, identity, make, serve)


async def _wait(core: Core, timeout: float, waiting: Callable[[], None]) -> Admitted:  # noqa: ASYNC109
    joiner, end, told = core.joiner, time.monotonic() + timeout, False
    assert joiner is not None
    while joiner.outcome is None:
        if joiner.waits and not told:
            told = True
            waiting()
        if not joiner.waits and time.monotonic() > end:
            problem = _problem(core, joiner)
            raise CommandFailed(f"not joined: {problem}", ExitCode.NOT_JOINED, problem.error_id)
        await asyncio.sleep(POLL)
    if isinstance(joiner.outcome, Rejected):
        text = f"not joined: {joiner.outcome.text} ({joiner.outcome.reason})"
        raise CommandFailed(text, ExitCode.NOT_JOINED, "join.refused")
    return joiner.outcome


def _problem(core: Core, joiner: Joiner) -> Failure:
    relay = core.relays[0]
    if relay.last_error is not None:
        return Failure(relay.last_error.error_id, f"relay {relay.name}: {relay.last_error}")
    return joiner.problem or Failure("join.unanswered", f"relay {relay.name} does not answer")


def _machine_name() -> str:
    """What the identity is called; its certificate names the member."""
    name = socket.gethostname().partition(".")[0].lower()
    try:
        return parse_name(name)
    except ValueError:
        return "node"
