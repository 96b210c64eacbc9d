"""The manual as a program: its commands, run on machines of a lab as whoever reads it would.

Pages mark what is run by a comment before a fenced block; whoever reads them does not see it:

    <!-- task: NAME -->              what follows belongs to this task
    <!-- run: MACHINE … -->          the block's commands, on those machines or on `every` one;
                                     `; again`: until they do it; `; fails`: they end with an error;
                                     `; slow`: where that is asked for
    <!-- file: MACHINE PATH -->      the block is this file
    <!-- copy: FROM TO -->           the lines are an scp of one file each
    <!-- name: NAME MACHINE -->      from now on all machines find that one by this name
    <!-- shows -->                   every line of the block is in what the commands before have printed,
                                     but for numbers, NodeIDs and spaces; `: exact`: as it stands there

It judges nothing else: what each task must have changed is for who runs it (tests/e2e/test_manual.py).
"""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from shadowmesh.testing.lab import COMMAND_TIMEOUT, Host, Lab
from shadowmesh.testing.process import LabError, LabTimeout, Process, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
AGAIN_TIMEOUT = 30.0
SLOW_TIMEOUT = 900.0
AGAIN_INTERVAL = 0.3
"""Seconds: for what is true only after a moment; for what compiles; between two looks."""

_BLOCK = re.compile(
    r"^<!-- (?P<kind>task|run|file|copy|name|shows)(?:: (?P<words>[^;]*?))?(?:; (?P<flag>\w+))? -->\n"
    r"(?:```\w*\n(?P<text>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)


@dataclass
class Step:
    """One marked block; `shows` are lines that its output has to have."""

    task: str
    kind: str
    words: list[str]
    flag: str
    text: str
    shows: list[str] = field(default_factory=list)
    exact: bool = False


def steps(page: Path) -> Iterator[Step]:
    """The marked blocks of a page in their order. ValueError if a mark is misspelt."""
    text = page.read_text()
    if len(_BLOCK.findall(text)) != text.count("<!-- "):
        raise ValueError(f"{page}: a comment that is no mark, or a mark without its block")
    task, last = "", None
    for found in _BLOCK.finditer(text):
        kind, words, flag = found["kind"], (found["words"] or "").split(), found["flag"] or ""
        if kind == "task":
            task = " ".join(words)
        elif kind == "shows" and last is not None:
            last.shows += found["text"].splitlines()
            last.exact = words == ["exact"]
        else:
            if last is not None:
                yield last
            last = Step(task, kind, words, flag, found["text"] or "")
    if last is not None:
        yield last


def pattern(line: str) -> str:
    """A line without what differs from run to run."""
    line = re.sub(r"\b([a-z2-7]{52}|[a-z2-7]{10})\b", "NODE", line)
    return " ".join(re.sub(r"\d+(\.\d+)?", "N", line).split())


class Machine:
    """A host of the lab that has /etc, /root, /run, /var and the like for itself."""

    FOLDERS = ("/etc", "/opt", "/root", "/usr/local", "/var")

    def __init__(self, lab: Lab, name: str) -> None:
        self.host: Host = lab.host(name)
        self.directory = lab.directory / f"machine-{name}"
        self.directory.mkdir()
        self.holder = self._hold(lab)
        self.write("/usr/local/sbin/systemctl", _script(f"{sys.executable} -m shadowmesh.testing.systemctl"))
        self.run("chmod +x /usr/local/sbin/systemctl")

    def _hold(self, lab: Lab) -> Process:
        """A process that keeps the mounts: folders as they are here, with changes of their own in memory."""
        layers = self.directory / "layers"
        layers.mkdir()
        lines = ["mount --make-rprivate /", f"mount -t tmpfs layers {layers}"]
        for folder in self.FOLDERS:
            upper, work = layers / f"upper{folder}", layers / f"work{folder}"
            options = f"lowerdir={folder},upperdir={upper},workdir={work}"
            lines += [f"mkdir -p {upper} {work}", f"mount -t overlay overlay -o {options} {folder}"]
        lines += ["mount -t tmpfs run /run", "echo ready", "exec sleep infinity"]
        log = str(self.directory.relative_to(lab.directory) / "holder.log")
        command = ["unshare", "--mount", "sh", "-euc", "\n".join(lines)]
        process = self.host.spawn(command, log)
        process.wait_for_line("^ready$", COMMAND_TIMEOUT)
        return process

    def run(
        self, commands: str, check: bool = True, timeout: float = COMMAND_TIMEOUT, inside: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run lines of a shell as root at home; both outputs are one. LabError if they fail.

        :param inside: in the network of the lab, else in that of this machine.
        """
        shell = f"cd /root\nset -euo pipefail\n{commands}"
        network = ["--net"] if inside else []
        command = ["nsenter", f"--target={self.holder.pid}", "--mount", *network, "bash", "-c", shell]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
                env=_ENVIRONMENT,
            )
        except subprocess.TimeoutExpired as error:
            raise LabTimeout(f"{commands}: not finished\n{error.stdout!r}") from None
        if check and done.returncode:
            raise LabError(f"{self.host.name}# {commands}exit code {done.returncode}\n{done.stdout}")
        return done

    def write(self, path: str, text: str) -> None:
        """Write a file of this machine."""
        self.run(f"mkdir -p {Path(path).parent}; printf %s {shlex.quote(text)} > {path}")

    def read(self, path: str) -> str:
        """Read one."""
        return self.run(f"cat {path}").stdout

    def knows(self, names: dict[str, str]) -> None:
        """Give it /etc/hosts: name -> address."""
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in names.items())]
        self.write("/etc/hosts", "\n".join([*lines, ""]))

    def close(self) -> None:
        """End what runs as a service; the lab does the rest."""
        with contextlib.suppress(LabError):
            self.run("systemctl stop shadowmesh-client shadowmesh-relay")


_ENVIRONMENT = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONPATH": "",
    # What whoever reads types when it is asked for.
    "SHADOWMESH_PASSPHRASE": "correct horse battery staple",
}


def _script(command: str) -> str:
    return f'#!/bin/sh\ncd {ROOT} && exec {command} "$@"\n'


class Reader:
    """Whoever reads the manual, with machines at hand; `seconds` is what each task took.

    :param slow: do what is marked `slow` too, which is to install the program: else it is there already.
    """

    EVERY = ("relay", "alice", "bob", "new")
    """The machines of the manual."""
    BUILDER = "alice"
    """The one that does what is `slow`, which is to install; the others have the program already."""
    PLACEHOLDERS = (
        ("RELAY-NODE-ID", "relay", r"^NodeID: (\w{52})$"),
        ("smesh1…", "alice", r"\b(smesh1\w+)"),
    )
    """What stands in the manual for what a machine has printed: the machine, and how it is found there."""

    def __init__(self, lab: Lab, slow: bool = False) -> None:
        self.lab = lab
        self.slow = slow
        self.machines: dict[str, Machine] = {}
        self.names: dict[str, str] = {}
        self.printed: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self.transcript: list[str] = []

    def machine(self, name: str) -> Machine:
        """The machine of that name."""
        if name not in self.machines:
            machine = self.machines[name] = Machine(self.lab, name)
            self.printed[name] = ""
            machine.knows(self.names)
            # Where the manual has the sources.
            if self.slow and name == self.BUILDER:
                machine.run(f"git clone -q {ROOT} sources; mv sources/* .")
            else:
                machine.run(f"cp -r {ROOT}/configs .")
                machine.run(f"mkdir /opt/shadowmesh; ln -s {Path(sys.executable).parent} /opt/shadowmesh/bin")
        return self.machines[name]

    def name(self, name: str, host: str) -> None:
        """Let all machines resolve a name to the address of one of them."""
        self.names[name] = self.lab.host(host).address
        for machine in self.machines.values():
            machine.knows(self.names)

    def follow(self, page: Path, task: str) -> None:
        """Do what a page says of one task. LabError if a command fails or shows something else."""
        began = time.monotonic()
        found = [step for step in steps(page) if step.task == task]
        if not found:
            raise LabError(f"{page}: nothing is marked for the task {task!r}")
        for step in found:
            self._do(step)
        self.seconds[task] = time.monotonic() - began

    def _do(self, step: Step) -> None:
        text = self._filled(step.text)
        if step.flag == "slow" and not self.slow:
            return
        if step.kind == "file":
            self.machine(step.words[0]).write(step.words[1], text)
        elif step.kind == "name":
            self.name(*step.words)
        elif step.kind == "copy":
            self._copy(text, *step.words)
        else:
            for name in self.EVERY if step.words == ["every"] else step.words:
                self._run(step, name, text)

    def _run(self, step: Step, name: str, text: str) -> None:
        if step.flag == "again":
            wait_until(lambda: not self._tried(step, name, text), AGAIN_TIMEOUT, self.report, AGAIN_INTERVAL)
        elif why := self._tried(step, name, text):
            raise LabError(f"{why}\n{self.report()}")

    def _tried(self, step: Step, name: str, text: str) -> str:
        """Run it once; why it is not as the manual says, empty if it is."""
        slow = step.flag == "slow"
        limit = SLOW_TIMEOUT if slow else COMMAND_TIMEOUT
        done = self.machine(name).run(text, check=False, timeout=limit, inside=not slow)
        self.printed[name] += done.stdout
        entry = f"{name}# {text}{done.stdout}"
        if self.transcript and self.transcript[-1].startswith(f"{name}# {text}"):
            self.transcript.pop()
        self.transcript.append(entry)
        if bool(done.returncode) != (step.flag == "fails"):
            return f"exit code {done.returncode}"
        seen = str.strip if step.exact else pattern
        shown = {seen(line) for line in done.stdout.splitlines()}
        missing = [line for line in step.shows if seen(line) not in shown]
        return "not shown:\n" + "\n".join(missing) if missing else ""

    def _filled(self, text: str) -> str:
        for placeholder, name, expression in self.PLACEHOLDERS:
            if placeholder in text:
                found = re.findall(expression, self.printed.get(name, ""), re.MULTILINE)
                if not found:
                    raise LabError(f"{name} has printed nothing for {placeholder}\n{self.report()}")
                text = text.replace(placeholder, found[-1])
        return text

    def _copy(self, text: str, source: str, target: str) -> None:
        exchange = self.lab.directory / "exchange"
        for line in text.splitlines():
            found = re.fullmatch(r"scp (-p )?(\S+) root@[\w.]+:(\S+)", line)
            if found is None:
                raise LabError(f"no scp of one file: {line}")
            # Both see the lab's directory; cp keeps modes, as scp -p does.
            self.machine(source).run(f"cp -p {found[2]} {exchange}")
            where = found[3] + (Path(found[2]).name if found[3].endswith("/") else "")
            self.machine(target).run(f"cp -p {exchange} {where}; rm {exchange}")

    def report(self) -> str:
        """What was typed and printed last."""
        return "\n".join(self.transcript[-3:])

    def close(self) -> None:
        """End all services."""
        for machine in self.machines.values():
            machine.close()
