"""`bugreport`: secrets and addresses are planted wherever they can occur; the whole archive is searched.

Each protection is then taken away: the search must find what it kept out, or it proves nothing.
"""

from __future__ import annotations

import base64
import json
import re
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from shadowmesh.api.schema import RelayStatus, Status
from shadowmesh.cli.main import main
from shadowmesh.command import ExitCode
from shadowmesh.crypto import identity as identities
from shadowmesh.diagnosis import bundle, collect, gather, redact
from shadowmesh.diagnosis.bundle import KNOWN_KEYS, MAX_PART, README, Bugreport, write_report
from shadowmesh.diagnosis.collect import Part
from shadowmesh.diagnosis.facts import Facts, Unseen
from shadowmesh.diagnosis.redact import SECRET_RULES, Level, Redactor
from shadowmesh.document import Document
from tests.unit.doctor_facts import ROOT, healthy, reached, replace, running

TOKEN = "an-admission-token-of-lower-case"
PASSWORD = "tr0ub4dor"
HEADER = "otlp-value-of-a-header"
PASSPHRASE = "six random words of some length"
INVITATION = "smesh1aebagbafaydqqcikbmga2dqpcaireeyuculbogazdinryhi6d4qca"
IN_COMMENT = "left-in-a-comment"
UNDER_UNKNOWN_KEY = "under-an-unknown-key"
OTHER_PASSWORD = "hunter2other"
PLAIN_BEARER = "q83vzTTTabc"
SHORT_PEM = "MC4CAQAwBQYDK2Vw"
BLOB = "9f" * 32

ADDRESSES = ["203.0.113.77", "10.77.9.9", "fd77:abcd::9", "02:11:22:33:44:55", "fd77:abcd:0:0::9"]
NAMES = ["bobsmachine", "homenetwork", "relay-of-bob.example.net", "admingroup"]
NODE_ID = "7g2ouyxa3tc3kmxappexwyfiyw2npqm2gt3s52kabmzu5jsrivxa"
OTHER_ID = "kaaaaaaaaz" * 5 + "qa"

LOG = f"""2026-01-31T12:00:00.123+01:00 INFO relay {NAMES[2]}: connected to {ADDRESSES[0]}:4433
sent {TOKEN} {base64.b64encode(TOKEN.encode()).decode()} {TOKEN.encode().hex()}
proxy http://user:{PASSWORD}@proxy.example.net:3128, {base64.b64encode(PASSWORD.encode()).decode()}
another http://user:{OTHER_PASSWORD}@proxy.example.net:3128
headers {HEADER}; passphrase {PASSPHRASE}; joined by {INVITATION}; the key {BLOB}
curl with Bearer {PLAIN_BEARER}
-----BEGIN PRIVATE KEY-----
{SHORT_PEM}
-----END PRIVATE KEY-----
WARNING bobsmachine ({NODE_ID}, {NODE_ID[:10]}…) of homenetwork claims {ADDRESSES[1]} by {ADDRESSES[3]}
WARNING [{ADDRESSES[2]}]:4433, {ADDRESSES[4]} and {OTHER_ID[:10]}… of admingroup
"""


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration, a state directory and a status with everything in it; returns the configuration."""
    state_dir = tmp_path / "state"
    identities.create(state_dir, "alice")
    (state_dir / "client.log").write_text(LOG)
    token_file = tmp_path / "token"
    token_file.write_text(f"# of the relay\n{TOKEN}\n")
    token_file.chmod(0o600)
    config = tmp_path / "client.yaml"
    relay = {
        "address": f"{NAMES[2]}:4433",
        "id": OTHER_ID,
        "token_file": str(token_file),
        "tcp": f"{NAMES[2]}:443",
        "proxy": f"http://user:{PASSWORD}@proxy.example.net:3128",
    }
    peer = {"name": NAMES[0], "id": NODE_ID, "addresses": [ADDRESSES[1], ADDRESSES[2]], "groups": [NAMES[3]]}
    values = {
        "node": {"name": "alice", "state_dir": str(state_dir), "socket": str(tmp_path / "socket")},
        "relays": [relay],
        "peers": [peer],
        "mystery": UNDER_UNKNOWN_KEY,
    }
    config.write_text(f"# {IN_COMMENT}\n{yaml.safe_dump(values)}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"x=1,y={HEADER}")
    monkeypatch.setenv("SHADOWMESH_PASSPHRASE", PASSPHRASE)
    monkeypatch.setattr(gather, "gather", lambda *_: facts_with(status_of_all()))
    # What the machine of the tests says of itself has no part in this.
    monkeypatch.setattr(collect, "output_of", lambda *_: Unseen("not asked"))
    return config


def status_of_all() -> Status:
    status = running()
    assert status.node.network is not None
    network = replace(status.node.network, name=NAMES[1], network_id=OTHER_ID)
    node = replace(status.node, mac=ADDRESSES[3], addresses=[f"{ADDRESSES[1]}/24"], network=network)
    relay = RelayStatus(
        address=f"{NAMES[2]}:4433",
        node_id=OTHER_ID,
        state="waiting",
        observed_address=f"{ADDRESSES[0]}:40000",
        last_error=f"the relay says: {TOKEN} or {PASSWORD} of {ADDRESSES[0]}",
    )
    peer = replace(
        status.peers[0], name=NAMES[0], node_id=NODE_ID, addresses=[ADDRESSES[1]], groups=[NAMES[3]]
    )
    return replace(status, node=node, relays=[relay], peers=[peer])


def facts_with(status: Status) -> Facts:
    netcheck = replace(reached(), nat=replace(reached().nat, observed=[f"{ADDRESSES[0]}:4433"]))
    return replace(healthy(), status=status, netcheck=netcheck, config=Unseen("does not load"))


def report(config: Path, level: str = "addresses") -> Path:
    file = config.with_name(f"{level}.tar.gz")
    file.unlink(missing_ok=True)
    assert main(["bugreport", "-c", str(config), "-o", str(file), "--anonymise", level, "--json"]) == 0
    return file


def content(file: Path) -> str:
    """Everything in the archive, names of files too."""
    with tarfile.open(file) as archive:
        members = archive.getmembers()
        texts = [archive.extractfile(one).read().decode() for one in members]  # type: ignore[union-attr]
    return "\n".join([*(one.name for one in members), *texts])


def spellings(secret: str) -> Iterator[str]:
    raw = secret.encode()
    yield from (secret, json.dumps(secret)[1:-1], raw.hex(), raw.hex().upper())
    # Whatever stands before it, two of three alignments of base64 hold all of it but the ends.
    for shift in range(3):
        yield base64.b64encode(b"\0" * shift + raw).decode()[4 if shift else 0 : -4]


def private_halves(config: Path) -> list[str]:
    """The keys of the identity: what a leak of either would show."""
    pem = (config.parent / "state" / "identity.pem").read_text()
    blocks = re.findall(r"BEGIN PRIVATE KEY-----\n(.+?)-----END", pem, re.DOTALL)
    assert len(blocks) == 2
    lines = [line for block in blocks for line in block.split()]
    return [*lines, *(base64.b64decode(block).hex() for block in blocks)]


def leaks(text: str, config: Path, level: str) -> list[str]:
    secrets = [TOKEN, PASSWORD, HEADER, PASSPHRASE, INVITATION, IN_COMMENT, UNDER_UNKNOWN_KEY]
    secrets += [OTHER_PASSWORD, PLAIN_BEARER, SHORT_PEM, BLOB]
    found = [one for secret in secrets for one in spellings(secret) if one in text]
    found += [line for line in private_halves(config) if line in text]
    hidden = {
        "none": [],
        "addresses": ADDRESSES,
        "strict": [*ADDRESSES, *NAMES, NODE_ID, NODE_ID[:10], OTHER_ID, OTHER_ID[:10]],
    }
    return found + [one for one in hidden[level] if one.lower() in text.lower()]


@pytest.mark.parametrize("level", ["none", "addresses", "strict"])
def test_nothing_that_was_planted_is_in_the_archive(planted: Path, level: str) -> None:
    text = content(report(planted, level))
    assert leaks(text, planted, level) == []
    assert "status.json" in text
    assert "client.log" in text
    # It is still of use: what a level leaves is there, and what it hides has a stand-in.
    assert (ADDRESSES[0] in text) == (level == "none")
    assert (NAMES[0] in text) == (level != "strict")
    assert ("public4-" in text or "private4-" in text) == (level != "none")
    assert text.count("node-1") > 3 if level == "strict" else NODE_ID in text


def test_each_level_takes_more(planted: Path) -> None:
    none, addresses, strict = (content(report(planted, level)) for level in ("none", "addresses", "strict"))
    assert leaks(none, planted, "addresses")
    assert leaks(addresses, planted, "strict")
    assert not leaks(strict, planted, "none")


Break = Callable[[pytest.MonkeyPatch], None]


def without_rule(name: str) -> Break:
    rest = [rule for rule in SECRET_RULES if rule.name != name]
    return lambda patch: patch.setattr(redact, "SECRET_RULES", rest)


def instead(module: Any, name: str, value: object) -> Break:
    return lambda patch: patch.setattr(module, name, value)


NEVER = re.compile(r"(?!)")
PROTECTIONS: dict[str, tuple[str, Break]] = {
    "private-key": ("none", without_rule("private-key")),
    "invitation": ("none", without_rule("invitation")),
    "password-in-url": ("none", without_rule("password-in-url")),
    "bearer": ("none", without_rule("bearer")),
    "blob": ("none", without_rule("blob")),
    "known secrets": ("none", instead(collect, "known_secrets", lambda *_: set())),
    "their forms": ("none", instead(redact, "forms", lambda secret: [secret])),
    "known keys": ("none", instead(bundle, "known_only", lambda value: value)),
    "no comments": (
        "none",
        instead(
            collect,
            "read_values",
            lambda file: {"name": file.read_text()},
        ),
    ),
    "MAC addresses": ("addresses", instead(redact, "_MAC", NEVER)),
    "IPv4": ("addresses", instead(redact, "_IPV4", NEVER)),
    "IPv6": ("addresses", instead(redact, "_IPV6", NEVER)),
    "names": ("strict", instead(collect, "names_of", lambda *_: set())),
    "NodeIDs": ("strict", instead(redact, "_NODE_ID", NEVER)),
}


@pytest.mark.parametrize("protection", PROTECTIONS)
def test_the_search_finds_what_a_missing_protection_lets_through(
    planted: Path, protection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    level, harm = PROTECTIONS[protection]
    if protection == "NodeIDs":
        monkeypatch.setattr(collect, "node_ids_of", lambda *_: set())
    harm(monkeypatch)
    assert leaks(content(report(planted, level)), planted, level)


def test_secrets_of_the_environment_of_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        collect, "environment_of", lambda _: {"OTEL_EXPORTER_OTLP_TRACES_HEADERS": f"a={HEADER}%20x"}
    )
    assert {HEADER + " x", HEADER + "%20x"} <= collect.known_secrets({}, Path("/none"))


def test_the_archive_is_its_owners_alone_and_replaces_nothing(
    planted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = report(planted)
    told = msgspec.json.decode(capsys.readouterr().out, type=Bugreport)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with tarfile.open(file) as archive:
        members = archive.getmembers()
        readme = archive.extractfile(members[0]).read().decode()  # type: ignore[union-attr]
    assert {one.name.partition("/")[2] for one in members} == {one.name for one in told.files}
    assert {(one.mode, one.uid, one.uname) for one in members} == {(0o600, 0, "")}
    assert all(one.name in readme for one in told.files if one.name != README)
    assert all(name in readme and reason in readme for name, reason in told.left_out.items())
    assert (told.level, told.size) == (Level.ADDRESSES, file.stat().st_size)
    assert main(["bugreport", "-c", str(planted), "-o", str(file)]) == ExitCode.FAILED
    assert "exists already" in capsys.readouterr().err


def test_people_are_shown_what_is_in_it(planted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bugreport", "-c", str(planted), "-o", str(planted.with_name("r.tar.gz"))]) == 0
    shown = capsys.readouterr().out
    assert "sent nowhere" in shown
    assert "doctor.json" in shown
    assert "not there: journal.log: not asked" in shown
    assert "× known secret" in shown


def test_where_it_cannot_be_written(planted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bugreport", "-c", str(planted), "-o", "/absent/r.tar.gz"]) == ExitCode.FAILED
    assert "can't be written: No such file or directory; name another file with -o" in capsys.readouterr().err


def test_a_failure_leaves_no_file(tmp_path: Path) -> None:
    def breaking() -> Iterator[Part]:
        yield Part("a.txt", "a", "text")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_report(tmp_path / "r.tar.gz", breaking(), Redactor(Level.NONE))
    assert list(tmp_path.iterdir()) == []


def test_it_is_bounded(tmp_path: Path) -> None:
    long = Part("a.log", "a log", "early\n" + "x" * MAX_PART + "late")
    wide = Part("b.json", "numbers", list(range(1_000_000)))
    told = write_report(tmp_path / "r.tar.gz", [long, wide], Redactor(Level.NONE))
    assert {one.name: one.size for one in told.files}["a.log"] == MAX_PART
    assert "too much" in told.left_out["b.json"]
    text = content(tmp_path / "r.tar.gz")
    assert text.rstrip().endswith("late")
    assert "early" not in text


def test_a_configuration_that_is_no_yaml_is_left_out(planted: Path) -> None:
    planted.write_text(f"node: [{UNDER_UNKNOWN_KEY}\n")
    with tarfile.open(report(planted)) as archive:
        assert not any(one.name.endswith("config.yaml") for one in archive.getmembers())


def test_names_of_interfaces_stay() -> None:
    values: dict[str, object] = {
        "node": {"name": "alice"},
        "interface": {"name": "mesh7"},
        "peers": [{"name": "bob"}],
    }
    values["names"] = {"domain": "of-bob.example"}
    found = collect.names_of(replace(healthy(), names=()), values)
    assert {"alice", "bob", "of-bob.example", "home", "relay.example.net"} <= found
    assert "mesh7" not in found


def test_every_key_of_the_reference_is_known() -> None:
    reference = (ROOT / "docs/configuration.md").read_text().partition("\n## relay.yaml")[0]
    keys = re.findall(r"^\| `([a-z0-9_.\[\]]+)` \|", reference, re.MULTILINE)
    documented = {part.removesuffix("[]") for key in keys for part in key.split(".")}
    assert documented == KNOWN_KEYS


def test_the_whole_example_survives() -> None:
    """All keys of a real file are kept."""
    values = Document.load(ROOT / "configs/client-full.yaml").values()
    assert bundle.known_only(values) == values
