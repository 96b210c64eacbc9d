"""The manual in docs/: its pages hang together, and what it takes from the code is there. Builds nothing."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import click
import pytest

from shadowmesh import __version__
from shadowmesh.api.openapi import document
from shadowmesh.cli.main import client
from shadowmesh.command import ExitCode
from shadowmesh_relay.cli import relay

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "models" not in path.parts)
OF_README = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
DIAGRAM_BYTES = 20_000


def load(name: str) -> ModuleType:
    """A module of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prose(path: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^(`{3,}|:{3,}).*?^\1$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """Of the headings, as GitHub and MyST make them; those that come from the code are not among them."""
    found: Counter[str] = Counter()
    names = set(re.findall(r"^\(([\w-]+)\)=$", path.read_text(), re.MULTILINE))
    for title in re.findall(r"^#{1,4} (.+)$", prose(path), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", re.sub(r"`|\[|\]\([^)]*\)", "", title).lower()).replace(" ", "-")
        names.add(f"{slug}-{found[slug]}" if found[slug] else slug)
        found[slug] += 1
    return names


def tree(page: Path) -> list[Path]:
    """Pages that the toctrees of a page name."""
    blocks = re.findall(r"^```\{toctree\}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    names = [line for block in blocks for line in block.splitlines() if line and not line.startswith(":")]
    return [(page.parent / f"{name}.md").resolve() for name in names]


def test_the_configuration_of_sphinx_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert load("conf").release == __version__


def test_every_page_is_in_one_toctree() -> None:
    named: Counter[Path] = Counter()
    for page in PAGES:
        named.update(tree(page))
    assert named == Counter(page for page in PAGES if page.name != "index.md")


@pytest.mark.parametrize("page", [*PAGES, *OF_README], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    wrong = []
    for link in LINK.findall(prose(page)):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (page.parent / target).resolve() if target else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            wrong.append(link)
    assert wrong == []


def test_links_out_of_the_manual_lead_to_the_page_or_file() -> None:
    links = load("extension").links
    text = "[a](../SECURITY.md) [b](models/RESULT.md) [c](../fuzz/LOG.md) [d](nat.md) [e](schemas)"
    assert links(text) == (
        "[a](reporting.md) [b](path:models/RESULT.md) [c](path:../fuzz/LOG.md) [d](nat.md) e"
    )


@pytest.mark.parametrize(("program", "group"), [("shadowmesh-client", client), ("shadowmesh-relay", relay)])
def test_the_reference_of_commands_has_every_verb_and_option(program: str, group: click.Group) -> None:
    text = load("extension").commands(program)
    context = click.Context(group, info_name=program)
    for name in group.list_commands(context):
        assert re.search(rf"^### {program} {name}\b", text, re.MULTILINE), name
    ping = "| `--until-direct` |" if group is client else "| `--timeout SECONDS` |"
    assert ping in text


def test_the_reference_of_the_api_has_every_request_and_object() -> None:
    found = document()
    requests, objects = (load("extension").openapi(part) for part in ("requests", "objects"))
    for path, methods in found["paths"].items():
        assert all(f"### {method.upper()} {path}\n" in requests for method in methods)
    for name, schema in found["components"]["schemas"].items():
        part = objects.partition(f"### {name}\n")[2].partition("\n### ")[0]
        assert all(f"| `{field}` |" in part for field in schema.get("properties", {}))


def test_a_section_of_the_readme_keeps_its_links() -> None:
    text = load("extension").readme("How fast it is")
    assert "](path:../bench/results/compare.png)" in text
    assert "<!--" not in text


@pytest.mark.parametrize("verb", ["why", "ping"])
def test_help_names_the_code_for_a_path_that_is_not_direct(verb: str) -> None:
    text = load("extension").commands("shadowmesh-client").partition(f"### shadowmesh-client {verb}\n")[2]
    codes = re.findall(r"exit with (\d+)|else with (\d+)", text.partition("\n### ")[0])
    assert [int(one or other) for one, other in codes] == [ExitCode.NOT_DIRECT]


@pytest.mark.parametrize("image", sorted((DOCS / "images").glob("*.svg")), ids=lambda image: image.name)
def test_diagrams_are_small_and_take_nothing_from_elsewhere(image: Path) -> None:
    text = image.read_text()
    assert len(text) < DIAGRAM_BYTES
    assert set(re.findall(r"https?://[^\s\"']+", text)) <= {"http://www.w3.org/2000/svg"}
    assert "<title>" in text
    assert any(image.name in page.read_text() for page in PAGES)
