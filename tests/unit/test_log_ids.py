"""Every warning and error that the product logs ends in an id of docs/errors.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from shadowmesh.catalogue import ENTRIES

ROOT = Path(__file__).parents[2]
LEVELS = ("warning", "error", "exception", "critical")
TELLS_ITS_ID = re.compile(r"\.told\b|^explain\(\w+\)\[1\]$")
"""The last argument of a line that itself ends in `%s`: a `Failure` or error with its ids, or what ended a
command, which `command.explain` tells with its id."""


def faults(source: str) -> Iterator[str | None]:
    """Of each warning or error that is logged: what is wrong with it, or None."""
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        bound = list(_named(function))
        named = {name: value for name, value in bound if [one for one, _ in bound].count(name) == 1}
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and re.fullmatch(
                rf"\w*log\w*\.({'|'.join(LEVELS)}|log)", ast.unparse(node.func)
            ):
                yield _fault(node, named)


def _named(function: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """What names are set to there, or go through."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node.value
        elif isinstance(node, ast.For) and isinstance(node.target, ast.Name):
            yield node.target.id, node.iter


def _fault(call: ast.Call, named: dict[str, ast.expr]) -> str | None:
    ends = (call.args[0], call.args[-1])
    line, last = (named.get(one.id, one) if isinstance(one, ast.Name) else one for one in ends)
    if not isinstance(line, ast.Constant) or not isinstance(line.value, str):
        return f"line {call.lineno}: its format is not to be seen"
    found = re.search(r" \[([a-z.-]+)\]$", line.value)
    if found is not None:
        return None if found[1] in ENTRIES else f"line {call.lineno}: {found[1]} has no entry"
    if line.value.endswith("%s") and TELLS_ITS_ID.search(ast.unparse(last)):
        return None
    return f"line {call.lineno}: {line.value!r} ends in no id"


def test_every_warning_and_error_of_the_log_has_an_id() -> None:
    sources = [*ROOT.glob("shadowmesh/**/*.py"), *ROOT.glob("relay/*.py")]
    found = [(path, fault) for path in sources for fault in faults(path.read_text())]
    assert len(found) >= 45
    assert [f"{path.relative_to(ROOT)}, {fault}" for path, fault in found if fault] == []


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("log.warning('it fails: %s [state.ignored]', error)", None),
        ("log.error('%s', failure.told, exc_info=error)", None),
        ("for line in error.told.splitlines(): log.error('no: %s', line)", None),
        ("text = 'it fails [program.bug]'; log.exception(text)", None),
        ("log.warning('it fails: %s', error)", "ends in no id"),
        ("log.error('%s', explain(error))", "ends in no id"),
        ("log.error('it fails: %s for now', failure.told)", "ends in no id"),
        ("logger.exception('it fails [program.bag]')", "no entry"),
        ("self_log.critical(f'{error} [program.bug]')", "not to be seen"),
        ("logging.warning('it fails')", "ends in no id"),
        ("line = 'a'; line = 'b [program.bug]'; log.error(line)", "not to be seen"),
        ("log.log(level, 'it fails [program.bug]')", "not to be seen"),
    ],
)
def test_a_line_without_is_found(line: str, wrong: str | None) -> None:
    (fault,) = faults(f"def act():\n    {line}")
    assert fault is None if wrong is None else wrong in (fault or "")
