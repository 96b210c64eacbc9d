"""Builds the extension modules: ext/*.pyx -> shadowmesh/_ext, generated C in build/.

Everything else about the distribution is in pyproject.toml.  Switches (environment):
SHADOWMESH_DEBUG=1: bounds checks, line tracing for coverage, no optimisation.
SHADOWMESH_SANITIZE=address: AddressSanitizer and UndefinedBehaviorSanitizer, =thread: ThreadSanitizer,
=fuzz: the first two and libFuzzer's counters, by clang; .ci/instrument builds such extensions in a tree
of their own.
"""

from __future__ import annotations

import gzip
import os
import tarfile
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.sdist import sdist

DEBUG = os.environ.get("SHADOWMESH_DEBUG") == "1"
SANITIZE = os.environ.get("SHADOWMESH_SANITIZE", "")

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "initializedcheck": DEBUG,
    "linetrace": DEBUG,
    "wraparound": False,
    "cdivision": True,
}

# Cython's own C has unused parameters (every method's self) and casts function types for the method
# tables: those two warnings of -Wextra would hide ours.  Socket addresses are read both as the kernel's
# structures and as words, which strict aliasing does not allow.
COMPILE = ["-O0" if DEBUG else "-O2", "-Wall", "-Wextra", "-Wsign-compare", "-fno-strict-aliasing"]
COMPILE += ["-Wno-unused-parameter", "-Wno-cast-function-type", "-Wno-missing-field-initializers"]
LINK: list[str] = []
CHOICES = {
    "address": "-fsanitize=address,undefined",
    "thread": "-fsanitize=thread",
    "fuzz": "-fsanitize=address,undefined,fuzzer-no-link",
}
if SANITIZE:
    CHOSEN = CHOICES[SANITIZE]
    COMPILE += [CHOSEN, "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g", "-O1"]
    # ThreadSanitizer knows no fences. Where one matters, an atomic store beside it carries the order.
    COMPILE += ["-Wno-tsan"] if SANITIZE == "thread" else []
    # The library that atheris brings holds libFuzzer and both sanitizers: none is linked here.
    LINK += [CHOSEN] if SANITIZE != "fuzz" else []
if SANITIZE == "fuzz":
    os.environ |= {"CC": "clang-14", "LDSHARED": "clang-14 -shared"}


ROOT = Path(__file__).resolve().parent
BUILD = "build/cython-debug" if DEBUG else "build/cython"


def forget_stale() -> None:
    """Remove generated C older than its module's own .pxd, which Cython looks for beside the .pyx only."""
    for generated in (ROOT / BUILD / "ext").glob("*.c"):
        declarations = ROOT / "shadowmesh" / "_ext" / f"{generated.stem}.pxd"
        if declarations.exists() and declarations.stat().st_mtime > generated.stat().st_mtime:
            generated.unlink()


def extensions() -> list[Extension]:
    """One module per .pyx; all link libcrypto's headers, those that call it libcrypto."""
    headers = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "ext").glob("*.h"))
    return [
        Extension(
            f"shadowmesh._ext.{path.stem}",
            [str(path.relative_to(ROOT))],
            include_dirs=["ext"],
            libraries=["crypto"],
            depends=headers,
            extra_compile_args=COMPILE,
            extra_link_args=["-Wl,--as-needed", *LINK],
            define_macros=[("CYTHON_TRACE", "1"), ("CYTHON_TRACE_NOGIL", "1")] if DEBUG else [],
        )
        for path in sorted((ROOT / "ext").glob("*.pyx"))
    ]


class SourceDistribution(sdist):
    """An sdist whose bytes depend on its content and SOURCE_DATE_EPOCH alone, not on place, time and user."""

    def make_archive(
        self,
        base_name: str,
        format: str,  # noqa: A002 - the name of the overridden parameter
        root_dir: str | None = None,
        base_dir: str | None = None,
        owner: str | None = None,
        group: str | None = None,
    ) -> str:
        if "SOURCE_DATE_EPOCH" not in os.environ:
            return str(super().make_archive(base_name, format, root_dir, base_dir, owner, group))
        assert base_dir is not None
        epoch = int(os.environ["SOURCE_DATE_EPOCH"])
        target = f"{base_name}.tar.gz"
        with (
            open(target, "wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=epoch) as packed,
            tarfile.open(fileobj=packed, mode="w") as archive,
        ):
            for path in sorted(Path(base_dir).rglob("*")):
                entry = archive.gettarinfo(str(path))
                entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = epoch, 0, 0, "", ""
                entry.mode = 0o755 if path.is_dir() or entry.mode & 0o100 else 0o644
                if entry.isfile():
                    with path.open("rb") as content:
                        archive.addfile(entry, content)
                else:
                    archive.addfile(entry)
        return target


forget_stale()
setup(
    cmdclass={"sdist": SourceDistribution},
    ext_modules=cythonize(
        extensions(),
        build_dir=BUILD,
        compiler_directives=DIRECTIVES,
    ),
)
