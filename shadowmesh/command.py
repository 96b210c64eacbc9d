"""What the commands of this project share: exit codes, how errors look, groups of lazy verbs.

Both `shadowmesh-client` and `shadowmesh-relay` use it. It knows no verb, and imports only click, so that
`--help` and the quick verbs start fast.
"""

from __future__ import annotations

import enum
import errno
import importlib
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shadowmesh.errors import ConfigError, IdentityError, ShadowMeshError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

DEBUG_VARIABLE = "SHADOWMESH_DEBUG"
"""Set to 1, it makes the commands print tracebacks of what they did not expect."""


class ExitCode(enum.IntEnum):
    """Exit codes of both commands; documented in docs/cli.md."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    """Configuration or identity refused."""
    NOT_RUNNING = 4
    ALREADY_RUNNING = 5
    NO_PEER = 6
    """The peer is unknown or did not answer."""
    CLONED = 7
    """Stopped: another machine uses the same identity."""
    NO_RELAY = 8
    """No relay answered a netcheck."""
    NOT_DIRECT = 9
    """Frames to the peer go through a relay, where a direct path was asked for."""
    DENIED = 10
    """The firewall denies the packet that was described."""
    NOT_JOINED = 11
    """`join`: the invitation is of no use, or nobody could be asked."""
    WARNING = 12
    """`doctor`: it works, and something should be mended."""
    PROBLEM = 13
    """`doctor`: something keeps it from working."""
    INTERRUPTED = 130
    """128 + SIGINT, as shells count."""


MEANINGS = {
    ExitCode.OK: "done",
    ExitCode.FAILED: "failed, or `status --check`: it is not so; the line says why",
    ExitCode.USAGE: "wrong usage: an unknown verb or option, a missing argument",
    ExitCode.REFUSED: "the configuration or the identity was refused",
    ExitCode.NOT_RUNNING: "no client (or relay) runs here",
    ExitCode.ALREADY_RUNNING: "a client (or relay) runs here already",
    ExitCode.NO_PEER: "the peer is unknown or did not answer",
    ExitCode.CLONED: "stopped, because another machine uses the same identity",
    ExitCode.NO_RELAY: "`netcheck`: no relay answered",
    ExitCode.NOT_DIRECT: "`why` and `ping --until-direct`: frames to the peer go through a relay",
    ExitCode.DENIED: "`firewall test`: the packet is denied",
    ExitCode.NOT_JOINED: "`join`: the token is of no use, or nobody could be asked; the line says why",
    ExitCode.WARNING: "`doctor`: the worst that it found is a warning",
    ExitCode.PROBLEM: "`doctor`: the worst that it found is a problem",
    ExitCode.INTERRUPTED: "a verb was interrupted by Ctrl+C before it was done; `up` and `serve` that run "
    "end with 0",
}
"""For people, in Markdown: docs/cli.md and the man pages have them."""


_OF_THE_MACHINE = frozenset(
    {errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EROFS}
)
"""What no program can help: disks that are full, broken or read-only, and other things that ran out."""


class CommandFailed(ShadowMeshError):
    """Ends a command with `code`; the text is one line, with the remedy where there is one."""

    def __init__(
        self, text: str, code: ExitCode = ExitCode.FAILED, error_id: str = "command.refused"
    ) -> None:
        super().__init__(text)
        self.code, self.error_id = code, error_id


class VerbGroup(click.Group):
    """A group whose verbs are imported when they run.

    :param verbs: "module:attribute" by name, and behind a space what the verb's help begins with, so that the
        list of verbs needs no import; a verb without is imported for it.
    :param sections: how the list is divided: names of verbs by title. Verbs that are in none come last.
    """

    def __init__(
        self,
        *,
        verbs: Mapping[str, str],
        sections: Mapping[str, Sequence[str]] | None = None,
        **attributes: object,
    ) -> None:
        super().__init__(**attributes)  # type: ignore[arg-type]
        self._verbs = verbs
        self._sections = sections or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._verbs:
            return None
        module, _, attribute = self._verbs[cmd_name].partition(" ")[0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            raise click.NoSuchCommand(args[0], possibilities=list(self._verbs), ctx=ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in self.sections():
            with formatter.section(title):
                formatter.write_dl([(name, self.summary(ctx, name)) for name in names])

    def sections(self) -> list[tuple[str, list[str]]]:
        """The names of the verbs by title, in the order of the list."""
        found = [
            (title, [name for name in names if name in self._verbs])
            for title, names in self._sections.items()
        ]
        placed = {name for _, names in found for name in names}
        rest = [name for name in self._verbs if name not in placed]
        return [*found, *([("Commands", rest)] if rest else [])]

    def summary(self, ctx: click.Context, name: str) -> str:
        """The first sentence of a verb's help."""
        known = self._verbs[name].partition(" ")[2]
        command = None if known else self.get_command(ctx, name)
        return known or (command.get_short_help_str(80) if command else "")

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Verbs without importing them, and options."""
        from click.shell_completion import CompletionItem

        names = [name for name in self._verbs if name.startswith(incomplete)]
        found = [CompletionItem(name, help=self.summary(ctx, name)) for name in names]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]


def run(group: click.Group, name: str, arguments: Sequence[str] | None = None) -> int:
    """Run `group` as the command `name`; returns the exit code. Errors go to stderr, one line each."""
    try:
        result = group.main(args=arguments, prog_name=name, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return ExitCode.USAGE
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else name
        text = f"{error.format_message().rstrip('.')} (see '{path} --help') [command.usage]"
        return _failed(name, text, ExitCode.USAGE)
    except click.ClickException as error:
        return _failed(name, f"{error.format_message()} [command.usage]", ExitCode.FAILED)
    except (click.Abort, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Whoever read us has closed; a second error at the flush on exit helps nobody.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED
    except Exception as error:
        if completion_variable(name) in os.environ:
            return ExitCode.OK  # nobody wants to read of it in the middle of a line
        code, text = explain(error)
        return _failed(name, text, code)
    return result if isinstance(result, int) else ExitCode.OK


def completion_variable(name: str) -> str:
    """How the scripts of click ask for completions."""
    return f"_{name.replace('-', '_').upper()}_COMPLETE"


def explain(error: Exception) -> tuple[ExitCode, str]:
    """Exit code and text for what ended a command, each line with its id in brackets.

    What nobody foresaw is one line too.
    """
    if isinstance(error, ShadowMeshError):
        return _code_of(error), error.told
    if isinstance(error, MemoryError):
        return (
            ExitCode.FAILED,
            "there is no memory left on this machine, or for this process [machine.memory]",
        )
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
        where = f"{error.filename}: " if error.filename else ""
        return ExitCode.FAILED, f"{where}{error.strerror} [machine.resource]"
    if os.environ.get(DEBUG_VARIABLE) == "1":
        traceback.print_exception(error)
    what = " ".join(f"{type(error).__name__}: {error}".split())
    remedy = f"please report it, with the traceback that {DEBUG_VARIABLE}=1 prints"
    return ExitCode.FAILED, f"internal error: {what}; {remedy} [program.bug]"


def _code_of(error: ShadowMeshError) -> ExitCode:
    if isinstance(error, CommandFailed):
        return error.code
    return ExitCode.REFUSED if isinstance(error, ConfigError | IdentityError) else ExitCode.FAILED


def examples(*lines: str) -> str:
    """The closing part of a help page; click keeps the lines apart as they are."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


FILE = click.Path(path_type=Path, readable=False)
"""A file or folder, not checked by click: our own errors say what to do."""

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON (docs/cli.md and docs/schemas describe it)."
)


def is_journal(fd: int) -> bool:
    """Whether `fd` leads to the journal. Source: systemd.exec(5), JOURNAL_STREAM.

    The variable alone says nothing: children inherit it, also those that write elsewhere.
    """
    named = os.environ.get("JOURNAL_STREAM")
    if named is None:
        return False
    try:
        status = os.fstat(fd)
    except OSError:  # whoever started us has closed it
        return False
    return named == f"{status.st_dev}:{status.st_ino}"


def _failed(name: str, text: str, code: ExitCode) -> ExitCode:
    # With the priority of an error: `journalctl --priority err` shows why a service did not start.
    priority = "<3>" if is_journal(2) else ""
    for line in text.splitlines() or [""]:
        click.echo(f"{priority}{name}: {line}", err=True)
    return code
