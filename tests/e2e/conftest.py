"""End-to-end tests: root, namespaces, real TAP devices, the installed commands.

Without root they are skipped, except where the environment says that they must run (CI=true or
SHADOWMESH_REQUIRE_E2E=1): then they fail.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shadowmesh.testing.lab import Lab
from shadowmesh.testing.mesh import Mesh

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.chroot import Chroot

HERE = Path(__file__).parent
TEST_TIMEOUT = 100
"""Seconds: the longest test waits 60 s by specification; the project's default is for unit tests."""

_lab_key = pytest.StashKey[list[Lab]]()


def _required() -> bool:
    return os.environ.get("CI", "") == "true" or os.environ.get("SHADOWMESH_REQUIRE_E2E", "") == "1"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "e2e: end to end over real devices; everything in tests/e2e")
    config.stash[_lab_key] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(TEST_TIMEOUT))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") is None or os.geteuid() == 0:
        return
    if _required():
        pytest.fail("needs root, and CI or SHADOWMESH_REQUIRE_E2E forbids to skip", pytrace=False)
    pytest.skip("needs root for network namespaces")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Put state and log tail of every process of the open labs under a failure."""
    report: pytest.TestReport = yield  # type: ignore[assignment]
    if report.failed:
        for lab in item.config.stash[_lab_key]:
            report.sections.append((f"processes of {lab.prefix}", lab.reports()))
    return report  # type: ignore[return-value]


def _open(config: pytest.Config, lab: Lab) -> Iterator[Lab]:
    labs = config.stash[_lab_key]
    try:
        with lab:
            labs.append(lab)
            yield lab
    finally:
        if lab in labs:
            labs.remove(lab)
    lab.check_leaks()


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A lab of its own for one test; fails if the test left anything behind."""
    yield from _open(request.config, Lab())


@pytest.fixture(scope="module")
def module_lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """One lab for a module; `LAB` in the module may hold arguments for it."""
    arguments = getattr(request.module, "LAB", {})
    yield from _open(request.config, Lab(**arguments))


@pytest.fixture(scope="session")
def clean() -> Iterator[Chroot]:
    """A Debian without the package; tests must leave it so."""
    from tests.e2e.chroot import clean_chroot

    with clean_chroot() as chroot:
        yield chroot


@pytest.fixture
def mesh(lab: Lab) -> Mesh:
    """An empty mesh in a lab of its own."""
    return Mesh(lab)


@pytest.fixture(scope="module")
def trio(module_lab: Lab) -> Mesh:
    """alice, bob and carol with sessions between all of them; tests must leave it so."""
    mesh = Mesh(module_lab)
    mesh.relay()
    for name in ("alice", "bob", "carol"):
        mesh.client(name)
    return mesh.start()


@pytest.fixture(scope="module")
def duo(module_lab: Lab) -> Mesh:
    """alice and bob with a session; tests must leave it so."""
    mesh = Mesh(module_lab)
    mesh.relay()
    for name in ("alice", "bob"):
        mesh.client(name)
    return mesh.start()
