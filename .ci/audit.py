#!/usr/bin/env python3
"""What goes into a release, looked at: `make audit`.  Tools: the extra `audit`.

One line for each check: ok, FAILED, or NOT CHECKED with the reason (no network, no tool).  It uploads
nothing and mends nothing.  Exit code: 0 all ok, 1 something failed, 77 nothing failed and something was not
checked.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SBOM = ROOT / "build" / "sbom.cdx.json"
BASELINE = ROOT / ".secrets.baseline"
TIMEOUT = 1800
"""Seconds that one tool may take."""
FAILED, OK, NOT_CHECKED = "FAILED", "ok", "NOT CHECKED"
Verdict = tuple[str, str]
"""Whether it is ok, and what there is to say."""
_PLACES = re.compile(rb"/home/[a-z]\w*/|/root/\w|index-url|" + re.escape(bytes(ROOT)))
"""Where somebody's machine, or his registry, shows through."""


def _run(*command: str, where: Path = ROOT, **environment: str) -> tuple[int, str, str]:
    done = subprocess.run(
        command,
        cwd=where,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def tracked() -> list[str]:
    """Names of all files that belong to the project."""
    names = _run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z")[1].split("\0")
    return [name for name in names if name and (ROOT / name).is_file() and not (ROOT / name).is_symlink()]


def _name(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    assert found is not None, requirement
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def check_constraints() -> Verdict:
    """Every dependency that is declared has one exact version, and nothing says where to get it."""
    lines = [
        line for line in (ROOT / "constraints.txt").read_text().splitlines() if line[:1] not in ("", "#")
    ]
    loose = [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)]
    if loose:
        return FAILED, f"not of the form name==version: {', '.join(loose)}"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    for name, extra in project["project"]["optional-dependencies"].items():
        declared += extra if name != "liboqs" else []  # nobody's tests install it: it builds a native library
    missing = {_name(one) for one in declared} - {_name(line) for line in lines}
    if missing:
        return FAILED, f"declared but not pinned: {', '.join(sorted(missing))}"
    return OK, f"{len(lines)} exact versions, {len(declared)} declared dependencies"


def check_places() -> Verdict:
    """No file of the project shows paths of a machine or addresses of a registry."""
    own = (".ci/audit.py",)
    names = [name for name in tracked() if name not in own]
    found = [name for name in names if _PLACES.search((ROOT / name).read_bytes())]
    return (FAILED, ", ".join(found)) if found else (OK, f"{len(names)} files")


def check_secrets() -> Verdict:
    """No file holds a secret that the baseline does not know: keys of tests are in it, with their hashes."""
    tool = _tool("detect-secrets-hook")
    if tool is None:
        return NOT_CHECKED, "detect-secrets is missing: pip install -e '.[audit]'"
    names = [name for name in tracked() if name != BASELINE.name]
    with tempfile.NamedTemporaryFile(suffix=".json") as copy:  # the tool would update the baseline itself
        copy.write(BASELINE.read_bytes())
        copy.flush()
        code, text, errors = _run(tool, "--baseline", copy.name, *names)
    found = re.findall(r"Location:\s+(\S+)", text)
    return (OK, f"{len(names)} files") if code == 0 else (FAILED, ", ".join(found) or errors[-200:])


def check_vulnerabilities() -> Verdict:
    """No pinned version is known to be vulnerable, by the service that pip-audit asks."""
    tool = _tool("pip-audit")
    if tool is None:
        return NOT_CHECKED, "pip-audit is missing: pip install -e '.[audit]'"
    flags = ("--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json", "--timeout", "15")
    _, text, errors = _run(tool, "-r", "constraints.txt", *flags)
    try:
        known = json.loads(text)["dependencies"]
    except (ValueError, KeyError):
        return (
            NOT_CHECKED,
            f"the service can't be asked: {(errors.strip().splitlines() or ['no answer'])[-1][:120]}",
        )
    bad = [f"{one['name']} {one['version']}" for one in known if one.get("vulns")]
    skipped = [one["name"] for one in known if "skip_reason" in one]
    if bad:
        return FAILED, f"known to be vulnerable: {', '.join(bad)}"
    if skipped:
        return NOT_CHECKED, f"the service knows nothing of {len(skipped)} of {len(known)} packages"
    return OK, f"{len(known)} packages"


def check_sbom() -> Verdict:
    """A bill of materials of this environment in CycloneDX, as a release carries it."""
    tool = _tool("cyclonedx-py")
    if tool is None:
        return NOT_CHECKED, "cyclonedx-bom is missing: pip install -e '.[audit]'"
    SBOM.parent.mkdir(exist_ok=True)
    flags = ("--pyproject", "pyproject.toml", "--output-reproducible", "--of", "JSON", "-o", str(SBOM))
    code, _, errors = _run(tool, "environment", *flags, sys.executable)
    if code:
        return FAILED, errors[-200:]
    parts = {_name(one["name"]) for one in json.loads(SBOM.read_text())["components"]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    missing = {_name(one) for one in project["project"]["dependencies"]} - parts
    return (
        (FAILED, f"without {missing}") if missing else (OK, f"{SBOM.relative_to(ROOT)}: {len(parts)} parts")
    )


def check_builds() -> Verdict:
    """The sdist builds the wheel, and both are the same bytes in two places."""
    if shutil.which("git") is None:
        return NOT_CHECKED, "git is missing"
    epoch = _run("git", "log", "-1", "--format=%ct")[1].strip()
    with tempfile.TemporaryDirectory() as name:
        both = []
        for place in (Path(name) / "a", Path(name) / "another" / "place"):
            try:
                both.append(_build(place, epoch))
            except (RuntimeError, ValueError) as error:
                return FAILED, str(error)[-300:]
        different = [one for one in both[0] if both[0][one] != both[1].get(one)]
    if different or both[0].keys() != both[1].keys():
        return FAILED, f"differs between two builds: {', '.join(different) or 'their names'}"
    return OK, ", ".join(f"{one} {digest[:12]}" for one, digest in both[0].items())


def _build(place: Path, epoch: str) -> dict[str, str]:
    """Build in a copy of the project; SHA-256 of the sdist, and of the wheel that was made from it."""
    source, made = place / "source", place / "made"
    made.mkdir(parents=True)
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    (source / "shadowmesh_relay").symlink_to("relay")
    environment = {"SOURCE_DATE_EPOCH": epoch, "CFLAGS": f"-ffile-prefix-map={place}=."}
    _build_one("sdist", source, made, environment)
    sdist = next(made.glob("*.tar.gz"))
    with tarfile.open(sdist) as archive:
        archive.extractall(place / "unpacked", filter="data")
    _build_one("wheel", next((place / "unpacked").iterdir()), made, environment)
    for file in made.iterdir():
        if str(place).encode() in file.read_bytes():
            raise ValueError(f"{file.name} shows where it was built")
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(made.iterdir())}


def _build_one(kind: str, source: Path, made: Path, environment: dict[str, str]) -> None:
    hook = f"from setuptools import build_meta as b; print(b.build_{kind}({str(made)!r}))"
    code, text, errors = _run(sys.executable, "-c", hook, where=source, **environment)
    if code:
        raise RuntimeError(f"no {kind}: {text[-100:]} {errors[-200:]}")


def _tool(name: str) -> str | None:
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)


CHECKS: dict[str, Callable[[], Verdict]] = {
    "pinned versions": check_constraints,
    "machines, registries": check_places,
    "secrets": check_secrets,
    "vulnerabilities": check_vulnerabilities,
    "bill of materials": check_sbom,
    "reproducible build": check_builds,
}


def main() -> int:
    """See the module's docstring."""
    results = set()
    for name, check in CHECKS.items():
        try:
            result, text = check()
        except subprocess.TimeoutExpired as error:
            result, text = NOT_CHECKED, f"{error.cmd[0]} took more than {TIMEOUT} s"
        results.add(result)
        print(f"{name:20}  {result:11}  {text}", flush=True)
    return 1 if FAILED in results else 77 if NOT_CHECKED in results else 0


if __name__ == "__main__":
    sys.exit(main())
