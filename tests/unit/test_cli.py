"""Both commands as a person meets them: texts, tables, JSON and exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from shadowmesh import __version__
from shadowmesh.api.client import ApiClient, ApiFailed, NoReply, NotRunning, UnknownPeer
from shadowmesh.api.schema import (
    CarrierStatus,
    FirewallRule,
    FirewallStatus,
    NatStatus,
    Netcheck,
    NetworkStatus,
    NodeStatus,
    PathStatus,
    PeerStatus,
    PingReply,
    RelayCheck,
    RelayStatus,
    ReloadReply,
    RevocationsReply,
    Side,
    Status,
    TriedAddress,
    WhyReply,
)
from shadowmesh.cli.main import main as client
from shadowmesh.cli.output import coloured, duration, size, table
from shadowmesh.cli.replies import Change, CheckReply, CountersReply, GetReply, PeersReply, SetReply, Setting
from shadowmesh.cli.status import render
from shadowmesh.command import MEANINGS, ExitCode
from shadowmesh.crypto import identity as identities
from shadowmesh.crypto.identity import node_id_text
from shadowmesh_relay.cli import main as relay
from tests.unit.test_api import make_status, make_story

ROOT = Path(__file__).parents[2]
STRUCTS = [Status, NodeStatus, NatStatus, RelayStatus, PeerStatus, PathStatus, PingReply]
STRUCTS += [Netcheck, RelayCheck, WhyReply, Side, TriedAddress, NetworkStatus, RevocationsReply]
STRUCTS += [
    FirewallStatus,
    FirewallRule,
    ReloadReply,
    CheckReply,
    PeersReply,
    GetReply,
    Setting,
    SetReply,
    Change,
]
Command = Callable[[list[str]], int]
VERBS: dict[Command, list[str]] = {
    client: [
        "init",
        "up",
        "down",
        "status",
        "peers",
        "ping",
        "why",
        "logs",
        "top",
        "netcheck",
        "doctor",
        "bugreport",
        "dashboard",
        "join",
        "invite",
        "network",
        "firewall",
        "get",
        "set",
        "reload",
        "id",
        "version",
        "completion",
    ],
    relay: ["init", "serve", "status", "drain", "reload", "id", "version", "completion"],
}


@pytest.mark.parametrize("command", [client, relay])
def test_every_help_page_has_examples_and_a_summary_that_fits(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["--help"]) == 0
    top = capsys.readouterr().out
    assert "..." not in top.replace("[ARGS]...", "")
    commands = top.partition("  --help ")[2].partition("Examples:")[0]
    listed = re.findall(r"^  ([a-z]+)  ", commands, re.MULTILINE)
    assert sorted(listed) == sorted(VERBS[command])
    for verb in VERBS[command]:
        assert command([verb, "--help"]) == 0
        page = capsys.readouterr().out
        assert "Examples:" in page
        assert f" {verb}" in page.partition("Examples:")[2]
        assert "sudo" not in page, "the first page says once that root runs them"


@pytest.mark.parametrize("command", [client, relay])
def test_versions(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["--version"]) == 0
    assert capsys.readouterr().out.endswith(f" {__version__}\n")
    assert command(["version"]) == 0
    assert f" {__version__} (session protocol 1;" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "arguments", "code", "expected"),
    [
        (
            client,
            ["staus"],
            2,
            "No such command 'staus'. Did you mean 'status'? (see 'shadowmesh-client --help')",
        ),
        (relay, ["srve"], 2, "Did you mean 'serve'? (see 'shadowmesh-relay --help')"),
        (client, ["up"], 2, "Missing option '-c' / '--config' (see 'shadowmesh-client up --help')"),
        (client, ["status", "--jsn"], 2, "--json"),
        (client, ["ping", "bob", "-c", "0"], 2, "(see 'shadowmesh-client ping --help')"),
        (client, ["init", "--name", "Alice!"], 2, "'Alice!' is not a name"),
        (client, ["up", "-c", "/absent.yaml"], 3, "/absent.yaml: can't be read: No such file or directory"),
        (
            client,
            ["status", "--socket", "/absent"],
            4,
            "no client runs here: there is no socket /absent [client.not-running]\n",
        ),
        (client, ["down", "--socket", "/absent"], 4, "there is no socket /absent [client.not-running]\n"),
        (client, ["ping", "-c", "x.yaml"], 2, "'x.yaml' is not a number; here -c is the count, the file is"),
        (client, ["ping", "bob", "--socket", "/absent"], 4, "no client runs here"),
        (client, ["id", "--socket", "/absent"], 4, "no client runs here"),
        (client, ["id", "--state-dir", "/absent"], 3, "there is no identity in /absent"),
        (relay, ["id", "--state-dir", "/absent"], 3, "there is no identity in /absent"),
        (relay, ["serve", "-c", "/absent.yaml"], 3, "/absent.yaml: can't be read"),
    ],
)
def test_errors_are_one_line_on_stderr(
    command: Command,
    arguments: list[str],
    code: int,
    expected: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("shadowmesh-")
    assert err.count("\n") == 1
    assert expected in err


def test_no_verb_at_all_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert client([]) == ExitCode.USAGE
    assert "Everyday:" in capsys.readouterr().err


@pytest.mark.parametrize("command", [client, relay])
def test_init_is_done_once(command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "state")
    assert command(["init", "--name", "alice", "--state-dir", folder]) == 0
    text = capsys.readouterr().out
    assert command(["init", "--name", "other", "--state-dir", folder]) == 0
    again = capsys.readouterr().out
    assert f"The identity of alice is in {folder} already, and was left as it is.\nNodeID: " in again
    assert "Next:" not in again
    assert command(["init", "--name", "other", "--state-dir", folder, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    expected = {"schema": "shadowmesh.identity/1", "node_id": shown["node_id"], "name": "alice"}
    assert shown == {**expected, "state_dir": folder}
    assert f"NodeID: {shown['node_id']}\n" in text
    assert "Next:" in text
    assert command(["id", "--state-dir", folder]) == 0
    assert capsys.readouterr().out == shown["node_id"] + "\n"
    assert command(["id", "--state-dir", folder, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == expected


def test_check_says_what_is_valid(capsys: pytest.CaptureFixture[str]) -> None:
    assert client(["up", "--check", "-c", str(ROOT / "configs/client.yaml")]) == 0
    assert capsys.readouterr().out == (
        f"{ROOT}/configs/client.yaml is valid\n"
        "alice on smesh0 (10.77.0.1/24, fd77::1/64), MTU auto, 1 relay, 1 peer\n"
    )
    assert relay(["serve", "--check", "-c", str(ROOT / "configs/relay.yaml")]) == 0
    assert capsys.readouterr().out == (
        f"{ROOT}/configs/relay.yaml is valid\nrelay1 on UDP [::]:4433, admits 3 members\n"
    )


def test_check_prints_each_mistake_on_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "client.yaml"
    path.write_text("node: {name: A}\nlisten: {port: x}\n")
    assert client(["up", "--check", "-c", str(path)]) == ExitCode.REFUSED
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[:3] for line in lines] == [
        ["shadowmesh-client", f"{path}:1", "node.name"],
        ["shadowmesh-client", f"{path}:2", "listen.port"],
    ]


def test_up_without_the_right_says_so_before_anything_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_: "CapPrm:\tffff\nCapEff:\t0000000000000400\n")
    assert client(["up", "-c", str(ROOT / "configs/client.yaml")]) == ExitCode.FAILED
    assert "needs root (CAP_NET_ADMIN); run sudo shadowmesh-client up -c" in capsys.readouterr().err


def test_check_looks_at_the_identity_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = identities.create(tmp_path / "state", "bertha")
    text = (ROOT / "configs/client.yaml").read_text()
    text = text.replace("node:\n", f"node:\n  state_dir: {tmp_path}/state\n").replace(
        "10.77.0.2", "10.78.0.2"
    )
    path = tmp_path / "client.yaml"
    path.write_text(text)
    assert client(["up", "--check", "-c", str(path)]) == 0
    assert [line.partition("client.yaml: ")[2] for line in capsys.readouterr().err.splitlines()] == [
        f"node.name: is alice, but the identity in {tmp_path}/state was made for bertha; "
        "is it the right one? [config.doubtful]",
        "peers[0].addresses: 10.78.0.2 is in no network of interface.addresses, "
        "so it needs a route of its own to be reached [config.doubtful]",
    ]
    path.write_text(text.replace("bobexample".ljust(52, "a"), node_id_text(own.node_id)))
    assert client(["up", "--check", "-c", str(path)]) == ExitCode.REFUSED
    assert f"{path}: peers[0].id: is this machine's own NodeID" in capsys.readouterr().err


def test_what_nobody_foresaw_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_client: ApiClient) -> bytes:
        raise KeyError("two\nlines")

    monkeypatch.setattr(ApiClient, "status_json", fail)
    assert client(["status"]) == ExitCode.FAILED
    err = capsys.readouterr().err
    assert err.startswith("shadowmesh-client: internal error: KeyError: ")
    assert err.count("\n") == 1
    assert "SHADOWMESH_DEBUG=1" in err
    monkeypatch.setenv("SHADOWMESH_DEBUG", "1")
    assert client(["status"]) == ExitCode.FAILED
    assert "in fail\n" in capsys.readouterr().err


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that answers without a socket: bob replies, carol does not."""

    def ping(_client: ApiClient, peer: str, _timeout: float) -> PingReply:
        if peer == "carol":
            raise NoReply("no reply within 2 s")
        if peer == "eve":
            raise UnknownPeer("there is no peer 'eve' in the configuration")
        return PingReply(peer="bob", node_id="b" * 52, path="relay 192.0.2.1:4433", rtt_ms=1.94)

    monkeypatch.setattr(ApiClient, "why_json", lambda *_: msgspec.json.encode(make_story()))
    monkeypatch.setattr(ApiClient, "status_json", lambda _: msgspec.json.encode(make_status()))
    monkeypatch.setattr(ApiClient, "ping", ping)
    monkeypatch.setattr(ApiClient, "down", lambda *_: None)


EXPECTED_STATUS = """\
alice (aaaaaaaaaa…), ShadowMesh 0.1.0, up 1 h 2 min, AEAD by OpenSSL
interface smesh0, 02:00:00:00:00:01, MTU 1380, 10.77.0.1/24
listening on UDP [::]:40000

PEER   NODEID      ADDRESSES           STATE      PATH                     RTT      SENT  RECEIVED   HANDSHAKE  \
EPOCH  CIPHER             KEY EXCHANGE
bob    bbbbbbbbbb  10.77.0.2, fd77::2  connected  relay 192.0.2.1:4433  1.9 ms  1.50 KiB      10 B  1 min 15 s  \
    0  ChaCha20-Poly1305  X25519+ML-KEM-1024
carol  cccccccccc  10.77.0.3           absent     -                          -       0 B       0 B           -  \
    -  -                  -

PEER  PATH                  STATE      RTT  JITTER  LOSS  BUDGET
bob   relay 192.0.2.1:4433  in use  1.9 ms  0.2 ms    4%    1452

RELAY                NODEID      STATE         RTT  LOSS  LOAD  SEES US AT
192.0.2.1:4433       rrrrrrrrrr  connected  0.4 ms    3%   12%  -
relay.example.net:1  ssssssssss  resolving       -     -     -  -
  relay.example.net:1: no name
  192.0.2.1:4433 is home: the only one that answers

DROPPED   PACKETS
replayed        3
"""  # noqa: E501


@pytest.mark.usefixtures("running")
def test_status_for_people_and_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert client(["status"]) == 0
    assert capsys.readouterr().out == EXPECTED_STATUS
    assert client(["status", "--json"]) == 0
    assert msgspec.json.decode(capsys.readouterr().out, type=Status) == make_status()


def test_a_relay_leg_over_tcp_is_shown() -> None:
    status = make_status()
    carrier = CarrierStatus(address="relay.test:443")
    shown = "\n".join(render(with_carrier(status, carrier, None)))
    assert "connecting to relay.test:443 over TCP" in shown
    carrier = CarrierStatus(address="relay.test:443", tls="TLSv1.3", cipher="x", key_exchange="classical")
    shown = "\n".join(render(with_carrier(status, carrier, "tcp")))
    assert "connected over TCP" in shown
    assert "WebSocket to relay.test:443, TLSv1.3, key exchange classical" in shown


def with_carrier(status: Status, carrier: CarrierStatus, transport: str | None) -> Status:
    replace = msgspec.structs.replace
    first = replace(status.relays[0], carrier=carrier, transport=transport)
    return replace(status, relays=[first, *status.relays[1:]])


def test_a_status_without_peers_says_so() -> None:
    status = msgspec.structs.replace(make_status(), peers=[])
    assert "No peers are configured." in render(status)
    network = NetworkStatus(
        name="home",
        network_id="b" * 52,
        member="alice",
        groups=[],
        serial=1,
        expires_in=1e6,
        revocation_list=0,
        clock_behind=0.0,
    )
    node = msgspec.structs.replace(status.node, network=network)
    lines = render(msgspec.structs.replace(status, node=node))
    assert any(line.startswith("No other member of home is known yet") for line in lines)


@pytest.mark.usefixtures("running")
def test_ping_names_the_path(capsys: pytest.CaptureFixture[str]) -> None:
    assert client(["ping", "bob", "-c", "2", "-i", "0"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "reply from bob (bbbbbbbbbb…) via relay 192.0.2.1:4433: 1.9 ms",
        "reply from bob (bbbbbbbbbb…) via relay 192.0.2.1:4433: 1.9 ms",
        "2 sent, 2 answered; fastest 1.9 ms, median 1.9 ms, slowest 1.9 ms",
    ]


@pytest.mark.usefixtures("running")
def test_ping_until_direct(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["ping", "bob", "--until-direct", "-c", "5", "-i", "0"]
    assert client(arguments) == ExitCode.NOT_DIRECT
    assert "5 sent, 5 answered" in capsys.readouterr().out
    paths = iter(["relay 192.0.2.1:4433", "direct 198.51.100.7:5000"])

    def ping(_client: ApiClient, _peer: str, _timeout: float) -> PingReply:
        path = next(paths)
        direct = path.startswith("direct")
        return PingReply(peer="bob", node_id="b" * 52, path=path, rtt_ms=1.0, direct=direct)

    monkeypatch.setattr(ApiClient, "ping", ping)
    assert client(arguments) == 0
    assert "2 sent, 2 answered" in capsys.readouterr().out


@pytest.mark.usefixtures("running")
def test_why_for_people_and_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert client(["why", "bob"]) == ExitCode.NOT_DIRECT
    assert capsys.readouterr().out.splitlines() == [
        "bob (bbbbbbbbbb…)",
        "from here: relay 192.0.2.1:4433 (it is the first that works)",
        "  ADDRESS            STATE   DETAIL",
        "  198.51.100.7:5000  failed  no answer",
        "",
        "from bob, as it last said: relay 192.0.2.1:4433 (it is the first that works)",
        "  NAT: mapping unknown",
        "",
        "- none of 1 addresses of bob has answered us [path.unanswered]",
        "  what to do: let UDP through",
    ]
    assert client(["why", "bob", "--json"]) == ExitCode.NOT_DIRECT
    assert msgspec.json.decode(capsys.readouterr().out, type=WhyReply) == make_story()


@pytest.mark.usefixtures("running")
def test_ping_without_a_reply(capsys: pytest.CaptureFixture[str]) -> None:
    assert client(["ping", "carol", "-c", "1"]) == ExitCode.NO_PEER
    assert capsys.readouterr().out.splitlines() == [
        "no reply from carol: no reply within 2 s [peer.no-reply]",
        "1 sent, 0 answered",
    ]
    assert client(["ping", "eve", "-c", "1"]) == ExitCode.NO_PEER
    assert "there is no peer 'eve'" in capsys.readouterr().err


@pytest.mark.usefixtures("running")
def test_ping_for_programs_is_one_json_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert client(["ping", "bob", "-c", "2", "-i", "0", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["schema"], line["rtt_ms"]) for line in lines] == [("shadowmesh.ping/1", 1.94)] * 2
    assert client(["ping", "carol", "-c", "1", "--json"]) == ExitCode.NO_PEER
    assert json.loads(capsys.readouterr().out)["error"] == "no-reply"
    assert client(["ping", "eve", "-c", "2", "--json"]) == ExitCode.NO_PEER
    out, err = capsys.readouterr()
    assert json.loads(out)["error"] == "unknown-peer"
    assert "there is no peer 'eve'" in err


@pytest.mark.usefixtures("running")
def test_id_and_down_of_the_running_client(capsys: pytest.CaptureFixture[str]) -> None:
    assert client(["id", "--socket", "/any"]) == 0
    assert capsys.readouterr().out == "a" * 52 + "\n"
    assert client(["down"]) == 0
    assert capsys.readouterr().out == "stopped\n"


FIREWALL = FirewallStatus(
    inbound="deny",
    outbound="allow",
    inbound_default=7,
    outbound_default=11,
    default_replies=9,
    resolution=2,
    flows=3,
    untracked=1,
    rules=[
        FirewallRule(
            number=1, name="ssh", line=9, direction="in", action="allow", text="allow ssh", decided=5
        )
    ],
)
EXPECTED_COUNTERS = """\
RULE  WAY   FRAMES  REPLIES  SAYS
   1  in         5        0  allow ssh
   -  in         7        -  else deny
   -  out       11        9  else allow
   -  both       2        -  ARP and neighbour discovery that no rule names

3 connections are known
1 found no place in the table: they passed, and replies to them may not
"""


def test_counters_of_the_firewall(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status = msgspec.structs.replace(make_status(), firewall=FIREWALL)
    monkeypatch.setattr(ApiClient, "status_json", lambda _: msgspec.json.encode(status))
    assert client(["firewall", "counters"]) == 0
    assert capsys.readouterr().out == EXPECTED_COUNTERS
    assert client(["firewall", "counters", "--json"]) == 0
    shown = msgspec.json.decode(capsys.readouterr().out, type=CountersReply)
    assert shown.firewall == FIREWALL
    monkeypatch.setattr(ApiClient, "status_json", lambda _: msgspec.json.encode(make_status()))
    assert client(["firewall", "counters"]) == 0
    assert capsys.readouterr().out == "This client has no firewall, so everything passes.\n"


def test_reload_says_what_has_changed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ApiClient, "reload", lambda _: ReloadReply(applied=["firewall"], restart=["peers"]))
    assert client(["reload"]) == 0
    said = capsys.readouterr()
    assert said.out == "changed: firewall\n"
    assert said.err == "changed in the file, and needs a restart: peers [config.pending]\n"
    assert client(["reload", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["restart"] == ["peers"]


@pytest.mark.parametrize(
    ("error", "code"),
    [(NotRunning("x"), 4), (UnknownPeer("x"), 6), (NoReply("x"), 6), (ApiFailed("x"), 1)],
)
def test_exit_codes_of_the_api(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_client: ApiClient) -> bytes:
        raise error

    monkeypatch.setattr(ApiClient, "status_json", fail)
    assert client(["status"]) == code


def test_where_the_client_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "client.yaml"
    text = (ROOT / "configs/client.yaml").read_text()
    config.write_text(text.replace("node:\n", "node:\n  socket: /from/config\n"))

    def asked(*arguments: str) -> str:
        assert client(["status", *arguments]) == ExitCode.NOT_RUNNING
        return capsys.readouterr().err

    advice = "; start it with `shadowmesh-client up -c client.yaml` [client.not-running]\n"
    assert asked().endswith(f"no socket /run/shadowmesh/shadowmesh.sock{advice}")
    monkeypatch.setenv("SHADOWMESH_SOCKET", "/from/environment")
    assert asked().endswith(f"no socket /from/environment{advice}")
    assert asked("-c", str(config)).endswith(f"no socket /from/config{advice}")
    said = asked("-c", str(config), "--socket", "/from/option")
    assert said.endswith("no socket /from/option [client.not-running]\n")


def test_exit_codes_are_documented() -> None:
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", (ROOT / "docs/cli.md").read_text(), re.MULTILINE)
    assert [(int(code), text) for code, text in rows] == list(MEANINGS.items())
    assert list(MEANINGS) == list(ExitCode)


@pytest.mark.parametrize("struct", STRUCTS)
def test_every_field_of_the_json_is_documented(struct: type[msgspec.Struct]) -> None:
    text = (ROOT / "docs/cli.md").read_text()
    rows = " ".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))
    assert [name for name in struct.__struct_fields__ if f"`{name}`" not in rows] == []


def test_the_quick_verbs_import_nothing_heavy() -> None:
    program = (
        "import sys; from shadowmesh.cli.main import main; main(['status', '--socket', '/absent']);"
        "main(['down', '--socket', '/absent']); print(sorted(sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    heavy = {
        "aioquic",
        "asyncio",
        "cryptography",
        "pyroute2",
        "starlette",
        "structlog",
        "uvicorn",
        "uvloop",
        "yaml",
    }
    assert heavy.isdisjoint(json.loads(done.stdout.replace("'", '"')))


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    done = subprocess.run(
        ["sh", "-c", '"$0" -m shadowmesh.cli.main --help | true', sys.executable],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.stderr == ""


def test_the_table_formatter() -> None:
    assert table(("name", "n"), [("a", "1"), ("bcd", "22")], frozenset(["n"])) == [
        "NAME   N",
        "a      1",
        "bcd   22",
    ]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.98 KiB"),
        (1536, "1.50 KiB"),
        (10_240, "10.0 KiB"),
        (1 << 20, "1.00 MiB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59, "59 s"), (75, "1 min 15 s"), (3725, "1 h 2 min"), (86400 * 3 + 4 * 3600, "3 d 4 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_colours_only_where_a_person_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "192.0.2.1:4433  rrrr  connected  0.4 ms"
    assert coloured(line) == line
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert coloured(line) == line.replace("connected", "\x1b[32mconnected\x1b[0m")
    monkeypatch.setenv("NO_COLOR", "1")
    assert coloured(line) == line
