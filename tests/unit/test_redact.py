"""What a report must not hold: each rule takes out something that no other rule does."""

from __future__ import annotations

import base64
import json
import re
import secrets

import pytest

from shadowmesh.diagnosis import redact
from shadowmesh.diagnosis.redact import SECRET_RULES, Level, Redactor, forms

KEY = bytes(range(7, 39))
NODE = "7g2ouyxa3tc3kmxappexwyfiyw2npqm2gt3s52kabmzu5jsrivxa"
SAMPLES = {
    "private-key": ("-----BEGIN PRIVATE KEY-----\nMC4CAQ\nq83v\n-----END PRIVATE KEY-----\nafter", "q83v"),
    "invitation": ("join smesh1aebagbafaydqqcik now", "aebagbafaydqqcik"),
    "password-in-url": ("asks http://bob:hunter@proxy.example.net:3128 first", "hunter"),
    "header": ("sent Authorization: Digest abc def", "Digest abc"),
    "bearer": ("with Bearer q83vzTTT here", "q83vzTTT"),
    "named": ('{"admin_password": "correct horse"}', "correct"),
    "blob": (f"the key is {base64.b64encode(KEY).decode()} or {KEY.hex()}", KEY.hex()),
}


@pytest.mark.parametrize("rule", SECRET_RULES, ids=lambda rule: rule.name)
def test_each_rule_is_needed(rule: redact.Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    text, secret = SAMPLES[rule.name]
    redactor = Redactor(Level.NONE)
    assert secret not in redactor.text(text)
    assert redactor.removed[rule.name]
    monkeypatch.setattr(redact, "SECRET_RULES", [one for one in SECRET_RULES if one is not rule])
    assert secret in Redactor(Level.NONE).text(text), "another rule takes it out: the sample proves nothing"


def test_there_is_a_sample_for_each_rule() -> None:
    assert set(SAMPLES) == {rule.name for rule in SECRET_RULES}


@pytest.mark.parametrize(
    "text",
    [
        f"alice ({NODE}) is up on smesh0",
        "/tmp/lab-56129e-uhpqfvoz/state/with-a-long-name-of-a-folder/identity.pem",
        "token_file: /etc/shadowmesh/token",
        "TLS_CHACHA20_POLY1305_SHA256, X25519MLKEM768",
        "2026-11-22T01:15:25.936+00:00 INFO relay: 3 tokens",
        "8f14e45f-ceea-467f-a0e6-1d1c1a2b3c4d",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert Redactor(Level.NONE).text(text) == text


@pytest.mark.parametrize("form", range(len(forms("x"))))
def test_a_known_secret_in_every_form(form: int) -> None:
    secret = 'tr0ub4 "dör'
    text = f"before {forms(secret)[form]} after"
    assert Redactor(Level.NONE, [secret]).text(text) == f"before {redact.REMOVED} after"
    assert Redactor(Level.NONE).text(text) == text


def test_the_longer_secret_goes_first() -> None:
    assert Redactor(Level.NONE, ["abcd", "abcdefgh"]).text("abcdefgh") == redact.REMOVED


def test_fields_that_are_called_secrets() -> None:
    redactor = Redactor(Level.NONE)
    found = redactor.data({"password": "abc", "list": [{"token": "x y"}], "token_expired": 3, "port": 4433})
    assert found == {
        "password": redact.REMOVED,
        "list": [{"token": redact.REMOVED}],
        "token_expired": 3,
        "port": 4433,
    }


ADDRESSES = [
    ("from 192.0.2.7.", "from private4-1.1."),
    ("192.0.2.7:4433 and 192.0.2.8", "private4-1.1:4433 and private4-1.2"),
    ("192.0.2.0/24 has 192.0.2.7", "private4-1.0/24 has private4-1.1"),
    ("8.8.8.8 is not 10.0.0.1", "public4-1.1 is not private4-1.1"),
    ("[2606:4700::1111]:443", "[public6-1.1]:443"),
    ("fd77::1/64, fd77::/64.", "private6-1.1/64, private6-1.0/64."),
    ("fd77::1, FD77:0:0::1: fd77::2", "private6-1.1, private6-1.1: private6-1.2"),
    ("::ffff:10.0.0.1 is 10.0.0.1", "private4-1.1 is private4-1.1"),
    ("fe80::a:1%eth0", "link6-1.1%eth0"),
    ("fd77::: fd77::1:. fd77::2.", "private6-1.0: private6-1.1:. private6-1.2."),
    ("it left 10.0.0.1:4433.", "it left private4-1.1:4433."),
    ("0A:00:00:00:00:01 is 0a:00:00:00:00:01", "mac-1 is mac-1"),
]
KEPT = [
    "127.0.0.1 and ::1 and 0.0.0.0 and [::]:4433 and ff02::1 and 224.0.0.251 and 255.255.255.255",
    "at 12:00:00.123+01:00, version 1.2.3, 1.2.3.4.5, ff:ff:ff:ff:ff:ff, 999.1.1.1",
]


@pytest.mark.parametrize(("text", "expected"), ADDRESSES)
def test_addresses_have_stand_ins(text: str, expected: str) -> None:
    assert Redactor(Level.ADDRESSES).text(text) == expected
    assert Redactor(Level.STRICT).text(text) == expected
    assert Redactor(Level.NONE).text(text) == text


@pytest.mark.parametrize("text", KEPT)
def test_what_is_nobodys_address_stays(text: str) -> None:
    assert Redactor(Level.STRICT).text(text) == text


def test_one_address_has_one_stand_in_in_the_whole_report() -> None:
    redactor = Redactor(Level.ADDRESSES)
    first = redactor.text("10.1.1.1 10.2.2.2")
    assert redactor.data({"a": ["10.2.2.2", "10.1.1.1"], "10.1.1.1:4433": 1}) == {
        "a": list(reversed(first.split())),
        f"{first.split()[0]}:4433": 1,
    }
    assert redactor.removed["IP address"] == 5


def test_random_addresses_never_come_through_and_never_meet() -> None:
    redactor = Redactor(Level.ADDRESSES)
    addresses = {".".join(str(1 + secrets.randbelow(120)) for _ in range(4)) for _ in range(300)}
    standins = {redactor.text(f"({address})") for address in addresses}
    assert len(standins) == len({one for one in addresses if not one.startswith("127.")}) + sum(
        one.startswith("127.") for one in addresses
    )


def test_strict_takes_names_and_node_ids() -> None:
    redactor = Redactor(Level.STRICT, names=["bob", "bob-laptop", "relay.example.net"], node_ids=[NODE])
    text = (
        f"Bob, bob-laptop, bob.pem, bobby: {NODE} {NODE[:10]}… members-{NODE[:10]} at relay.example.net:4433"
    )
    shown = redactor.text(text)
    assert shown == "name-1, name-2, name-1.pem, bobby: node-1 node-1… members-node-1 at name-3:4433"
    assert Redactor(Level.ADDRESSES, names=["bob"], node_ids=[NODE]).text(text) == text
    unknown = "kaaaaaaaaz" * 5 + "qa"
    assert redactor.text(f"{unknown} {unknown[:10]}…") == "node-2 node-2…"
    folder = "home"  # whose path no file of ours may show
    assert redactor.text(f"/{folder}/robert/mesh") == f"/{folder}/user-1/mesh"


def test_names_of_fields_stay() -> None:
    redactor = Redactor(Level.STRICT, names=["state"])
    assert redactor.data({"state": "state of affairs"}) == {"state": "name-1 of affairs"}


def test_nothing_tells_the_map() -> None:
    redactor = Redactor(Level.STRICT, ["hunter2hunter2"], ["bob"], [NODE])
    redactor.text(f"10.0.0.1 bob {NODE} hunter2hunter2")
    told = json.dumps(redactor.removed)
    assert not re.search(r"10\.0|bob|hunter|7g2o", told)


HOSTILE = [
    "x",
    "x-",
    "::",
    "a:",
    "1.",
    "secret",
    "bearer ",
    "-----BEGIN PRIVATE KEY",
    "://",
    "aA1",
    "smesh1",
    "[2",
]


@pytest.mark.parametrize("piece", HOSTILE)
@pytest.mark.timeout(20)
def test_no_text_takes_long(piece: str) -> None:
    """Lines of a log hold what strangers sent: a rule that backtracks would take minutes for 400 KB."""
    Redactor(Level.STRICT, ["bob"], ["bob"], [NODE]).text(piece * (400_000 // len(piece)))
