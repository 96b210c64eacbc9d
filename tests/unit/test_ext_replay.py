"""ext/replay.pyx: boundary cases as a table. Against its slow twin: tests/stateful; proved: docs/models."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shadowmesh._ext.replay import ReplayWindow, Verdict, WindowLayout

W = int(WindowLayout.WINDOW_SIZE)
F, D, O = Verdict.FRESH, Verdict.DUPLICATE, Verdict.TOO_OLD  # noqa: E741
TOP = 2**64 - 1

CASES: dict[str, list[tuple[int, Verdict]]] = {
    "zero is fresh once": [(0, F), (0, D), (1, F), (1, D), (0, D)],
    "reordered": [(9, F), (8, F), (7, F), (7, D), (6, F), (5, F), (4, F), (1, F), (0, F), (0, D)],
    "skipped": [(16, F), (3, F), (16, D), (3, D), (4, F)],
    "last of the window": [(W - 1, F), (0, F), (0, D)],
    "just behind the window": [(W, F), (0, O), (1, F), (1, D)],
    "moves by one": [(W, F), (1, F), (W + 1, F), (1, O), (2, F)],
    "word borders": [(63, F), (64, F), (63, D), (64, D), (128, F), (127, F), (127, D)],
    "a jump of one bitmap forgets nothing wrong": [(5, F), (5 + 8192, F), (5, O), (5 + 8192 - W + 1, F)],
    "a far jump": [(1, F), (10**9, F), (1, O), (10**9 - W, O), (10**9 - W + 1, F), (10**9, D)],
    "jump to a slot that was used": [(100, F), (100 + 8192, F), (100 + 8192 - 64, F), (100 + 2 * 8192, F)],
    "the top": [(TOP, F), (TOP, D), (TOP - W + 1, F), (TOP - W, O), (0, O)],
}


@pytest.mark.parametrize("steps", CASES.values(), ids=CASES.keys())
def test_table(steps: list[tuple[int, Verdict]]) -> None:
    window = ReplayWindow()
    for number, verdict in steps:
        assert window.check(number) is verdict, number
        assert window.accept(number) is verdict, number


def test_every_number_up_and_down() -> None:
    window = ReplayWindow()
    for number in range(0, 3 * W, 2):
        assert window.accept(number) is F
    newest = 3 * W - 2
    for number in range(newest, newest - W, -1):
        assert window.accept(number) is (D if number % 2 == 0 else F)
    assert window.accept(newest - W) is O


def test_check_changes_nothing() -> None:
    window = ReplayWindow()
    assert window.check(5) is F
    assert window.check(5) is F
    assert window.accept(5) is F
    assert window.check(5) is D


@pytest.mark.parametrize("number", [-1, 2**64])
def test_numbers_outside_64_bits(number: int) -> None:
    with pytest.raises(ValueError, match="packet number"):
        ReplayWindow().accept(number)
    with pytest.raises(ValueError, match="packet number"):
        ReplayWindow().check(number)


def test_none_is_no_number() -> None:
    with pytest.raises(TypeError):
        ReplayWindow().accept(None)  # type: ignore[arg-type]


def test_the_layout_is_that_of_the_header() -> None:
    header = (Path(__file__).parents[2] / "ext/window.h").read_text()
    found = {name: int(value) for name, value in re.findall(r"#define SM_WINDOW_(\w+) (\d+)", header)}
    assert found == {"WORDS": WindowLayout.WINDOW_BITS // 64, "SIZE": WindowLayout.WINDOW_SIZE}
