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

import click

from shadowmesh.errors import ConfigError, IdentityError, ShadowMeshError

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
    """A group whose verbs are imported when they run; `verbs` maps a name to "module:attribute"."""

    def __init__(self, *, verbs: Mapping[str, str], **attributes: object) -> None:
        super().__init__(**attributes)  # type: ignore[arg-type]
        self._verbs = verbs

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._verbs:
            return None
        module, _, attribute = self._verbs[cmd_name].partition(":")
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
        code, text = explain(error)
        return _failed(name, text, code)
    return result if isinstance(result, int) else ExitCode.OK


def explain(error: Exception) -> tuple[ExitCode, str]:
    """Exit code and text for what ended a command, each line with its id in brackets.

    What nobody foresaw is one line too.
    """
    if isinstance(error, ShadowMeshError):
        lines = (f"{line} [{error_id}]" if error_id else line for line, error_id in error.lines())
        return _code_of(error), "\n".join(lines)
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


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON (docs/cli.md and docs/schemas describe it)."
)


def _failed(name: str, text: str, code: ExitCode) -> ExitCode:
    for line in text.splitlines() or [""]:
        click.echo(f"{name}: {line}", err=True)
    return code
