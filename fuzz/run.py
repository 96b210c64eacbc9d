"""Runs targets under libFuzzer, one after the other, and writes fuzz/LOG.md; no target itself.

`python -m fuzz.run [--seconds N] [--merge] [TARGET ...]`.  Corpora are kept in build/fuzz-corpus, so that the
next run goes on where this one ended.  Exit status 1: something was found.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from fuzz import log, places

SLOWEST = 60
"""Seconds for one input, beyond which it is a finding; under sanitizers, on a machine that others use."""

MEMORY_MB = 3072
PROGRESS = re.compile(rb"#(\d+)\s+(\w+)\s+cov: (\d+) ft: (\d+)")
REPORT_S = 15.0


def environment(name: str) -> dict[str, str]:
    """AddressSanitizer and UBSan come with libFuzzer in a library of atheris, before the interpreter."""
    found = find_spec("atheris")
    assert found is not None
    assert found.origin is not None, "atheris is missing: make fuzz installs it"
    library = Path(found.origin).parent.parent / "asan_with_fuzzer.so"
    return os.environ | {
        "SHADOWMESH_FUZZ_TARGET": name,
        "LD_PRELOAD": str(library),
        # As in .ci/sanitize. A small quarantine: libFuzzer's memory limit is for what the target keeps.
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=1:quarantine_size_mb=16",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
        "PYTHONHASHSEED": "0",
    }


def start(name: str, arguments: list[str], output: Path) -> subprocess.Popen[bytes]:
    """libFuzzer in the instrumented tree, its words into `output`."""
    command = [sys.executable, "-m", "fuzz.drive", *arguments]
    command += [f"-timeout={SLOWEST}", f"-rss_limit_mb={MEMORY_MB}"]
    with output.open("wb") as file:
        return subprocess.Popen(command, cwd=places.TREE, env=environment(name), stdout=file, stderr=file)


def last_progress(output: Path) -> tuple[int, int, int]:
    """Executions, edges and features so far."""
    found = PROGRESS.findall(output.read_bytes())
    if not found:
        return 0, 0, 0
    executions, _, edges, features = found[-1]
    return int(executions), int(edges), int(features)


def fuzz(name: str, seconds: int) -> bool:
    """One target; whether nothing was found."""
    for folder in (places.committed(name), places.working(name), places.findings(name)):
        folder.mkdir(parents=True, exist_ok=True)
    settle(name)
    output = places.WORKING / f"{name}.log"
    arguments = [f"-max_total_time={seconds}", "-print_final_stats=1", f"-max_len={places.LARGEST_INPUT}"]
    arguments += [f"-artifact_prefix={places.findings(name)}/"]
    arguments += [str(places.working(name)), str(places.committed(name))]
    began, cpu = time.monotonic(), cpu_of_children()
    process = start(name, arguments, output)
    try:
        watch(name, process, output, began)
    finally:
        executions, edges, features = last_progress(output)
        rows = log.read()
        row = rows.setdefault(name, log.Row(name))
        if edges:
            elapsed = fuzzed_seconds(output) or time.monotonic() - began
            row.minutes += min(elapsed, cpu_of_children() - cpu) / 60
            row.executions += executions
            row.edges, row.features = edges, features
        log.count_findings(row)
        log.write(rows)
    if process.returncode:
        print(f"{name}: ended with {process.returncode}, see {output.relative_to(places.ROOT)}", flush=True)
    return process.returncode == 0 and not row.open


def cpu_of_children() -> float:
    """Seconds, of all that have ended and were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def fuzzed_seconds(output: Path) -> int:
    """Without the time that it took to begin; 0 where it did not come to the end."""
    found = re.findall(rb"^Done \d+ runs in (\d+) second", output.read_bytes(), re.MULTILINE)
    return int(found[-1]) if found else 0


def watch(name: str, process: subprocess.Popen[bytes], output: Path, began: float) -> None:
    """Say now and then how far it is, until it ends; an interrupt ends it in order."""
    while True:
        try:
            process.wait(timeout=REPORT_S)
        except subprocess.TimeoutExpired:
            pass
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
        executions, edges, features = last_progress(output)
        seconds = time.monotonic() - began
        print(f"{name}: {seconds:.0f} s, {executions} inputs, {edges} edges, {features} features", flush=True)
        if process.returncode is not None:
            return


def settle(name: str) -> None:
    """Findings that fail no more become regressions in the committed corpus."""
    for path in places.inputs(places.findings(name)):
        output = places.WORKING / f"{name}.settle.log"
        if start(name, ["-runs=1", str(path)], output).wait() == 0:
            target = places.committed(name) / f"crash-{path.name.rpartition('-')[2][:12]}"
            print(f"{name}: mended: {target.relative_to(places.ROOT)}", flush=True)
            shutil.move(path, target)


def merge(name: str) -> None:
    """Make the committed corpus the smallest that covers what it and the working one cover, or nearly so."""
    committed = places.committed(name)
    with tempfile.TemporaryDirectory() as folder:
        chosen, control = Path(folder) / "chosen", Path(folder) / "control"
        chosen.mkdir()
        arguments = ["-merge=1", f"-merge_control_file={control}", str(chosen)]
        arguments += [str(committed), str(places.working(name))]
        status = start(name, arguments, places.WORKING / f"{name}.merge.log").wait()
        assert status == 0, f"see {places.WORKING / name}.merge.log"
        kept = choose(places.inputs(chosen), news(control))
        for path in places.inputs(committed):
            if not path.name.startswith("crash-"):
                path.unlink()
        for path in kept:
            shutil.copy(path, committed / path.name)
        print(f"{name}: {len(kept)} files, {sum(path.stat().st_size for path in kept)} bytes", flush=True)


def news(control: Path) -> dict[str, int]:
    """How many features each file brought first, by the SHA-1 that libFuzzer names it with."""
    lines = control.read_text().splitlines()
    names = [Path(line).name for line in lines[2 : 2 + int(lines[0])]]
    found = (line.split() for line in lines if line.startswith("FT "))
    return {names[int(words[1])]: len(words) - 2 for words in found}


def choose(paths: list[Path], worth: dict[str, int]) -> list[Path]:
    """Those that bring most, within the limits."""
    kept: list[Path] = []
    size = 0
    for path in sorted(paths, key=lambda path: (-worth.get(path.name, 0), path.name)):
        if len(kept) < places.MOST_FILES and size + path.stat().st_size <= places.MOST_BYTES:
            kept.append(path)
            size += path.stat().st_size
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each target (60); 0 for none")
    parser.add_argument(
        "--merge", action="store_true", help="then bring what was found into the committed corpora"
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="all, if none is named")
    options = parser.parse_args()
    if unknown := set(options.targets) - set(places.names()):
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(places.names())}")
    good = True
    for name in options.targets or places.names():
        if options.seconds:
            good &= fuzz(name, options.seconds)
        if options.merge:
            merge(name)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
