"""The dashboard's server: who gets in, what is passed on, what browsers are told; and what the page is."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import signal
import tomllib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from shadowmesh.cli.dashboard import announce, forwarding_file
from shadowmesh.cli.main import client
from shadowmesh.command import CommandFailed, ExitCode
from shadowmesh.dashboard import server
from shadowmesh.dashboard.server import HEADERS, MAX_STREAMS, PAGE, Dashboard
from shadowmesh.units import Address
from shadowmesh.web.server import bind_tcp, serve, serve_unix
from tests.unit.fake_client import FakeClient
from tests.unit.test_api import make_status

TOKEN = "a-token-of-one-run-of-43-characters-xxxxxxxxx"
UPLOT = {
    "uplot.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uplot.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    "uplot-license.txt": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
}
"""SHA-256 of what npm has as uplot 1.6.32: dist/uPlot.iife.min.js, dist/uPlot.min.css, LICENSE. The archive's
own is sha512-KIMVnG68zvu5XXUbC4LQEPnhwOxBuLyW1AHtpm6IKTXImkbLgkMy+jabjLgSLMasNuGGzQm/ep3tOkyTxpiQIw==."""


class Answer:
    """Status, headers in lower case, body."""

    def __init__(self, head: bytes, body: bytes) -> None:
        line, *rest = head.decode().split("\r\n")
        self.status = int(line.split()[1])
        self.headers = {
            name.lower(): value for name, _, value in (one.partition(": ") for one in rest if one)
        }
        self.body = body

    def json(self) -> dict[str, str]:
        found: dict[str, str] = json.loads(self.body)
        return found


class Browser:
    """Speaks to the dashboard; `headers` go with every request."""

    def __init__(self, where: tuple[str, int]) -> None:
        self.where = where
        self.headers = {"Host": f"127.0.0.1:{where[1]}"}

    async def begin(self, method: str, target: str, **headers: str) -> tuple[asyncio.StreamReader, Answer]:
        """Ask, and read the head of the answer; `X_Y` in `headers` means X-Y, an empty value none."""
        reader, writer = await asyncio.open_connection(*self.where)
        self._writer = writer
        wanted = self.headers | {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"{method} {target} HTTP/1.1", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in wanted.items() if value]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        head = await reader.readuntil(b"\r\n\r\n")
        return reader, Answer(head[:-4], b"")

    async def ask(self, method: str, target: str, **headers: str) -> Answer:
        reader, answer = await self.begin(method, target, **headers)
        answer.body = await reader.read()
        self.leave()
        return answer

    async def get(self, target: str, **headers: str) -> Answer:
        return await self.ask("GET", target, **headers)

    def leave(self) -> None:
        self._writer.transport.abort()

    async def enter(self) -> Answer:
        """The token against cookie and key."""
        answer = await self.ask("POST", "/session", Authorization=f"Bearer {TOKEN}")
        self.headers["Cookie"] = answer.headers["set-cookie"].partition(";")[0]
        self.headers["X-ShadowMesh-Key"] = answer.json()["key"]
        return answer


class Place:
    """A dashboard, its client and a browser, which has not entered."""

    def __init__(self, fake: FakeClient, dashboard: Dashboard, browser: Browser) -> None:
        self.fake, self.dashboard, self.browser = fake, dashboard, browser


@contextlib.asynccontextmanager
async def serving(folder: Path, with_client: bool = True) -> AsyncIterator[Place]:
    documents = {"/v1/status": make_status(), "/v1/samples": {"at": []}, "/v1/log": {"lines": []}}
    fake = FakeClient(folder / "client.sock", documents)
    dashboard = Dashboard(fake.path, TOKEN)
    async with contextlib.AsyncExitStack() as stack:
        if with_client:
            await stack.enter_async_context(fake.running())
        listener = stack.enter_context(bind_tcp(Address("127.0.0.1", 0)))
        await stack.enter_async_context(serve(listener, dashboard.app))
        stack.callback(dashboard.end_streams)
        yield Place(fake, dashboard, Browser(listener.getsockname()[:2]))


async def test_the_token_opens_and_nothing_else_does(tmp_path: Path) -> None:
    async with serving(tmp_path) as place:
        browser = place.browser
        assert (await browser.get("/v1/status")).status == 401
        for wrong in (
            "",
            f"Bearer {TOKEN}x",
            f"Bearer {TOKEN[:-1]}",
            "Bearer ",
            f"Basic {TOKEN}",
            "Bearer \xff",
        ):
            answer = await browser.ask("POST", "/session", Authorization=wrong)
            assert (answer.status, "set-cookie" in answer.headers) == (401, False), wrong
        answer = await browser.enter()
        assert answer.status == 200
        assert {"HttpOnly", "SameSite=strict", "Path=/v1/"} <= set(answer.headers["set-cookie"].split("; "))
        assert TOKEN not in answer.headers["set-cookie"]
        assert (await browser.get("/v1/status")).body == (await browser.get("/v1/status")).body != b""
        assert json.loads((await browser.get("/v1/status")).body)["node"]["name"] == "alice"
        assert place.fake.asked == ["/v1/status"] * 3, "who may not ask reaches no client"


async def test_cookie_and_key_are_needed_both(tmp_path: Path) -> None:
    """Another port of this machine gets the cookie, since cookies know no ports."""
    async with serving(tmp_path) as place:
        browser = place.browser
        await browser.enter()
        for path in ("/v1/status", "/v1/events"):
            assert (await browser.get(path, X_ShadowMesh_Key="")).status == 401
            assert (await browser.get(path, X_ShadowMesh_Key="wrong")).status == 401
            assert (await browser.get(path, Cookie="")).status == 401
            assert (await browser.get(path, Cookie=browser.headers["Cookie"] + "x")).status == 401
        assert place.fake.asked == []


@pytest.mark.parametrize(
    "host",
    ["evil.example:80", "127.0.0.1.evil.example", "192.0.2.1", "localhost.", "", "127.0.0.1:x", "[::2]"],
)
async def test_another_host_gets_nothing(tmp_path: Path, host: str) -> None:
    async with serving(tmp_path) as place:
        await place.browser.enter()
        for path in ("/", "/app.js", "/v1/status", "/v1/events"):
            assert (await place.browser.get(path, Host=host)).status in (400, 403)
        assert (
            await place.browser.ask("POST", "/session", Host=host, Authorization=f"Bearer {TOKEN}")
        ).status != 200


@pytest.mark.parametrize("host", ["localhost", "localhost:8484", "[::1]:8484", "127.0.0.1:1"])
async def test_this_machine_has_several_names_and_ssh_other_ports(tmp_path: Path, host: str) -> None:
    async with serving(tmp_path) as place:
        await place.browser.enter()
        assert (await place.browser.get("/v1/status", Host=host, Origin=f"http://{host}")).status == 200


@pytest.mark.parametrize(
    "header",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "none"},
    ],
)
async def test_another_page_gets_nothing(tmp_path: Path, header: dict[str, str]) -> None:
    async with serving(tmp_path) as place:
        await place.browser.enter()
        for path in ("/v1/status", "/v1/events"):
            answer = await place.browser.get(path, **header)
            assert answer.status == 403
            assert answer.json()["error"] == "forbidden"
        answer = await place.browser.ask("POST", "/session", Authorization=f"Bearer {TOKEN}", **header)
        assert answer.status == 403
        assert (await place.browser.get("/v1/status", Sec_Fetch_Site="same-origin")).status == 200


async def test_only_a_list_of_documents_is_passed_on_and_only_to_get(tmp_path: Path) -> None:
    async with serving(tmp_path) as place:
        browser = place.browser
        await browser.enter()
        for path in ("/v1/status", "/v1/samples", "/v1/log"):
            assert (await browser.get(path)).status == 200
        before = list(place.fake.asked)
        for path in (
            "/v1/invitations",
            "/v1/down",
            "/v1/openapi.json",
            "/v1",
            "/v1/status/",
            "/server.py",
            "/../app.js",
        ):
            assert (await browser.get(path)).status == 404, path
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            for path in ("/v1/status", "/v1/down", "/v1/events", "/"):
                assert (await browser.ask(method, path)).status in (404, 405), (method, path)
        assert (await browser.get("/session")).status == 405
        assert place.fake.asked == before


async def test_what_is_asked_with_a_query_is_asked_without(tmp_path: Path) -> None:
    """The list holds what reaches the client, to the letter."""
    async with serving(tmp_path) as place:
        await place.browser.enter()
        assert (await place.browser.get("/v1/log?lines=1")).status == 200
        assert place.fake.asked == ["/v1/log"]


async def test_every_answer_tells_the_browser_what_it_may_do(tmp_path: Path) -> None:
    async with serving(tmp_path) as place:
        browser = place.browser
        answers = [await browser.get(path) for path in ("/", "/app.js", "/nothing", "/v1/status")]
        answers.append(await browser.get("/", Host="evil.example"))
        answers.append(await browser.enter())
        answers.append(await browser.get("/v1/status"))
        _, answer = await browser.begin("GET", "/v1/events")
        browser.leave()
        for one in [*answers, answer]:
            assert {name: one.headers[name.lower()] for name in HEADERS} == HEADERS
            assert "server" not in one.headers
    policy = dict(part.strip().partition(" ")[::2] for part in HEADERS["Content-Security-Policy"].split(";"))
    assert (
        policy["default-src"]
        == policy["frame-ancestors"]
        == policy["base-uri"]
        == policy["form-action"]
        == "'none'"
    )
    assert {policy["script-src"], policy["style-src"], policy["connect-src"]} == {"'self'"}
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


async def next_line(reader: asyncio.StreamReader, wanted: bytes) -> bytes:
    async with asyncio.timeout(15.0):
        while wanted not in (line := await reader.readline()):
            assert line, "the stream has ended"
    return line


async def test_events_are_passed_on_as_they_come(tmp_path: Path) -> None:
    async with serving(tmp_path) as place:
        await place.browser.enter()
        reader, answer = await place.browser.begin("GET", "/v1/events")
        assert answer.headers["content-type"].startswith("text/event-stream")
        await next_line(reader, b": welcome")
        for number in (1, 2):
            place.fake.send("sample", {"at": number})
            assert b'{"at":%d}' % number in await next_line(reader, b"data:")
        place.browser.leave()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(15.0):
        while not condition():  # noqa: ASYNC110 - what is waited for happens at the other end of a connection
            await asyncio.sleep(0.01)


async def test_streams_are_bounded_and_one_that_is_left_makes_room(tmp_path: Path) -> None:
    async with serving(tmp_path) as place:
        await place.browser.enter()
        pages = []
        for _ in range(MAX_STREAMS):
            page = Browser(place.browser.where)
            page.headers = dict(place.browser.headers)
            reader, answer = await page.begin("GET", "/v1/events")
            assert answer.status == 200
            await next_line(reader, b": welcome")
            pages.append(page)
        answer = await place.browser.get("/v1/events")
        assert (answer.status, answer.json()["error"]) == (503, "busy")
        assert (await place.browser.get("/v1/status")).status == 200
        pages.pop().leave()
        await until(lambda: len(place.fake.streams) == MAX_STREAMS - 1)
        _, answer = await place.browser.begin("GET", "/v1/events")
        assert answer.status == 200
        for page in [*pages, place.browser]:
            page.leave()
        await until(lambda: not place.fake.streams)


async def test_a_client_that_is_not_there_or_goes_is_told_in_words(tmp_path: Path) -> None:
    async with serving(tmp_path, with_client=False) as place:
        browser = place.browser
        await browser.enter()
        for path in ("/v1/status", "/v1/events"):
            answer = await browser.get(path)
            assert answer.status == 502
            assert answer.json()["message"] == (
                f"no client runs here: there is no socket {place.fake.path} [client.not-running]"
            )
        async with place.fake.running():
            assert (await browser.get("/v1/status")).status == 200
            reader, _ = await browser.begin("GET", "/v1/events")
            await next_line(reader, b": welcome")
        async with asyncio.timeout(15.0):
            assert (await reader.read()).endswith(b"0\r\n\r\n"), "the stream ends well with the client"
        browser.leave()
        assert (await browser.get("/v1/events")).status == 502, "its place is free again"


async def test_what_answers_without_end_or_in_no_http_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_ANSWER", 100)
    async with serving(tmp_path) as place:
        await place.browser.enter()
        answer = await place.browser.get("/v1/status")
        assert (answer.status, answer.json()["error"]) == (502, "failed")
        assert (await place.browser.get("/v1/samples")).status == 200

    async def babble(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")
        writer.close()

    async with serving(tmp_path, with_client=False) as place:
        babbler = await asyncio.start_unix_server(babble, place.fake.path)
        await place.browser.enter()
        answer = await place.browser.get("/v1/status")
        assert (answer.status, answer.json()["error"]) == (502, "failed")
        babbler.close()
        await babbler.wait_closed()


async def test_it_ends_at_once_whoever_listens(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And so does a stream whose client has crashed: for the page it ends well, and the page asks why."""
    async with serving(tmp_path) as place:
        await place.browser.enter()
        reader, _ = await place.browser.begin("GET", "/v1/events")
        await next_line(reader, b": welcome")
        place.dashboard.end_streams()
        async with asyncio.timeout(15.0):
            assert (await reader.read()).endswith(b"0\r\n\r\n")
        place.browser.leave()
    assert caplog.text == ""


async def test_a_unix_socket_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "dashboard.sock"
    async with serve_unix(path, Dashboard(tmp_path / "none", TOKEN).app):
        assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["127.0.0.1", "dashboard.sock"])
async def test_it_runs_until_it_is_told_to_end(tmp_path: Path, name: str) -> None:
    where = tmp_path / name if name.endswith("sock") else Address(name, 0)
    told: list[Address | Path] = []

    def ready(found: Address | Path) -> None:
        told.append(found)
        os.kill(os.getpid(), signal.SIGINT)

    await server.run(tmp_path / "none", where, TOKEN, ready)
    assert isinstance(told[0], Path) or told[0].port, "the port that was free"
    assert os.listdir(tmp_path) == [], "no socket is left"


def test_what_is_printed_opens_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    announce(Address("::1", 8484), TOKEN, as_json=False)
    assert capsys.readouterr().out.splitlines()[0] == f"http://[::1]:8484/#{TOKEN}"
    announce(Path("/run/x.sock"), TOKEN, as_json=False)
    assert "ssh -L 8484:/run/x.sock" in capsys.readouterr().out
    announce(Address("127.0.0.1", 8484), TOKEN, as_json=True)
    url = f"http://127.0.0.1:8484/#{TOKEN}"
    said = {"schema": "shadowmesh.dashboard/1", "url": url, "listen": "127.0.0.1:8484"}
    assert json.loads(capsys.readouterr().out) == said


def test_other_users_can_read_the_arguments_of_a_browser_but_not_this_file() -> None:
    with forwarding_file("http://127.0.0.1:1/#token") as path:
        assert path.stat().st_mode & 0o777 == 0o600
        assert "url=http://127.0.0.1:1/#token" in path.read_text()
    assert not path.exists()


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("0.0.0.0", "ssh -L"),
        ("::", "ssh -L"),
        ("192.0.2.1", "ssh -L"),
        ("example.net", "no address"),
        ("x.sock", "no address"),
    ],
)
def test_others_could_reach_another_address(where: str, said: str) -> None:
    result = CliRunner().invoke(client, ["dashboard", "--listen", where])
    assert result.exit_code == ExitCode.USAGE
    assert said in result.output


def test_a_browser_opens_no_unix_socket(tmp_path: Path) -> None:
    for option in (["--open"], ["--port", "8484"]):
        result = CliRunner().invoke(client, ["dashboard", "--listen", str(tmp_path / "x.sock"), *option])
        assert result.exit_code == ExitCode.USAGE
        assert "are for TCP" in result.output


def test_without_a_client_there_is_nothing_to_show(tmp_path: Path) -> None:
    result = CliRunner().invoke(client, ["dashboard", "--socket", str(tmp_path / "none")])
    assert isinstance(result.exception, CommandFailed)
    assert result.exception.code == ExitCode.NOT_RUNNING


def test_the_page_is_part_of_the_package() -> None:
    settings = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert settings["package-data"]["shadowmesh.dashboard"] == ["page/*"]


def test_the_plots_are_by_what_npm_has() -> None:
    assert {name: hashlib.sha256((PAGE / name).read_bytes()).hexdigest() for name in UPLOT} == UPLOT


def own_files() -> list[Path]:
    return [path for path in PAGE.iterdir() if path.name not in UPLOT]


def test_the_page_is_small_and_asks_nobody_else() -> None:
    assert sum(path.stat().st_size for path in own_files()) < 100_000
    for path in own_files():
        text = path.read_text()
        links = re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]+", text)
        assert set(links) <= {"http://www.w3.org"}, f"{path.name}: only the name space of SVG"


def test_nothing_becomes_markup() -> None:
    """A browser that knows trusted types refuses it; this is for the others."""
    ways = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|DOMParser|srcdoc"
    )
    for path in own_files():
        assert not ways.search(path.read_text()), path.name
    page = (PAGE / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", page)
    assert re.findall(r"<script (?![^>]*src=)", page) == []


def test_every_file_of_the_page_is_served_and_named() -> None:
    named = set(re.findall(r'(?:src|href)="([a-z.-]+)"', (PAGE / "index.html").read_text()))
    for path in PAGE.glob("*.js"):
        named |= set(re.findall(r'from "\./([a-z.]+)"', path.read_text()))
    assert {path.name for path in PAGE.iterdir()} == named | {"index.html", "uplot-license.txt"}


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [":root {", ':root[data-theme="dark"] {'])
def test_everything_can_be_read_in_both_schemes(scheme: str) -> None:
    """4.5:1, the level AA of WCAG 2.2, section 1.4.3."""
    block = (PAGE / "style.css").read_text().partition(scheme)[2].partition("}")[0]
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", block))
    for ink in ("text", "muted", "in", "out", "good", "warn", "bad", "relay", "accent"):
        for paper in ("card", "back", "raised"):
            assert contrast(colours[ink], colours[paper]) >= 4.5, (ink, paper)
    for paper in ("good-back", "warn-back", "bad-back", "relay-back", "idle-back"):
        assert contrast(colours["text"], colours[paper]) >= 4.5, paper
