"""The quick checks of `make audit`: versions are pinned, and no file shows a machine or a registry."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / ".ci" / "audit.py"


@pytest.fixture
def audit(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "audit", module)
    spec.loader.exec_module(module)
    return module


def project(folder: Path, constraints: str) -> None:
    declared = '[build-system]\nrequires = ["setuptools>=80"]\n[project]\ndependencies = ["click>=8"]\n'
    (folder / "pyproject.toml").write_text(
        declared + '[project.optional-dependencies]\ndev = ["pytest>=9"]\n'
    )
    (folder / "constraints.txt").write_text(constraints)


def test_our_versions_are_pinned_and_our_files_name_no_places(audit: ModuleType) -> None:
    for check in (audit.check_constraints, audit.check_places):
        verdict, text = check()
        assert verdict == audit.OK, text


@pytest.mark.parametrize(
    "constraints",
    [
        "click==8.1\nsetuptools==80\n",  # pytest is not pinned
        "click==8.1\npytest==9\n",
        "setuptools==80\npytest==9\n",
        "click==8.1\nsetuptools==80\npytest>=9\n",
        "click @ https://a.example/click.whl\nsetuptools==80\npytest==9\n",
        "--find-links https://a.example\nclick==8.1\nsetuptools==80\npytest==9\n",
    ],
)
def test_loose_versions_and_addresses_fail(
    audit: ModuleType, constraints: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "ROOT", tmp_path)
    project(tmp_path, "click==8.1\nsetuptools==80\npytest==9\n")
    assert audit.check_constraints()[0] == audit.OK
    project(tmp_path, constraints)
    assert audit.check_constraints()[0] == audit.FAILED


@pytest.mark.parametrize("place", ["/home" + "/alice/notes", "/root" + "/notes", "index" + "-url: there"])
def test_a_path_of_a_machine_fails(
    audit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr(audit, "ROOT", tmp_path)
    monkeypatch.setattr(audit, "tracked", lambda: ["notes.md"])
    (tmp_path / "notes.md").write_text("nothing")
    assert audit.check_places()[0] == audit.OK
    (tmp_path / "notes.md").write_text(f"see {place}")
    assert audit.check_places() == (audit.FAILED, "notes.md")


def test_what_could_not_be_checked_is_not_called_good(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        audit, "CHECKS", {"one": lambda: (audit.OK, ""), "two": lambda: (audit.NOT_CHECKED, "")}
    )
    assert audit.main() == 77
    assert "NOT CHECKED" in capsys.readouterr().out
    monkeypatch.setitem(audit.CHECKS, "three", lambda: (audit.FAILED, ""))
    assert audit.main() == 1
