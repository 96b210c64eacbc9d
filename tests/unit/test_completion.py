"""Completion as the shells ask for it: the words, silence on failure, and scripts that the shells take."""

from __future__ import annotations

import os
import pty
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import click
import msgspec
import pytest

from shadowmesh.cli import completing
from shadowmesh.cli.main import client, main
from shadowmesh.command import VerbGroup
from shadowmesh_relay.cli import main as relay_main
from shadowmesh_relay.cli import relay
from tests.unit.test_api import make_status

ROOT = Path(__file__).parents[2]


def complete(line: str, **more: str) -> tuple[list[str], str]:
    """What bash is offered at the end of `line`, and what is on standard error."""
    words = line.split(" ")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "_SHADOWMESH_CLIENT_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
        **more,
    }
    done = subprocess.run(
        [sys.executable, "-m", "shadowmesh.cli.main"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    return sorted(filter(None, done.stdout.splitlines())), done.stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("shadowmesh-client st", ["plain,status"]),
        ("shadowmesh-client network re", ["plain,renew", "plain,revoke"]),
        ("shadowmesh-client status --che", ["plain,--check"]),
        ("shadowmesh-client status --check ", ["plain,live", "plain,ready", "plain,startup"]),
        ("shadowmesh-client up -c ", ["file,"]),
        (
            "shadowmesh-client get -c configs/client.yaml pa",
            ["plain,paths.direct", "plain,paths.port_mapping"],
        ),
        ("shadowmesh-client set -c configs/client.yaml paths.d", ["plain,paths.direct"]),
        ("shadowmesh-client set -c configs/client.yaml paths.direct pa", []),
        ("shadowmesh-client get -c /absent pa", []),
        ("shadowmesh-client ping --socket /absent b", []),
        ("shadowmesh-client completion z", ["plain,zsh"]),
    ],
)
def test_words(line: str, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert complete(line) == (expected, "")


def test_peers_of_the_running_client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    body = msgspec.json.encode(make_status())
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

        thread = threading.Thread(target=serve)
        thread.start()
        assert complete(f"shadowmesh-client ping --socket {path} ") == (["plain,bob", "plain,carol"], "")
        thread.join()


def test_a_client_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    context = click.Context(client)
    context.params = {"socket": path}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        began = time.monotonic()
        assert completing.peer_names(context, click.Argument(["peer"]), "") == []
    assert time.monotonic() - began < 2.0, "not the five seconds of the verbs"
    assert completing.WAIT < 0.2


def test_what_nobody_foresaw_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> list[str]:
        raise RuntimeError("oops")

    monkeypatch.setattr(VerbGroup, "shell_complete", fail)
    monkeypatch.setenv("_SHADOWMESH_CLIENT_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "shadowmesh-client s")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert main([]) == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts(shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for run, variable in ((main, "_SHADOWMESH_CLIENT_COMPLETE"), (relay_main, "_SHADOWMESH_RELAY_COMPLETE")):
        assert run(["completion", shell]) == 0
        script = capsys.readouterr().out
        assert f"{variable}={shell}_complete" in script
        if shutil.which(shell):
            file = tmp_path / "script"
            file.write_text(script)
            subprocess.run([shell, "-n", str(file)], check=True)


def test_an_interactive_bash_completes_by_tab(tmp_path: Path) -> None:
    program = tmp_path / "shadowmesh-client"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m shadowmesh.cli.main "$@"\n')
    program.chmod(0o755)
    (tmp_path / "script").write_text(subprocess.check_output([program, "completion", "bash"], text=True))
    mine, theirs = pty.openpty()
    shell = subprocess.Popen(
        ["bash", "--norc", "-i"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PS1": "ready> ", "TERM": "dumb"},
        cwd=ROOT,
    )

    def types(keys: str, shown: str) -> None:
        os.write(mine, keys.encode())
        seen = ""
        while shown not in seen:
            assert select.select([mine], [], [], 20.0)[0], f"{keys!r} shows only {seen!r}"
            seen += os.read(mine, 4096).decode()

    try:
        types("", "ready> ")
        types(f". {tmp_path}/script\n", "ready> ")
        types("shadowmesh-client sta\t", "status ")
        types("\x15shadowmesh-client get --\t\t", "--socket")
    finally:
        shell.kill()
        shell.wait()
        os.close(mine)
        os.close(theirs)


def test_verbs_are_completed_and_listed_without_importing_them() -> None:
    program = (
        "import sys; from shadowmesh.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print([name for name in sys.modules if name.startswith('shadowmesh.cli.')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.splitlines()[-1] == "['shadowmesh.cli.main']"


@pytest.mark.parametrize("group", [client, relay])
def test_the_list_of_verbs_says_what_their_help_says(group: VerbGroup) -> None:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        assert group.summary(context, name) == command.get_short_help_str(80), (
            f"{name}: in the table of verbs"
        )
        assert group._verbs[name].partition(" ")[2], f"{name} has none there, so --help imports it"
    assert sorted(name for _, names in group.sections() for name in names) == sorted(group._verbs)
    assert not group._sections or group.sections()[-1][0] != "Commands", "a verb is in no section"
