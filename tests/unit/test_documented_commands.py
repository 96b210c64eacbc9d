"""What the manual tells people to type is what the programs take: verbs, options, number of arguments."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from shadowmesh.cli.main import client
from shadowmesh_relay.cli import relay

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAMS: dict[str, click.Group] = {"shadowmesh-client": client, "shadowmesh-relay": relay}
OTHERS = (
    "systemctl",
    "journalctl",
    "systemd-analyze",
    "rm",
    "mkdir",
    "cp",
    "scp",
    "pip",
    "apt",
    "make",
    "cat",
)
"""Programs that take the name of one of ours as an argument, or of its folder."""


def lines(text: str) -> Iterator[str]:
    """What is typed: the blocks for a shell, continued lines joined, and what stands in `$(...)` as well."""
    for block in re.findall(r"^```(?:sh|console|bash)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            inner = re.compile(r"\$\(([^()]*)\)")
            typed = [*inner.findall(line), inner.sub("X", line)]
            yield from (one for one in typed if any(program in one for program in PROGRAMS))


def calls(line: str) -> Iterator[tuple[str, list[str]]]:
    """Programs of ours in a line, and their arguments."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    command: list[str] = []
    for word in [*lexer, ";"]:
        if word.strip("();<>|&"):
            command.append(word)
            continue
        at = next((index for index, one in enumerate(command) if one in PROGRAMS), None)
        if at is not None and command[0] not in OTHERS and len(command) > at + 1:
            yield command[at], command[at + 1 :]
        command = []


def check(command: click.Command, words: list[str]) -> None:
    """Raises click.UsageError. Values are not looked at: the files of the manual are not here."""
    context = click.Context(command, info_name=command.name)
    if isinstance(command, click.Group):
        context.allow_interspersed_args = False
        _, rest, _ = command.make_parser(context).parse_args(words)
        if not rest:
            return
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None, name
        check(found, rest)
        return
    values, rest, _ = command.make_parser(context).parse_args(words)
    if rest:
        raise click.UsageError(f"too many arguments: {rest}", context)
    for param in command.params:
        value = values.get(param.name or "")
        if (
            isinstance(param, click.Argument)
            and param.required
            and not (isinstance(value, str | tuple) and value)
        ):
            raise click.UsageError(f"{param.name} is missing", context)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_the_manual_says_to_type_is_taken(page: Path) -> None:
    for line in lines(page.read_text()):
        for program, words in calls(line):
            try:
                check(PROGRAMS[program], words)
            except click.UsageError as error:
                pytest.fail(f"{line.strip()}: {error.format_message()}")


@pytest.mark.parametrize(
    "line",
    [
        "shadowmesh-client statsu",
        "sudo shadowmesh-client up --confg x",
        "a | shadowmesh-client invite mkae -x",
        "x $(shadowmesh-client id --no)",
        "shadowmesh-client ping",
        "shadowmesh-client ping a b",
        "shadowmesh-relay up",
    ],
)
def test_a_slip_is_found(line: str) -> None:
    found = [call for one in lines(f"```sh\n{line}\n```\n") for call in calls(one)]
    assert len(found) == 1
    with pytest.raises(click.UsageError):
        check(PROGRAMS[found[0][0]], found[0][1])


def test_there_is_something_to_check() -> None:
    found = [call for page in PAGES for line in lines(page.read_text()) for call in calls(line)]
    assert len(found) > 60
