#!/usr/bin/env python3
"""Checks the models in this directory and compares what the tools say with what is expected: `make verify`.

handshake.pv and rekey.pv are for ProVerif, rekey.pml and path.pml for Spin.  Each is checked in variants,
which differ by names that the C preprocessor is given: what the attacker can break or gets, and checks that
are left out, which must be refuted, or else the model proves nothing.  window.py has proofs of its own.

Installs nothing.  ProVerif is looked for on the PATH, or is $PROVERIF.  Exit code: 0 all as expected,
1 something is not, 77 the rest is as expected but a tool is missing.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODELS = ("handshake.pv", "rekey.pv", "rekey.pml", "path.pml")
RECORD = HERE / "RESULT.md"
TIMEOUT = 3600
"""Seconds that one variant may take on a slow machine; the slowest takes two minutes on an idle one."""
PROVED, REFUTED, REACHED, MISSING = "proved", "refuted", "reached", "not checked"
_PROPERTY = re.compile(r"\(\* property: (.*?) \*\)", re.DOTALL)
_RESULT = re.compile(r"^RESULT (?!\(even)(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Variant:
    """One run: names for the preprocessor, and the beginnings of the properties that it must refute."""

    title: str
    defines: tuple[str, ...] = ()
    refutes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    model: str
    variant: str
    promise: str
    expected: str
    result: str
    seconds: float

    @property
    def good(self) -> bool:
        """Whether it is as expected, or could not be looked at."""
        return self.result in (self.expected, MISSING)


I_AGREES, R_AGREES = "initiator: the responder", "responder: the initiator"
I_SECRET, R_SECRET = "initiator: nobody", "responder: nobody"
FRAMES = "a frame"
ALL = (I_AGREES, R_AGREES, I_SECRET, R_SECRET, FRAMES)
OFFER, ANSWER = "responder: an offer", "initiator: an answer"
SHOR = ("X25519_BROKEN", "ED25519_BROKEN")
LATTICE = ("KEM_BROKEN", "MLDSA_BROKEN")

HANDSHAKE = (
    Variant("whole; the attacker is the network and a member", ("REACH",)),
    Variant("quantum: X25519 and Ed25519 broken", SHOR),
    Variant("lattices broken: ML-KEM and ML-DSA", LATTICE),
    Variant("X25519 and ML-DSA broken", ("X25519_BROKEN", "MLDSA_BROKEN")),
    Variant("ML-KEM and Ed25519 broken", ("KEM_BROKEN", "ED25519_BROKEN")),
    Variant("forward secrecy: all identity keys are known later", ("LEAK_IDENTITY",)),
    Variant("the same, quantum", ("LEAK_IDENTITY", *SHOR)),
    Variant("the initiator's own identity keys are known before", ("VICTIM_INITIATES",)),
    Variant("the responder's own identity keys are known before", ("VICTIM_RESPONDS",)),
    Variant("limit: X25519 and ML-KEM broken", ("X25519_BROKEN", "KEM_BROKEN"), ALL),
    Variant("limit: Ed25519 and ML-DSA broken", ("ED25519_BROKEN", "MLDSA_BROKEN"), ALL),
    Variant("without the NodeID computed from both keys", ("NO_NODEID_CHECK",), ALL),
    Variant("without CertificateVerify, Ed25519 broken", ("NO_CERTIFICATE_CHECK", "ED25519_BROKEN"), ALL),
    Variant("without the proofs, ML-DSA broken", ("NO_PROOF_CHECK", "MLDSA_BROKEN"), ALL),
    Variant(
        "without the exporter in the proofs, ML-DSA broken", ("NO_EXPORTER_BINDING", "MLDSA_BROKEN"), ALL
    ),
    Variant("without the MACs of RESPONSE and ESTABLISHED", ("NO_CONFIRMATION_CHECK",), (I_AGREES, R_AGREES)),
)
REKEY = (
    Variant("whole; the attacker is the network and a member"),
    Variant("quantum: X25519 and Ed25519 broken", SHOR),
    Variant("lattices broken: ML-KEM and ML-DSA", LATTICE),
    Variant("recovery: the root before is known", ("LEAK_ROOT",)),
    Variant("the same, quantum", ("LEAK_ROOT", *SHOR)),
    Variant("the same, lattices broken", ("LEAK_ROOT", *LATTICE)),
    Variant("forward secrecy: root and identity keys are known later", ("LEAK_LATER",)),
    Variant("identity keys are known, the root is not", ("LEAK_IDENTITY",), (OFFER, ANSWER)),
    Variant(
        "limit: root and identity keys are known",
        ("LEAK_ROOT", "LEAK_IDENTITY"),
        (OFFER, ANSWER, I_SECRET, R_SECRET),
    ),
    Variant(
        "without signatures, the root is known",
        ("NO_SIGNATURES", "LEAK_ROOT"),
        (OFFER, ANSWER, I_SECRET, R_SECRET),
    ),
    Variant("without the session in the signatures", ("NO_SESSION_BINDING", "LEAK_ROOT"), (OFFER, ANSWER)),
    Variant("without the epoch in the signatures", ("NO_EPOCH",), (OFFER, ANSWER)),
    Variant("without both messages in the signatures", ("NO_TRANSCRIPT",), (OFFER, ANSWER)),
    Variant(
        "without the root before, identity keys are known",
        ("NO_CHAIN", "LEAK_IDENTITY"),
        (OFFER, ANSWER, I_SECRET, R_SECRET),
    ),
)


@dataclass(frozen=True)
class Search:
    """One search of Spin: the claim of the model, or none: assertions and deadlocks."""

    title: str
    claim: str = ""
    defines: tuple[str, ...] = ()
    mutants: tuple[str, ...] = ()
    """Each is a name for the preprocessor, by which the model must fail this search."""


SEARCHES = {
    "rekey.pml": (
        Search(
            "no deadlock; two receive epochs at most; no epoch reused; none sealed late; all can be opened",
            mutants=(
                "MUTANT_KEEPS_ALL",
                "MUTANT_DROPS_OLD_AT_ONCE",
                "MUTANT_SEALS_EXPIRED",
                "MUTANT_ALWAYS_OFFERS",
                "MUTANT_RESPONDER_SEALS_AT_ONCE",
            ),
        ),
        Search(
            "both sides converge if the channel is fair", "converge", ("TIMELY",), ("MUTANT_NEVER_SHOWN",)
        ),
    ),
    "path.pml": (
        Search(
            "frames go only where the authenticated peer has answered; no deadlock",
            mutants=(
                "MUTANT_ECHO_FROM_ANYWHERE",
                "MUTANT_REPLY_FROM_ANYWHERE",
                "MUTANT_SOURCE_IS_PROOF",
                "MUTANT_FULL_SIZE_NOT_TRIED",
            ),
        ),
        Search(
            "a way that has gone does not keep the frames",
            "fallback",
            ("CALM",),
            ("MUTANT_NEVER_FAILS", "MUTANT_NO_FALLBACK"),
        ),
        Search("a direct way that works is found again", "regained", ("CALM",), ("MUTANT_NO_REQUESTS",)),
        Search("no livelock between ways", "settles", ("CALM",), ("MUTANT_NO_HYSTERESIS",)),
    ),
}


def check_proverif(model: str, variant: Variant, work: Path) -> list[Row]:
    """All properties of one variant of a .pv file."""
    flags = [f"-D{name}" for name in variant.defines]
    text = _run(["cpp", "-P", "-nostdinc", "-w", *flags, str(HERE / model)])[1]
    properties = _properties(text)
    tool = shutil.which(os.environ.get("PROVERIF", "proverif"))
    if tool is None:
        found, seconds = [""] * sum(count for _, count in properties), 0.0
    else:
        name = "-".join((model.removesuffix(".pv"), *variant.defines))
        file = work / f"{name}.pv"
        file.write_text(text)
        began = time.monotonic()
        found = _RESULT.findall(_run([tool, str(file)])[1])
        seconds = time.monotonic() - began
    rows, position = [], 0
    for title, count in properties:
        results = found[position : position + count]
        position += count
        expected = REFUTED if title.startswith(variant.refutes or ("-",)) else PROVED
        if title.endswith("are not empty)"):
            expected, results = REACHED, [_reached(one) for one in results]
        result = MISSING if tool is None else _combined(results, count, expected)
        rows.append(Row(model, variant.title, title, expected, result, seconds))
    return rows


def _properties(text: str) -> list[tuple[str, int]]:
    """Each property's words, and how many queries it has."""
    parts = _PROPERTY.split(text)[1:]
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return [
        (" ".join(title.split()), len(re.findall(r"^query ", body, re.MULTILINE))) for title, body in pairs
    ]


def _reached(result: str) -> str:
    return REACHED if result.endswith("is false.") else "NOT REACHED"


def _combined(results: list[str], count: int, expected: str) -> str:
    """What several queries of one property come to: all must hold; one that fails refutes."""
    if len(results) != count:
        return "no result"
    if expected == REACHED:
        return REACHED if set(results) == {REACHED} else "not reached"
    if all(one.endswith("is true.") for one in results):
        return PROVED
    return REFUTED if any(one.endswith("is false.") for one in results) else "cannot be decided"


def check_spin(model: str, search: Search, mutant: str, work: Path) -> list[Row]:
    """One search of a .pml file, of the model as it is or of a mutant."""
    variant = f"mutant {mutant}" if mutant else "whole"
    expected = REFUTED if mutant else PROVED
    began = time.monotonic()
    if shutil.which("spin") is None or shutil.which("gcc") is None:
        result = MISSING
    else:
        result = _search(model, search, mutant, work)
    return [Row(model, variant, search.title, expected, result, time.monotonic() - began)]


def _search(model: str, search: Search, mutant: str, work: Path) -> str:
    with tempfile.TemporaryDirectory(dir=work) as name:
        where = Path(name)
        flags = [f"-D{define}" for define in (*search.defines, mutant) if define]
        generated, text = _run(["spin", "-a", *flags, str(HERE / model)], where)
        options = ["-DNFAIR=8"] if search.claim else ["-DSAFETY", "-DNOCLAIM", "-DCOLLAPSE"]
        built, errors = _run(["gcc", "-O2", "-w", "-DVECTORSZ=4096", *options, "-o", "pan", "pan.c"], where)
        if generated or built:
            return f"no result: {(text + errors).strip()[:200]}"
        claim = ["-a", "-f", "-N", search.claim] if search.claim else []
        _, text = _run(["./pan", "-m2000000", "-w24", *claim], where)
    errors_found = re.search(r"errors: ([0-9]+)", text)
    if errors_found is None or "max search depth too small" in text or "out of memory" in text:
        return "no result: the search was not complete"
    return PROVED if errors_found[1] == "0" else REFUTED


def check_window() -> list[Row]:
    """The proofs of the replay window and the header parser, which have a script of their own."""
    began = time.monotonic()
    code, text = _run([sys.executable, str(HERE / "window.py")])
    print(text, end="", file=sys.stderr)
    result = {0: PROVED, 77: MISSING}.get(code, "refuted")
    title = "replay window and header parser (its own table is above)"
    return [Row("window.py", "whole and mutants", title, PROVED, result, time.monotonic() - began)]


def _run(command: list[str], where: Path | None = None) -> tuple[int, str]:
    try:
        done = subprocess.run(
            command, cwd=where, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return 1, f"{command[0]} took more than {TIMEOUT} s"
    return done.returncode, done.stdout + done.stderr


def check_all(work: Path, only: str) -> list[Row]:
    """All rows, in the order of the tables above; several tools run at once."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [
            pool.submit(check_proverif, model, variant, work)
            for model, variants in (("handshake.pv", HANDSHAKE), ("rekey.pv", REKEY))
            for variant in variants
            if model.startswith(only)
        ]
        jobs += [
            pool.submit(check_spin, model, search, mutant, work)
            for model, searches in SEARCHES.items()
            for search in searches
            for mutant in ("", *search.mutants)
            if model.startswith(only)
        ]
        rows = [row for job in jobs for row in job.result()]
    return rows + (check_window() if "window".startswith(only) else [])


def table(rows: Iterable[Row]) -> str:
    """Aligned columns for people."""
    cells = [("model", "variant", "property", "expected", "result", "s")]
    cells += [(r.model, r.variant, r.promise, r.expected, r.result, f"{r.seconds:.1f}") for r in rows]
    widths = [max(len(line[index]) for line in cells) for index in range(5)]
    lines = ["  ".join([*map(str.ljust, line[:5], widths), line[5].rjust(6)]) for line in cells]
    return "\n".join(lines)


def versions() -> dict[str, str]:
    """What the tools call themselves; empty where one is missing."""
    tools = {"ProVerif": [os.environ.get("PROVERIF", "proverif"), "-help"], "Spin": ["spin", "-V"]}
    return {
        name: _run(command)[1].splitlines()[0] if shutil.which(command[0]) else ""
        for name, command in tools.items()
    }


def digest(model: str) -> str:
    """SHA-256 of a model, by which tests know that the record is of this one."""
    return hashlib.sha256((HERE / model).read_bytes()).hexdigest()


def record(rows: list[Row]) -> str:
    """RESULT.md: the hashes of the models, the tools, and the table."""
    lines = ["# What the tools said about the models", ""]
    lines += ["Made by `docs/models/verify.py --record`; `tests/test_models.py` compares the hashes.", ""]
    lines += ["| model | SHA-256 |", "|---|---|"]
    lines += [f"| {model} | `{digest(model)}` |" for model in MODELS]
    lines += ["", *(f"- {name}: {text}" for name, text in versions().items()), ""]
    for model in dict.fromkeys(row.model for row in rows):
        lines += [
            f"## {model}",
            "",
            "| variant | property | expected | result | s |",
            "|---|---|---|---|---|",
        ]
        for row in rows:
            if row.model == model:
                cells = (row.variant, row.promise, row.expected, row.result, f"{row.seconds:.0f}")
                lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--record", action="store_true", help="write RESULT.md, if all is as expected")
    parser.add_argument(
        "--only", default="", metavar="MODEL", help="only models that begin so; not with --record"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rows = check_all(Path(name), arguments.only)
    print(table(rows))
    bad = [row for row in rows if not row.good]
    missing = sorted({row.model for row in rows if row.result == MISSING})
    print(f"\n{len(rows)} results, {len(bad)} not as expected.")
    for tool, text in versions().items():
        if not text:
            print(f"{tool} IS MISSING: nothing that needs it was checked.")
    if missing:
        print(f"Not checked here: {', '.join(missing)}. RESULT.md has what was recorded where the tools are.")
    if arguments.record and not (bad or missing or arguments.only):
        RECORD.write_text(record(rows))
    return 1 if bad else 77 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
