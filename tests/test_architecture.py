"""The rules about the code itself that no linter checks. Reads the sources as text; runs none of them.

import-linter holds the layers (pyproject.toml). It can't look into .pyx files, takes a folder without
`__init__.py` for nothing, and sees an outside package only as a whole; so those rules are here.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"shadowmesh": ROOT / "shadowmesh", "shadowmesh_relay": ROOT / "relay"}

FILE_LINES = 600
FUNCTION_LINES = 60
PYX_LINES = 400

ALLOWED_LONG: dict[str, str] = {}
"""path or path:function -> the reason why this one may be longer. Keep it short and honest."""

SANS_IO = ("core", "membership", "overlay", "path", "session", "wire")
"""Packages of `shadowmesh` that take bytes and `now`, and return bytes, events and a deadline."""

CLOCKS_AND_IO = {
    "aioquic.asyncio": "QUIC connections are driven by hand",
    "asyncio": "an event loop belongs to io and node",
    "random": "randomness is an argument, so that tests repeat",
    "select": "waiting belongs to io",
    "selectors": "waiting belongs to io",
    "socket": "sockets belong to io",
    "subprocess": "processes belong to testing",
    "threading": "threads belong to the engine",
    "time": "the time is an argument called `now`",
    "uvloop": "an event loop belongs to node",
}
CRYPTO_FORBIDDEN = ("aioquic.asyncio", "asyncio", "select", "selectors", "socket", "threading", "uvloop")

EXT_IMPORTS = ("libc", "cpython", "cython", "posix", "shadowmesh._ext")
"""What ext/*.pyx may import: no Python module, so that nothing of Python creeps into the packet path."""

EXT_PYTHON_IMPORTS = ("shadowmesh.errors", "shadowmesh.units", "enum", "typing", "collections.abc")
"""What the Python side (`def` functions) of an extension may import besides."""


def python_files(*folders: Path) -> list[Path]:
    return sorted(
        path
        for folder in folders
        for path in folder.rglob("*.py")
        if "__pycache__" not in path.parts and "build" not in path.relative_to(ROOT).parts
    )


def imports_of(path: Path) -> Iterator[str]:
    """Every module that the file imports anywhere, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def forbidden_imports(path: Path, forbidden: tuple[str, ...] | list[str]) -> list[str]:
    return sorted(
        f"{path.relative_to(ROOT)} imports {module}"
        for module in set(imports_of(path))
        if any(module == name or module.startswith(f"{name}.") for name in forbidden)
    )


def sources(name: str) -> list[Path]:
    """The files of package or module `shadowmesh.NAME`."""
    module = ROOT / "shadowmesh" / f"{name}.py"
    return [module] if module.exists() else python_files(ROOT / "shadowmesh" / name)


def too_long(path: Path, limit: int, text: str) -> list[str]:
    name = str(path.relative_to(ROOT))
    lines = text.count("\n")
    return [f"{name}: {lines} lines"] if lines > limit and name not in ALLOWED_LONG else []


def test_no_python_file_and_no_function_is_too_long() -> None:
    found = []
    for path in python_files(*PACKAGES.values(), ROOT / "tests", ROOT / "bench", ROOT / "fuzz"):
        text = path.read_text()
        found += too_long(path, FILE_LINES, text)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
                name = f"{path.relative_to(ROOT)}:{node.name}"
                lines = node.end_lineno - node.lineno + 1
                if lines > FUNCTION_LINES and name not in ALLOWED_LONG:
                    found.append(f"{name}: {lines} lines")
    assert found == [], "split by ownership of state, or give a reason in ALLOWED_LONG"


def test_no_extension_source_is_too_long() -> None:
    found = [
        line for path in (ROOT / "ext").glob("*.pyx") for line in too_long(path, PYX_LINES, path.read_text())
    ]
    assert found == []


def test_every_allowance_is_still_needed() -> None:
    for name in ALLOWED_LONG:
        assert (ROOT / name.partition(":")[0]).exists(), f"{name} is gone; remove it from ALLOWED_LONG"


def test_every_module_says_what_it_is() -> None:
    missing = [
        str(path.relative_to(ROOT))
        for path in python_files(*PACKAGES.values())
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert missing == []


def test_every_folder_with_sources_is_a_package() -> None:
    folders = {path.parent for path in python_files(*PACKAGES.values(), ROOT / "tests")}
    assert sorted(str(folder) for folder in folders if not (folder / "__init__.py").exists()) == []


def test_the_list_of_packages_is_complete() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        ".".join((name, *path.parent.relative_to(folder).parts))
        for name, folder in PACKAGES.items()
        for path in folder.rglob("__init__.py")
    }
    assert sorted(listed) == sorted(found)


def test_every_layer_is_in_the_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["id"] == "layers")
    listed = {name.strip() for layer in layers for name in layer.split("|")}
    found = {
        path.name.removesuffix(".py")
        for path in (ROOT / "shadowmesh").iterdir()
        if (path / "__init__.py").exists() or (path.suffix == ".py" and path.name != "__init__.py")
    }
    assert sorted(found - listed) == []


@pytest.mark.parametrize("package", SANS_IO)
def test_protocol_layers_reach_no_clock_and_no_io(package: str) -> None:
    found = [line for path in sources(package) for line in forbidden_imports(path, list(CLOCKS_AND_IO))]
    assert found == [], CLOCKS_AND_IO


def test_cryptography_does_no_io_over_the_network() -> None:
    assert [line for path in sources("crypto") for line in forbidden_imports(path, CRYPTO_FORBIDDEN)] == []


def test_only_the_relay_and_its_tests_import_the_relay() -> None:
    assert [
        line
        for path in python_files(ROOT / "shadowmesh")
        for line in forbidden_imports(path, ["shadowmesh_relay"])
    ] == []


def test_the_relay_reaches_nothing_that_opens_frames() -> None:
    """`session` is allowed, since a relay's clients are sessions, and `membership`, which only verifies."""
    names = ("api", "cli", "core", "node", "overlay", "path", "_ext.engine.Engine")
    forbidden = [f"shadowmesh.{name}" for name in names]
    assert [
        line for path in python_files(ROOT / "relay") for line in forbidden_imports(path, forbidden)
    ] == []


def test_extensions_import_nothing_of_python_but_our_own_errors() -> None:
    pattern = re.compile(r"^\s*(?:from\s+([\w.]+)\s+(c?import)|(c?import)\s+([\w.]+))", re.MULTILINE)
    found = []
    for path in sorted([*(ROOT / "ext").glob("*.pyx"), *(ROOT / "shadowmesh" / "_ext").glob("*.pxd")]):
        for match in pattern.finditer(path.read_text()):
            module = match[1] or match[4]
            allowed = EXT_IMPORTS + EXT_PYTHON_IMPORTS * ("import" in (match[2], match[3]))
            if not any(module == name or module.startswith(f"{name}.") for name in (*allowed, "__future__")):
                found.append(f"{path.name} imports {module}")
    assert found == []


def test_the_package_is_typed() -> None:
    assert all((folder / "py.typed").exists() for folder in PACKAGES.values())


def test_no_dead_words() -> None:
    """Notes to oneself belong into the issue tracker, where somebody finds them."""
    word = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in [*python_files(*PACKAGES.values(), ROOT / "tests"), *(ROOT / "ext").glob("*.pyx")]
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if word.search(line)
    ]
    assert found == []
