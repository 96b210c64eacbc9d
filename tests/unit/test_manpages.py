"""Man pages: one for each verb, with all its options, and without a complaint of the formatter."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import click
import pytest

from shadowmesh.cli.main import client
from shadowmesh_relay.cli import relay

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_man", ROOT / "docs/man/make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_is_a_page_of_every_verb_with_its_options(maker: ModuleType) -> None:
    pages = maker.pages()
    for group, program in ((client, "shadowmesh-client"), (relay, "shadowmesh-relay")):
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            page = pages[f"{program}-{name}.1"].replace("\\-", "-")
            options = [option for param in command.params for option in param.opts if option.startswith("--")]
            assert [option for option in options if option not in page] == []
    assert "shadowmesh-client-network-sign.1" in pages
    assert ".SS Diagnosis" in pages["shadowmesh-client.1"]


def test_what_troff_takes_for_its_own_is_escaped(maker: ModuleType) -> None:
    assert maker._escaped(".x `--y` \\ …\n'z") == "\\&.x \\-\\-y \\e \\[u2026]\n\\&'z"


def test_the_date_is_that_of_the_build(maker: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert maker.pages()["shadowmesh-client.1"].startswith('.TH "SHADOWMESH-CLIENT" "1" "1970-01-02"')


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="needs mandoc; `make setup` installs it")
def test_the_formatter_has_nothing_to_say(maker: ModuleType, tmp_path: Path) -> None:
    for name, text in maker.pages().items():
        (tmp_path / name).write_text(text)
    pages = sorted(str(path) for path in tmp_path.iterdir())
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", *pages], capture_output=True, text=True, check=False
    )
    assert done.stdout == ""
    shown = subprocess.run(
        ["mandoc", "-T", "utf8", str(tmp_path / "shadowmesh-client-ping.1")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    plain = re.sub(r".\x08", "", shown)
    assert "--until-direct" in plain
    assert "EXIT STATUS" in plain
