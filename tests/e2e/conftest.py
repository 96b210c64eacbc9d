"""End-to-end tests: root, namespaces, real TAP devices, the installed commands.

Where they may not be had, `tests/conftest.py` says what that means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shadowmesh.testing.lab import Lab
from shadowmesh.testing.mesh import Mesh
from tests.e2e.chroot import Chroot, clean_chroot

if TYPE_CHECKING:
    from collections.abc import Iterator

_lab_key = pytest.StashKey[list[Lab]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_lab_key] = []


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
