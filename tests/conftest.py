"""What every test gets: a check that it left no descriptor and no thread, and the rule for root tests."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes on a busy machine says nothing about the code.  No chance decides `make test`: it
# has the same examples every time.  `make stateful` looks for new ones.
settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile(
    "long", deadline=None, max_examples=10_000, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

E2E = Path(__file__).parent / "e2e"
LONGEST = "test_chaos.py"
"""Begins first among the end-to-end tests: it takes two minutes, while others run beside it."""
RERUN_TEXT = 6000
"""Characters of what is told of a failure that did not come again."""
E2E_TIMEOUT = 120
"""Seconds for one end-to-end test, which starts processes and waits for real clocks."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in tests/e2e needs root and more time; it runs last, when the quick tests have passed."""
    for item in items:
        if item.path.is_relative_to(E2E):
            item.add_marker(pytest.mark.root)
            if not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(E2E_TIMEOUT))
    items.sort(key=lambda item: (item.path.is_relative_to(E2E), item.path.name != LONGEST))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Why a test that was run again had failed: whoever sees that mends the test, or what it found."""
    for report in terminalreporter.stats.get("rerun", []):
        terminalreporter.section(f"run again: {report.nodeid}")
        terminalreporter.write_line(report.longreprtext[:RERUN_TEXT])


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs root where there is none, except where the caller insists that it runs."""
    if not item.get_closest_marker("root"):
        return
    missing = _missing_for_root_tests()
    if missing and root_tests_are_required():
        pytest.fail(f"must run here (CI or SHADOWMESH_REQUIRE_E2E is set), but {missing}", pytrace=False)
    if missing:
        pytest.skip(missing)


def _missing_for_root_tests() -> str:
    if os.geteuid() != 0:
        return "needs root: run `sudo make test`"
    if not os.path.exists("/dev/net/tun"):
        return "needs /dev/net/tun: run `modprobe tun`"
    return ""


def root_tests_are_required() -> bool:
    """Whether what can't run here is a failure."""
    return os.environ.get("CI") == "true" or os.environ.get("SHADOWMESH_REQUIRE_E2E") == "1"


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fail a test that leaves descriptors or threads behind."""
    fds, threads = _open_fds(), set(threading.enumerate())
    yield
    # A second look only where the first one found something: collected garbage closes files, and
    # a thread that was just told to end may still be doing so.
    for attempt in range(20):
        left = _left_over(fds, threads)
        if not left:
            return
        if attempt == 0:
            gc.collect()
        time.sleep(0.01)
    pytest.fail(f"left behind: {', '.join(left)}", pytrace=False)


def _left_over(fds: dict[int, str], threads: set[threading.Thread]) -> list[str]:
    now = _open_fds()
    new_fds = [f"fd {fd} -> {target}" for fd, target in now.items() if fds.get(fd) != target]
    return new_fds + [f"thread {thread.name}" for thread in threading.enumerate() if thread not in threads]


def _open_fds() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the descriptor of this very listing
            continue
    return found
