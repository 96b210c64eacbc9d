"""Keys of both files for relay legs over TCP: what they mean, and what is wrong with others."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest

from shadowmesh.errors import ConfigError
from shadowmesh_relay.config import Http3Section, WebSocketSection, load_relay_config

from .test_config import MINIMAL, example_id, load, refusal


def with_relay(keys: str) -> str:
    return MINIMAL.replace('"192.0.2.1:4433", ', f'"192.0.2.1:4433", {keys}, ')


PIN = "sha256//" + base64.b64encode(bytes(range(32))).decode()


def test_a_relay_over_tcp_has_defaults(tmp_path: Path) -> None:
    (relay,) = load(tmp_path, MINIMAL).relays
    assert relay.tcp is None
    (relay,) = load(tmp_path, with_relay('tcp: "[2001:db8::1]:443"')).relays
    assert str(relay.tcp) == "[2001:db8::1]:443"
    assert (relay.proxy, relay.tls) == ("auto", "any")
    keys = f'tcp: "relay.test:443", proxy: "http://u:p@proxy.test:3128", tls: "{PIN}"'
    (relay,) = load(tmp_path, with_relay(keys)).relays
    assert (relay.proxy, relay.tls) == ("http://u:p@proxy.test:3128", PIN)
    for proxy, tls in (("off", "verify"), ("https://proxy.test:8443/", "any")):
        (relay,) = load(tmp_path, with_relay(f'tcp: "a:443", proxy: "{proxy}", tls: {tls}')).relays
        assert (relay.proxy, relay.tls) == (proxy, tls)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ('tcp: "relay.test"', "has not the form host:port"),
        ('tcp: "relay.test:0"', "port 0 is not between"),
        ('proxy: "socks5://proxy.test:1080"', "is no URL of an HTTP proxy"),
        ('proxy: "http://u:secret@proxy.test"', "lacks the proxy's port"),
        ('proxy: "http://u:secret@proxy.test:99999"', "relays[0].proxy"),
        ('proxy: "http://u:secret@proxy.test:3128/path"', "is no URL of an HTTP proxy"),
        ("tls: yes please", "is neither any nor verify nor a pin"),
        ('tls: "sha256//AAAA"', "is neither any nor verify nor a pin"),
        ('tls: "sha256//not base64"', "is neither any nor verify nor a pin"),
    ],
)
def test_mistakes_in_a_relay_over_tcp(tmp_path: Path, keys: str, problem: str) -> None:
    told = refusal(tmp_path, with_relay(keys))
    assert problem in told
    assert "secret" not in told


RELAY = f"relay: {{name: relay1}}\nadmission: {{nodes: [{example_id('bob')}]}}\n"


def load_websocket(tmp_path: Path, section: str) -> WebSocketSection:
    path = tmp_path / "relay.yaml"
    path.write_text(f"{RELAY}websocket: {section}\n")
    found = load_relay_config(path).websocket
    assert found is not None
    return found


def test_the_websocket_of_a_relay(tmp_path: Path) -> None:
    path = tmp_path / "relay.yaml"
    path.write_text(RELAY)
    assert load_relay_config(path).websocket is None
    found = load_websocket(tmp_path, "{certificate: /c, key: /k}")
    assert (found.host, found.port, found.certificate, found.key) == ("::", 443, Path("/c"), Path("/k"))
    assert (found.max_connections, found.max_per_address, found.trusted_proxies) == (1024, 64, ())
    section = '{listen: "127.0.0.1:8443", trusted_proxies: [127.0.0.1, "2001:db8::/64"], max_per_address: 5}'
    found = load_websocket(tmp_path, section)
    assert (found.certificate, found.max_per_address) == (None, 5)
    assert [found.trusts(host) for host in ("127.0.0.1", "2001:db8::9", "127.0.0.2")] == [True, True, False]


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ("{certificate: /c}", "websocket.key: certificate and key go together"),
        ("{key: /k}", "websocket.certificate: certificate and key go together"),
        ("{}", "websocket.listen: without a certificate this is plain HTTP"),
        ('{listen: "192.0.2.1:80"}', "websocket.listen: without a certificate this is plain HTTP"),
        ("{certificate: c, key: /k}", "is not an absolute path"),
        ("{certificate: /c, key: /k, trusted_proxies: [proxy]}", "is no address and no prefix"),
        ("{certificate: /c, key: /k, trusted_proxies: [10.0.0.1/8]}", "is no address and no prefix"),
        ("{certificate: /c, key: /k, max_connections: 0}", "websocket.max_connections"),
        ("{certificate: /c, key: /k, path: /x}", "unknown key"),
    ],
)
def test_mistakes_in_the_websocket_of_a_relay(tmp_path: Path, section: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(problem)):
        load_websocket(tmp_path, section)


def load_http3(tmp_path: Path, text: str) -> Http3Section | None:
    path = tmp_path / "relay.yaml"
    path.write_text(f"{RELAY}{text}\n")
    return load_relay_config(path).http3


def test_http3_of_a_relay_has_the_certificate_of_websocket_or_its_own(tmp_path: Path) -> None:
    assert load_http3(tmp_path, "websocket: {certificate: /c, key: /k}") is None
    shared = "websocket: {certificate: /c, key: /k}\nhttp3: {show_clients: true}"
    assert load_http3(tmp_path, shared) == Http3Section(Path("/c"), Path("/k"), True)
    assert load_http3(tmp_path, "http3: {certificate: /c, key: /k}") == Http3Section(Path("/c"), Path("/k"))
    both = "websocket: {certificate: /c, key: /k}\nhttp3: {certificate: /d, key: /l}"
    assert load_http3(tmp_path, both) == Http3Section(Path("/d"), Path("/l"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("http3: {}", "http3.certificate: HTTP/3 needs a certificate, here or in websocket"),
        ("websocket: {listen: '127.0.0.1:80'}\nhttp3: {}", "http3.certificate: HTTP/3 needs a certificate"),
        ("http3: {certificate: /c}", "http3.key: certificate and key go together"),
        ("http3: {key: /k}", "http3.certificate: certificate and key go together"),
        ("http3: {certificate: c, key: /k}", "is not an absolute path"),
        ("http3: {certificate: /c, key: /k, show_clients: 1}", "http3.show_clients"),
        ("http3: {certificate: /c, key: /k, listen: /x}", "unknown key"),
    ],
)
def test_mistakes_in_http3_of_a_relay(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(problem)):
        load_http3(tmp_path, text)
