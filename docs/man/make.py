"""Write a man page of both commands and of each verb into a folder: `python docs/man/make.py build/man`.

In the macros of man(7). What is in here is layout only; every word comes from the verbs' help, and the exit
codes from their table.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from shadowmesh import __version__
from shadowmesh.cli.main import NAME as CLIENT
from shadowmesh.cli.main import client
from shadowmesh.command import MEANINGS, VerbGroup
from shadowmesh_relay.cli import NAME as RELAY
from shadowmesh_relay.cli import relay

FILES = {
    CLIENT: {
        "/etc/shadowmesh/client.yaml": "the configuration, as far as no verb names another",
        "/var/lib/shadowmesh": "the identity, and what a running client keeps",
        "/run/shadowmesh/shadowmesh.sock": "where the client answers; SHADOWMESH_SOCKET names another",
    },
    RELAY: {"/etc/shadowmesh/relay.yaml": "the configuration, by convention"},
}


def pages() -> dict[str, str]:
    """Text by file name."""
    made = {}
    for name, group in ((CLIENT, client), (RELAY, relay)):
        found = list(_commands(group, click.Context(group, info_name=name)))
        names = [context.command_path.replace(" ", "-") for context in found]
        for context, page in zip(found, names, strict=True):
            made[f"{page}.1"] = _page(context, name, [other for other in names if _near(page, other)])
    return made


def _commands(command: click.Command, context: click.Context) -> Iterator[click.Context]:
    yield context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            verb = command.get_command(context, name)
            assert verb is not None
            yield from _commands(verb, click.Context(verb, info_name=name, parent=context))


def _near(page: str, other: str) -> bool:
    """Whether one is the next above or below the other."""
    return page.rpartition("-")[0] == other or other.rpartition("-")[0] == page


def _page(context: click.Context, program: str, related: list[str]) -> str:
    command, path = context.command, context.command_path
    help_text = (command.help or "").strip()
    title = path.replace(" ", "-").upper()
    head = f'.TH "{title}" "1" "{_date()}" "ShadowMesh {__version__}" "ShadowMesh"'
    parts = [
        ("NAME", f"{_escaped(path.replace(' ', '-'))} \\- {_escaped(_summary(command))}"),
        ("SYNOPSIS", f"\\fB{_escaped(path)}\\fR {_escaped(' '.join(command.collect_usage_pieces(context)))}"),
        ("DESCRIPTION", _paragraphs(help_text)),
        ("OPTIONS", _options(command, context)),
        ("COMMANDS", _verbs(command, context)),
        ("EXAMPLES", _examples(command.epilog or "")),
        ("EXIT STATUS", _list({str(int(code)): text for code, text in MEANINGS.items()})),
        ("FILES", _list(FILES[program])),
        ("SEE ALSO", ",\n".join(f".BR {_escaped(name)} (1)" for name in related).replace(" (1),", " (1) ,")),
    ]
    return "\n".join([head, *(f".SH {title}\n{text}" for title, text in parts if text)]) + "\n"


def _summary(command: click.Command) -> str:
    return command.get_short_help_str(200).rstrip(".")


def _paragraphs(text: str) -> str:
    return "\n.PP\n".join(_escaped(" ".join(part.split())) for part in re.split(r"\n\s*\n", text))


def _options(command: click.Command, context: click.Context) -> str:
    records = [param.get_help_record(context) for param in command.get_params(context)]
    return _list(dict(record for record in records if record is not None))


def _verbs(command: click.Command, context: click.Context) -> str:
    if not isinstance(command, VerbGroup):
        return ""
    sections = command.sections()
    lists = [_list({name: command.summary(context, name) for name in names}) for _, names in sections]
    if len(sections) == 1:
        return lists[0]
    return "\n".join(f".SS {title}\n{text}" for (title, _), text in zip(sections, lists, strict=True))


def _list(entries: dict[str, str]) -> str:
    return "\n".join(f".TP\n\\fB{_escaped(name)}\\fR\n{_escaped(text)}" for name, text in entries.items())


def _examples(epilog: str) -> str:
    lines = [line.strip() for line in epilog.splitlines() if line.strip() not in ("", "\b", "Examples:")]
    return "\n".join([".nf", *map(_escaped, lines), ".fi"]) if lines else ""


def _escaped(text: str) -> str:
    """Text without what troff takes for its own: backslashes, hyphens to be copied, dots in front."""
    text = text.replace("`", "").replace("\\", "\\e").replace("-", "\\-")
    text = "".join(c if c.isascii() else f"\\[u{ord(c):04X}]" for c in text)
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


def _date() -> str:
    """Today, or as a reproducible build says (reproducible-builds.org, SOURCE_DATE_EPOCH)."""
    return time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))))


def main() -> None:
    """Write them into the folder that is given."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("shadowmesh-*.1"):
        old.unlink()
    for name, text in pages().items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    main()
