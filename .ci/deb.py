#!/usr/bin/env python3
"""Makes the Debian package of the version that is checked out: `make deb`.

Both programs, units, examples and documentation, and the Python libraries of constraints.txt in a folder of
their own, /usr/lib/shadowmesh, for Debian's Python.  Same sources and same libraries, same bytes: times are
those of the last commit (or SOURCE_DATE_EPOCH).  It installs nothing and needs no root.

    deb.py [FOLDER]     where the package goes; dist/ unless said otherwise
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from email.message import Message
from email.parser import HeaderParser
from email.utils import formatdate
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGING = ROOT / "configs" / "debian"
PYTHON = "/usr/bin/python3"
"""Debian's: the package depends on it."""
LIBRARY = "usr/lib/shadowmesh"
ADDED = "usr/local/lib/shadowmesh"
"""Where the administrator may put libraries of extras that are not carried; ours and Python's come first."""
EXTRAS = "top"
"""Of pyproject.toml: pure Python, and for a verb that everybody has. What others need is compiled."""
UNITS = "usr/lib/systemd/system"
DOCUMENTS = "usr/share/doc/shadowmesh"
PROGRAMS = {"shadowmesh-client": "shadowmesh.cli.main", "shadowmesh-relay": "shadowmesh_relay.cli"}
PROGRAM = """\
#!{python} -IS
import sys

sys.path[:] = ["/{library}", *sys.path, "/{added}"]
from {module} import main

sys.exit(main())
"""
"""-I: nothing of the environment or of the user; -S: none of Debian's libraries either."""
COMPLETIONS = {
    "bash": "usr/share/bash-completion/completions/{program}",
    "zsh": "usr/share/zsh/vendor-completions/_{program}",
    "fish": "usr/share/fish/vendor_completions.d/{program}.fish",
}
UNWANTED = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
"""What pip notes for itself; some of it has paths of this machine."""
INSIDE = {
    "cryptography": "OpenSSL (Apache-2.0)",
    "pylsqpack": "ls-qpack (MIT)",
    "pyyaml": "libyaml (MIT)",
    "uvloop": "libuv (MIT)",
}
"""Libraries that are linked into the compiled parts of others."""

COMMON = {
    "Apache-2.0": r"Apache License\s+Version 2\.0.*?END OF TERMS AND CONDITIONS",
    "GPL-2": r"GNU GENERAL PUBLIC LICENSE\s+Version 2.*?END OF TERMS AND CONDITIONS",
}
"""Licences that every Debian system has in /usr/share/common-licenses, and their full texts."""
_LICENCE = re.compile(r"(?i)(licen[cs]e|copying|notice|authors)")


def run(*command: str | Path, where: Path = ROOT, **environment: str) -> str:
    """Standard output of a command; what it says else is shown. Ends the program if it fails."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=where,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"deb: {command[0]} failed: {' '.join(map(str, command))}\n{done.stdout[-2000:]}")
    return done.stdout


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Also the folders above."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def write_compressed(path: Path, data: bytes) -> None:
    """As `gzip -9n`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data, 9, mtime=0))


def build_wheel(place: Path) -> Path:
    """From a copy of what is tracked, by Debian's Python, with the pinned build tools."""
    source, tools, made = place / "source", place / "tools", place / "wheel"
    for name in run("git", "ls-files", "-z").split("\0")[:-1]:
        if (ROOT / name).is_file() and not (ROOT / name).is_symlink():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name)
    (source / "shadowmesh_relay").symlink_to("relay")
    run(PYTHON, "-m", "venv", tools)
    pip = tools / "bin" / "pip"
    run(pip, "install", "--quiet", "-c", ROOT / "constraints.txt", "setuptools", "wheel", "Cython")
    write(place / "build.cfg", f"[build_ext]\nparallel = {os.cpu_count()}\n")
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", made)
    flags = {"CFLAGS": f"-ffile-prefix-map={source}=.", "DIST_EXTRA_CONFIG": str(place / "build.cfg")}
    run(pip, "wheel", *options, source, **flags)
    return next(made.glob("*.whl"))


def install_library(place: Path, tree: Path, wheel: Path) -> None:
    """The wheel and what it depends on, stripped and compiled."""
    library = tree / LIBRARY
    pip = place / "tools" / "bin" / "pip"
    constraints = ("-c", ROOT / "constraints.txt")
    run(
        pip,
        "install",
        "--quiet",
        "--no-compile",
        "--only-binary=:all:",
        "--target",
        library,
        *constraints,
        f"{wheel}[{EXTRAS}]",
    )
    for name in ("bin", "share", "include"):
        shutil.rmtree(library / name, ignore_errors=True)
    for path in library.glob("*.dist-info/*"):
        if path.name in UNWANTED:
            path.unlink()
    for path in library.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
        if path.is_file() and re.search(r"\.so(\.\d+)*$", path.name):
            run("strip", "--strip-unneeded", path)
        elif path.suffix == ".py" and path.read_bytes().startswith(b"#!"):
            path.write_bytes(path.read_bytes().partition(b"\n")[2])  # nobody runs it by itself
    # Without a time in them: such files stay valid when a package manager sets times.
    run(
        PYTHON,
        "-c",
        f"import compileall as c, py_compile as p; import sys; sys.exit(not c.compile_dir("
        f"{str(library)!r}, quiet=1, stripdir={str(tree)!r}, prependdir='/', "
        "invalidation_mode=p.PycInvalidationMode.UNCHECKED_HASH))",
    )


def licences(library: Path) -> Iterator[str]:
    """One paragraph of the copyright file for each library that is carried; takes its licence files away."""
    for folder in sorted(library.glob("*.dist-info")):
        about: Message = HeaderParser().parsestr((folder / "METADATA").read_text())
        name = about["Name"]
        if name == "shadowmesh":
            continue
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and _LICENCE.match(path.name)]
        texts = [_shortened(path.read_text(errors="replace")) for path in files]
        of = about["License-Expression"] or about["License"] or ""
        stated = of if of and "\n" not in of else "as below" if texts else "see its home page"
        inside = f", with {INSIDE[name.lower()]} linked in" if name.lower() in INSIDE else ""
        body = "\n\n".join(texts).strip() or f"{stated}; the distribution of {name} has no text of it."
        lines = "\n".join(f" {line.rstrip()}" if line.strip() else " ." for line in body.splitlines())
        yield f"{name} {about['Version']}{inside}: {stated}\n\n{lines}\n"
        for path in files:
            path.unlink()
        shutil.rmtree(folder / "licenses", ignore_errors=True)


def _shortened(text: str) -> str:
    """Debian policy 12.5: of a common licence the place, not the text."""
    for name, whole in COMMON.items():
        text = re.sub(whole, f"(see /usr/share/common-licenses/{name})", text, flags=re.DOTALL)
    return text


def write_documents(tree: Path, version: str, epoch: int) -> None:
    """Licences, change logs, examples and the manual."""
    documents = tree / DOCUMENTS
    own = (ROOT / "LICENSE").read_text()
    assert "Apache License" in own
    head = (
        "ShadowMesh is licensed under the Apache License, version 2.0:\n"
        "see /usr/share/common-licenses/Apache-2.0.\n\n"
        f"/{LIBRARY} holds these libraries of others as well, each under its own licence:\n"
    )
    write(documents / "copyright", "\n".join([head, *licences(tree / LIBRARY)]))
    maintainer = HeaderParser().parsestr((PACKAGING / "control").read_text())["Maintainer"]
    entry = (
        f"shadowmesh ({version}) unstable; urgency=medium\n\n  * See CHANGELOG.md.gz.\n\n"
        f" -- {maintainer}  {formatdate(epoch)}\n"
    )
    write_compressed(documents / "changelog.gz", entry.encode())
    write_compressed(documents / "CHANGELOG.md.gz", (ROOT / "CHANGELOG.md").read_bytes())
    write(documents / "README.Debian", (PACKAGING / "README.Debian").read_text())
    for path in sorted((*(ROOT / "docs").glob("*.md"), *(ROOT / "docs/howto").glob("*.md"))):
        write_compressed(documents / f"{path.relative_to(ROOT)}.gz", path.read_bytes())
    for path in sorted((ROOT / "configs").iterdir()):
        if path.is_file() and path.suffix not in (".service", ".target"):
            write(documents / "examples" / path.name, path.read_text())
    write(tree / "usr/share/lintian/overrides/shadowmesh", (PACKAGING / "lintian-overrides").read_text())


def write_programs(tree: Path) -> None:
    """Commands, units, the folder of the configuration, and what is generated from the commands."""
    for program, module in PROGRAMS.items():
        text = PROGRAM.format(python=PYTHON, library=LIBRARY, added=ADDED, module=module)
        write(tree / "usr/bin" / program, text, 0o755)
    for path in (*(ROOT / "configs").glob("*.service"), *(ROOT / "configs").glob("*.target")):
        write(tree / UNITS / path.name, path.read_text().replace("/usr/local/bin/", "/usr/bin/"))
    (tree / "etc/shadowmesh").mkdir(parents=True)


def write_generated(place: Path, tree: Path) -> None:
    """Manual pages and completions of shells, by the programs that the package has."""
    library = {"PYTHONPATH": str(tree / LIBRARY), "PYTHONDONTWRITEBYTECODE": "1"}
    run(PYTHON, ROOT / "docs" / "man" / "make.py", place / "man", where=place, **library)
    for path in sorted((place / "man").glob("*.1")):
        write_compressed(tree / "usr/share/man/man1" / f"{path.name}.gz", path.read_bytes())
    for program, module in PROGRAMS.items():
        for shell, target in COMPLETIONS.items():
            command = f"import sys; from {module} import main; sys.exit(main(['completion', {shell!r}]))"
            text = run(PYTHON, "-c", command, where=place, **library)
            write(tree / target.format(program=program), text)


def depends(place: Path, tree: Path) -> str:
    """Debian's packages for what the compiled parts link, and the Python that they are for."""
    write(place / "debian" / "control", "Source: shadowmesh\n\nPackage: shadowmesh\nArchitecture: any\n")
    (tree / "DEBIAN").mkdir()  # dpkg-shlibdeps knows a package by it
    objects = [path for path in (tree / LIBRARY).rglob("*.so*") if path.is_file()]
    folders = {f"-l{path.parent}" for path in objects}
    found = run(
        "dpkg-shlibdeps",
        "--warnings=0",
        "-O",
        *sorted(folders),
        *(f"-e{path}" for path in objects),
        where=place,
    )
    major, minor = run(PYTHON, "-c", "import sys; print(*sys.version_info[:2])").split()
    python = f"python3 (>= {major}.{minor}), python3 (<< {major}.{int(minor) + 1})"
    return f"{found.strip().removeprefix('shlibs:Depends=')}, {python}"


def write_control(place: Path, tree: Path, version: str, architecture: str) -> None:
    """The folder DEBIAN."""
    size = sum(path.lstat().st_size for path in tree.rglob("*") if path.is_file()) // 1024
    values = {
        "VERSION": version,
        "ARCHITECTURE": architecture,
        "DEPENDS": depends(place, tree),
        "SIZE": str(size),
    }
    text = (PACKAGING / "control").read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    files = sorted(str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file())
    sums = run("md5sum", *files, where=tree)
    write(tree / "DEBIAN" / "control", text)
    write(tree / "DEBIAN" / "md5sums", sums)
    for name in ("postinst", "prerm", "postrm"):
        write(tree / "DEBIAN" / name, (PACKAGING / name).read_text(), 0o755)


def main() -> int:
    """See the module's docstring."""
    target = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist").resolve()
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or run("git", "log", "-1", "--format=%ct"))
    os.environ |= {"SOURCE_DATE_EPOCH": str(epoch), "PYTHONHASHSEED": "0"}
    os.umask(0o022)
    architecture = run("dpkg", "--print-architecture").strip()
    with tempfile.TemporaryDirectory(prefix="shadowmesh-deb-") as name:
        place, tree = Path(name), Path(name) / "debian" / "shadowmesh"
        wheel = build_wheel(place)
        version = wheel.name.split("-")[1]
        write_programs(tree)
        install_library(place, tree, wheel)
        write_generated(place, tree)
        write_documents(tree, version, epoch)
        write_control(place, tree, version, architecture)
        target.mkdir(parents=True, exist_ok=True)
        made = target / f"shadowmesh_{version}_{architecture}.deb"
        run("dpkg-deb", "--root-owner-group", "-Zxz", "--build", tree, made)
    print(f"{made} ({made.stat().st_size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
