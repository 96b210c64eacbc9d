"""The dashboard in a real browser: of a real client, and of a client with names that look like markup."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from msgspec import structs
from playwright.async_api import async_playwright
from playwright.sync_api import Page, expect, sync_playwright

from shadowmesh.api.schema import Status
from shadowmesh.dashboard.server import Dashboard
from shadowmesh.testing.mesh import command_path
from shadowmesh.testing.process import Process
from shadowmesh.units import Address
from shadowmesh.web.server import bind_tcp, serve
from tests.unit.fake_client import FakeClient
from tests.unit.test_api import make_status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

    from shadowmesh.testing.mesh import Mesh

pytestmark = pytest.mark.root

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = ["--no-sandbox"]
"""A sandbox of its own is what Chromium refuses to root."""
SHOTS = Path(__file__).parents[2] / "build" / "dashboard"
PATIENCE = 30_000
"""Milliseconds for what takes one or two seconds on a machine that does nothing else."""
TOKEN = "a-token-of-one-run-of-43-characters-xxxxxxxxx"
HOSTILE = '<img src=x onerror="window.owned=1"><script>window.owned=1</script>&lt;b&gt;'
POISONED = ("last_error", "path", "path_reason", "detail", "address", "name", "home_reason", "key_exchange")


@pytest.fixture
def dashboard(duo: Mesh, tmp_path: Path) -> Iterator[tuple[Process, str]]:
    """`shadowmesh-client dashboard` of alice, and the address that it printed."""
    command = [command_path("shadowmesh-client"), "dashboard", "--json"]
    process = Process(
        [*command, "--socket", str(duo.clients["alice"].socket_path)], tmp_path / "dashboard.log"
    )
    try:
        line = process.wait_for_line(r'^\{.*"url".*\}$', 20.0)[0]
        yield process, json.loads(line)["url"]
    finally:
        process.terminate()


@contextlib.contextmanager
def watched(browser: Browser, faults: list[str], **options: Any) -> Iterator[Page]:
    """A page whose errors, and what its policy kept from it, are put into `faults`."""
    with contextlib.closing(browser.new_context(**options)) as context:
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        yield page


def shoot(page: Page, name: str) -> None:
    """A picture for people to look at; it must not be wider than the screen."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name


def inked(page: Page, plot: str) -> int:
    """How many pixels of a plot are not empty."""
    script = """selector => {
        const canvas = document.querySelector(selector + " canvas");
        const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        return data.filter((value, index) => index % 4 === 3 && value).length;
    }"""
    return int(page.evaluate(script, plot))


def test_a_real_client_is_shown_live(duo: Mesh, dashboard: tuple[Process, str]) -> None:
    alice, bob = duo.clients["alice"], duo.clients["bob"]
    process, url = dashboard
    faults: list[str] = []
    expect.set_options(timeout=PATIENCE)
    with (
        sync_playwright() as playwright,
        contextlib.closing(playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)) as browser,
    ):
        with watched(browser, faults, viewport={"width": 1280, "height": 900}, color_scheme="light") as page:
            page.goto(url)
            expect(page.locator("#link")).to_have_text("live")
            assert "#" not in page.url, "the token is not left in the address"
            expect(page.locator("#name")).to_have_text("alice")
            row = page.locator("#peer-table tbody tr", has_text="bob")
            expect(row).to_contain_text("relayed")
            expect(page.get_by_role("button", name=re.compile("^bob: relayed"))).to_be_visible()
            expect(page.locator("#node-facts")).to_contain_text(alice.node_id)
            alice.host.run(["ping", "-c", "30", "-i", "0.05", "-s", "1000", "-q", bob.ipv4])
            plot = page.locator("#rate-plot")
            expect(plot).to_have_attribute("aria-label", re.compile(r"in [1-9].*bit/s, out [1-9]"))
            before = inked(page, "#rate-plot")
            assert before > 500
            expect(page.locator("#rtt-legend")).to_contain_text(re.compile(r"bob [0-9.]+ ms"))
            expect(page.locator("#log-lines")).to_contain_text("bob")
            shoot(page, "light-1280")
            row.get_by_role("button").click()
            expect(page.locator("#peer-card")).to_contain_text(bob.node_id)
            expect(page.locator("#who")).to_have_value(bob.node_id)
            page.locator("#theme").select_option("dark")
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(14, 17, 22)"
            shoot(page, "dark-1280-bob")
        assert faults == []
        for scheme in ("light", "dark"):
            phone: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "has_touch": True}
            with watched(browser, faults, color_scheme=scheme, **phone) as page:
                page.goto(url)
                expect(page.locator("#link")).to_have_text("live")
                expect(page.locator("#rate-plot")).to_have_attribute("aria-label", re.compile("in [0-9]"))
                assert page.locator("html").get_attribute("data-theme") == scheme
                shoot(page, f"{scheme}-360")
        assert faults == []
        with watched(browser, faults) as page:
            page.goto(url[:-1] + "-")
            expect(page.locator("#banner")).to_contain_text("the token of this run")
            page.goto(url)
            page.reload()
            expect(page.locator("#link")).to_have_text("live")
            expect(page.locator("#log-lines")).to_contain_text("bob")
            assert "restarted" not in page.locator("#log-lines").inner_text()
            faults.clear()  # the console names every answer that is not 200
            check_restart(duo, page)
            assert process.running
            began = time.monotonic()
            assert process.terminate(timeout=20.0, number=signal.SIGINT) == 0
            assert time.monotonic() - began < 5.0, "an open page is not waited for"
            expect(page.locator("#banner")).to_contain_text("has shadowmesh-client dashboard ended?")
    assert "Traceback" not in process.output()
    assert len(process.output().splitlines()) == 1, process.output()


def check_restart(duo: Mesh, page: Page) -> None:
    """The page says that the client is gone, and comes back with it."""
    alice = duo.clients["alice"]
    alice.stop()
    expect(page.locator("#link")).to_contain_text("not connected")
    expect(page.locator("#banner")).to_contain_text("no client runs here")
    alice.start()
    alice.wait_peers("bob")
    expect(page.locator("#link")).to_have_text("live")
    expect(page.locator("#banner")).to_be_hidden()
    expect(page.locator("#log-lines")).to_contain_text("the client has restarted")


def hostile_status() -> Status:
    """Markup wherever a text of somebody else could stand."""

    def poison(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: poison(one, name) for name, one in value.items()}
        if isinstance(value, list):
            return [poison(one, key) for one in value]
        return HOSTILE if key in POISONED else value

    document = poison(msgspec.to_builtins(make_status()))
    document["node"]["network"] = {
        "name": HOSTILE, "network_id": "n" * 52, "member": HOSTILE, "groups": [HOSTILE], "serial": 1,
        "expires_in": 5.0, "revocation_list": 1, "clock_behind": 0.0, "warnings": [HOSTILE],
    }  # fmt: skip
    document["drops"] = {HOSTILE: 3}
    rule = {"number": 1, "name": HOSTILE, "line": 1, "direction": "in", "action": "deny", "text": HOSTILE}
    document["firewall"] = {"inbound": "deny", "outbound": "allow", "rules": [rule]}
    document["routes"] = [
        {"to": "10.0.0.0/8", "via": HOSTILE, "metric": 1, "state": "refused", "reason": HOSTILE}
    ]
    return msgspec.convert(document, Status)


PLACES = (
    "#name",
    "#network",
    "#peer-table",
    "#peer-card",
    "#relay-table",
    "#relay-notes",
    "#warnings",
    "#member-facts",
    "#drop-table",
    "#firewall-table",
    "#route-table",
    "#log-lines",
    "#who",
    "#graph title",
)
"""Where texts of others are shown."""


BOXES = """texts => texts.map(text => {
    const box = text.getBoundingClientRect();
    return [box.left, box.top, box.right, box.bottom];
})"""


def crowd() -> Status:
    """Sixty peers."""
    status = make_status()
    peer = status.peers[0]
    many = [
        structs.replace(peer, name=f"workstation-{number:02}", node_id=f"{number:02}" * 26)
        for number in range(60)
    ]
    return structs.replace(status, peers=many)


async def test_names_that_look_like_markup_are_text(tmp_path: Path) -> None:
    line = {"number": 1, "at": 0.0, "level": "error", "text": HOSTILE}
    empty: dict[str, list[object]] = {"at": [], "tx_bytes": [], "rx_bytes": [], "drops": [], "peers": []}
    fake = FakeClient(
        tmp_path / "client.sock",
        {"/v1/status": hostile_status(), "/v1/samples": empty, "/v1/log": {"lines": [line], "last": 1}},
    )
    dashboard = Dashboard(fake.path, TOKEN)
    faults: list[str] = []
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(fake.running())
        listener = stack.enter_context(bind_tcp(Address("127.0.0.1", 0)))
        await stack.enter_async_context(serve(listener, dashboard.app))
        stack.callback(dashboard.end_streams)
        playwright = await stack.enter_async_context(async_playwright())
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        stack.push_async_callback(browser.close)
        page = await browser.new_page()
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        await page.goto(f"http://localhost:{listener.getsockname()[1]}/#{TOKEN}")
        await page.locator("#peer-table button").first.click(timeout=PATIENCE)
        fake.send("log", line | {"number": 2})
        await page.locator("#log-lines li:nth-child(2)").wait_for(timeout=PATIENCE)
        for place in PLACES:
            assert HOSTILE in (await page.locator(place).first.text_content() or ""), place
        assert await page.locator("main img, main script, main b").count() == 0
        assert await page.evaluate("window.owned") is None
        refused = await page.evaluate(
            "() => { try { document.body.innerHTML = 'x'; return false; } catch (error) { return true; } }"
        )
        assert refused, "the policy allows no markup"
        await page.set_viewport_size({"width": 1280, "height": 900})
        fake.send("status", crowd())
        await page.locator("#graph g[role=button]").nth(59).wait_for(state="attached", timeout=PATIENCE)
        boxes = await page.locator("#graph g[role=button] text:not(:empty)").evaluate_all(BOXES)
        assert len(boxes) > 30
        for a, b in itertools.combinations(boxes, 2):
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], "names overlap"
        SHOTS.mkdir(parents=True, exist_ok=True)
        await page.screenshot(path=SHOTS / "crowd-1280.png")
    assert [fault for fault in faults if "TrustedHTML" not in fault] == []
