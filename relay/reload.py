"""`reload` and SIGHUP: who may use the relay is read again; whoever may no more has to go.

Nothing else of the file changes while the relay runs: what would need a restart is named.  A file with a
mistake changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from shadowmesh.errors import ConfigError, ShadowMeshError
from shadowmesh.io.membership import open_guard
from shadowmesh.io.tokens import load_tokens
from shadowmesh.membership.guard import Guard

from .admission import Admission
from .config import Admission as AdmissionSection
from .config import RelayConfig, load_relay_config

log = logging.getLogger("shadowmesh.relay")

SCHEMA = "shadowmesh.relay-reload/1"
_AT_ONCE = ("open", "nodes", "networks", "token_file")
"""Of `admission`."""


class ReloadReply(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to POST /v1/reload. Keys of the file: changed at once, and changed only by a restart.

    `ended`: sessions of clients that are admitted no more.
    """

    schema: str = SCHEMA
    applied: list[str]
    restart: list[str]
    ended: int


class Admissions:
    """What the configuration and its files say of who is admitted, now and after a reload.

    :param path: of relay.yaml.
    :param config: as it was read from there.

    Raises ConfigError.
    """

    def __init__(self, path: Path, config: RelayConfig) -> None:
        self._path = path
        self._started = config
        self._section = config.admission
        self._guards: dict[Path, Guard] = {}
        self._tokens: tuple[bytes, ...] = ()
        self.now = self._read(config.admission)

    def reload(self, readmit: Callable[[Admission], int]) -> ReloadReply:
        """Read the files again. Raises ConfigError, and changes nothing then.

        :param readmit: puts another admission into force; returns how many sessions it ended.
        """
        before, tokens = self._section, self._tokens
        try:
            config = load_relay_config(self._path)
            self.now = self._read(config.admission)
        except ConfigError as error:
            for line in error.told.splitlines():
                log.error("nothing was changed: %s", line)
            raise
        self._section = config.admission
        applied = [
            f"admission.{key}"
            for key in _AT_ONCE
            if getattr(before, key) != getattr(config.admission, key)
            or (key == "token_file" and tokens != self._tokens)
        ]
        reply = ReloadReply(applied=applied, restart=self._waiting(config), ended=readmit(self.now))
        changed = ", ".join(applied) or "nothing"
        log.info("%s was read again; changed: %s; %d sessions ended", self._path, changed, reply.ended)
        if reply.restart:
            waits = "%s: a restart is needed for what changed in %s [config.pending]"
            log.warning(waits, self._path, ", ".join(reply.restart))
        return reply

    def _waiting(self, config: RelayConfig) -> list[str]:
        """What the file says otherwise than when the relay started, and only a restart changes."""
        fields = [name for name in RelayConfig.__struct_fields__ if name != "admission"]
        waiting = [name for name in fields if getattr(config, name) != getattr(self._started, name)]
        if config.admission.hook != self._started.admission.hook:
            waiting.append("admission.hook")
        return waiting

    def _read(self, section: AdmissionSection) -> Admission:
        """Raises ConfigError, and changes nothing then."""
        state_dir = self._started.relay.state_dir
        try:
            tokens = load_tokens(section.token_file) if section.token_file else ()
            # A guard that is in use knows more than its files.
            guards = {
                file: self._guards.get(file) or open_guard(file, state_dir) for file in section.networks
            }
        except ConfigError:
            raise
        except ShadowMeshError as error:
            raise ConfigError(str(error), error.error_id) from None
        self._tokens, self._guards = tokens, guards
        asks = self._started.admission.hook is not None
        return Admission(section.open, section.nodes, tuple(guards.values()), tokens, asks)
