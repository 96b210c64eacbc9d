"""`names:` of client.yaml, and that no relay can be named in our own domain."""

from __future__ import annotations

from pathlib import Path

import pytest

from shadowmesh.config import NamesSection
from shadowmesh.values import MAX_DOMAIN, parse_domain, parse_name
from tests.unit.test_config import MINIMAL, load, refusal

RELAY = "192.0.2.1:4433"


def test_defaults_and_all_keys(tmp_path: Path) -> None:
    assert load(tmp_path, MINIMAL).names == NamesSection("mesh", "host", "auto")
    text = MINIMAL + "names: {domain: home.example.net, serve: off, host: resolv.conf}\n"
    assert load(tmp_path, text).names == NamesSection("home.example.net", "off", "resolv.conf")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("{host: resolvconf}", "names.host: 'resolvconf' is none of auto, resolv.conf, none"),
        ("{serve: network}", "names.serve: 'network' is none of host, off"),
        ("{domain: Mesh}", "names.domain: 'Mesh' is no domain"),
        ("{domain: .mesh}", "names.domain: '.mesh' is no domain"),
        ("{domain: local}", "names.domain: names below .local have a meaning of their own"),
        ("{domain: 77.10.in-addr.arpa}", "names below .arpa have a meaning"),
        ("{domain: mesh, ttl: 1}", "names.ttl: unknown key; the keys here are domain, serve, host"),
    ],
)
def test_mistakes(tmp_path: Path, names: str, expected: str) -> None:
    assert expected in refusal(tmp_path, f"{MINIMAL}names: {names}\n")


@pytest.mark.parametrize(
    ("new", "key"),
    [
        ('"relay.mesh:4433"', "address: relay.mesh is"),
        ('"Relay.MESH.:4433"', "address: Relay.MESH. is"),
        ('"mesh:4433"', "address: mesh is"),
        (f'"{RELAY}", tcp: "bob.mesh:443"', "tcp: bob.mesh is"),
        (f'"{RELAY}", tcp: "192.0.2.1:443", proxy: "http://proxy.mesh:3128"', "proxy: proxy.mesh is"),
    ],
)
def test_no_way_to_the_network_leads_through_it(tmp_path: Path, new: str, key: str) -> None:
    assert f'"{RELAY}"' in MINIMAL
    text = MINIMAL.replace(f'"{RELAY}"', new, 1)
    told = refusal(tmp_path, text)
    assert f"relays[0].{key} in our own domain mesh, which nobody can resolve before" in told
    load(tmp_path, text + "names: {domain: home.mesh}\n")
    load(tmp_path, text + "names: {serve: off}\n")


def test_names_that_only_look_alike_are_taken(tmp_path: Path) -> None:
    for host in ("relaymesh", "relay.mesh.example.net", "relay.xmesh"):
        load(tmp_path, MINIMAL.replace(f'"{RELAY}"', f'"{host}:4433"', 1))


def test_both_refusals_of_one_line_are_told(tmp_path: Path) -> None:
    text = MINIMAL.replace(f'"{RELAY}"', '"relay.mesh"', 1) + "names: {domain: Mesh}\n"
    told = refusal(tmp_path, text)
    assert "has not the form host:port" in told
    assert "'Mesh' is no domain" in told


def test_a_whole_name_fits_what_dns_takes() -> None:
    longest = ".".join(["a" * 62] * 3)
    assert len(longest) == MAX_DOMAIN - 1
    assert len(f"{parse_name('b' * 63)}.{parse_domain('a' + longest)}") == 253
    with pytest.raises(ValueError, match="is no domain"):
        parse_domain("aa" + longest)
    for wrong in ("", "a..b", "a.", "-a", "a_b", "10.77", "1", "a b", "ä", "a" * 64):
        with pytest.raises(ValueError):
            parse_domain(wrong)
