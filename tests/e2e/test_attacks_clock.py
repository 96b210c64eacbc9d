"""A machine's clock that is set back or forward, also while a client runs: its sessions and certificates.

libfaketime stands between alice's process and CLOCK_REALTIME; CLOCK_MONOTONIC, by which everything but dates
is timed, stays as it is, as with a clock that somebody sets.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from shadowmesh.crypto.authority_key import AuthorityKey
from shadowmesh.io.documents import load_credentials
from shadowmesh.membership.certificate import Certificate
from shadowmesh.membership.signed import Kind, to_text
from shadowmesh.testing.mesh import command_path
from shadowmesh.testing.process import wait_until

from .test_membership import PASSPHRASE, Domain, met, pings, state_of, wait_met
from .test_refusals import launch_hostile

if TYPE_CHECKING:
    from shadowmesh.testing.lab import Lab
    from shadowmesh.testing.mesh import ClientNode

pytestmark = [pytest.mark.root, pytest.mark.timeout(4 * 60)]

DAY = 86_400
LIMIT = 60.0
"""Seconds for anything on a busy machine; a second or two is usual."""


@pytest.fixture
def home(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Domain:
    return Domain(lab, monkeypatch)


class Clock:
    """That of one client's process; it is set by `set`, at any time."""

    def __init__(self, client: ClientNode) -> None:
        found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
        assert found, "libfaketime is missing: apt-get install faketime"
        self._client, self._file = client, client.directory / "faketime"
        self.set(0)
        self._settings = {
            "LD_PRELOAD": str(found[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, offset: int) -> None:
        """So many seconds from the true time."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{offset:+d}\n")
        new.replace(self._file)

    def launch(self) -> None:
        """Start the client by this clock."""
        client = self._client
        client.write_config()
        command = [command_path("shadowmesh-client"), "up", "-c", str(client.config_path)]
        client.process = client.host.spawn(command, str(client.directory / "log"), self._settings)


def network(client: ClientNode) -> dict[str, Any]:
    found: dict[str, Any] = client.status()["node"]["network"]
    return found


def session_of(client: ClientNode, name: str) -> tuple[float, float]:
    """Not before, and not after: when it began, by CLOCK_MONOTONIC.  The status may take long to come."""
    asked = time.monotonic()
    age = float(state_of(client, name)["last_handshake"])
    return asked - age, time.monotonic() - age


def is_same(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether two such times may be of one session; another one begins seconds later."""
    return max(one[0], other[0]) <= min(one[1], other[1]) + 0.01


def wait_pings(client: ClientNode, other: ClientNode) -> None:
    """Until an echo comes back: one packet may be lost while paths change."""
    wait_until(lambda: pings(client, other.ipv4, 2), LIMIT, f"an echo of {other.name}")


def spoil(home: Domain, mallory: ClientNode) -> None:
    """Give mallory a certificate that expired a minute before this test began."""
    key = AuthorityKey.decode((home.folder / "authority.pem").read_bytes(), PASSPHRASE.encode())
    path = Path(mallory.config["network"]["certificate"])
    body = load_credentials(path).certificate.body
    now = int(time.time())
    expired = Certificate.make(replace(body, not_before=now - 9000, not_after=now - 60), key)
    path.write_text(to_text(expired.document, Kind.CERTIFICATE))


def wait_expired(client: ClientNode, name: str) -> None:
    """Until it refuses this peer for its date."""
    wait_until(
        lambda: f"the certificate of {name} expired at" in (state_of(client, name).get("last_error") or ""),
        LIMIT,
        lambda: str(state_of(client, name)),
    )


def test_nothing_that_had_expired_counts_again_when_the_clock_goes_back(home: Domain) -> None:
    home.relay.config["admission"] = {"open": True}
    alice, bob, mallory = (home.member(name) for name in ("alice", "bob", "mallory"))
    for one, other in ((alice, mallory), (mallory, alice)):
        one.config["peers"] = [{"name": other.name, "id": other.node_id}]
    for one, other in ((alice, bob), (bob, alice)):
        one.config.setdefault("peers", []).append({"name": other.name, "id": other.node_id})
    spoil(home, mallory)
    clock = Clock(alice)
    home.relay.start()
    clock.launch()
    bob.launch()
    wait_met(alice, bob, timeout=LIMIT)
    assert network(alice)["clock_behind"] == 0
    began = session_of(alice, "bob")

    clock.set(-365 * DAY)
    wait_until(lambda: network(alice)["clock_behind"] > 364 * DAY, LIMIT, lambda: str(network(alice)))
    assert "clock is at least" in network(alice)["warning"]
    assert alice.relay_status()["clock_skew"] == pytest.approx(-365 * DAY, abs=30)
    wait_pings(alice, bob)
    launch_hostile(home, mallory)
    wait_until(
        lambda: (
            "the certificate of mallory expired at" in (state_of(alice, "mallory").get("last_error") or "")
        ),
        LIMIT,
        lambda: str(state_of(alice, "mallory")),
    )
    assert is_same(session_of(alice, "bob"), began)

    alice.stop()  # a machine without a battery: it starts a year ago
    clock.launch()
    wait_met(alice, bob, timeout=LIMIT)
    assert network(alice)["clock_behind"] > 364 * DAY
    wait_until(
        lambda: (
            "the certificate of mallory expired at" in (state_of(alice, "mallory").get("last_error") or "")
        ),
        LIMIT,
        lambda: str(state_of(alice, "mallory")),
    )
    home.run("revoke", "bob")
    alice.verb("network", "spread", str(home.folder / "revocations.pem"))
    wait_until(lambda: not met(alice, "bob"), LIMIT, "the revoked member to be cut off")
    assert not met(alice, "mallory")


def test_a_clock_that_goes_forward_is_told_and_accepts_nothing(home: Domain) -> None:
    alice, bob = (home.member(name) for name in ("alice", "bob"))
    clock = Clock(alice)
    home.relay.start()
    clock.launch()
    bob.launch()
    wait_met(alice, bob, timeout=LIMIT)
    began = session_of(alice, "bob")

    clock.set(3 * 3600)
    wait_until(
        lambda: (alice.relay_status()["clock_skew"] or 0) > 10_000, LIMIT, lambda: str(alice.relay_status())
    )
    assert "3.0 h ahead of that of relay" in " ".join(network(alice)["warnings"])
    wait_pings(alice, bob)
    assert is_same(session_of(alice, "bob"), began)

    clock.set(200 * DAY)  # beyond the certificates, and the day of grace
    # A status that is late is no end of a session: the clock must not go back before alice has seen it.
    wait_until(
        lambda: alice.answers() and state_of(alice, "bob").get("state") != "connected",
        LIMIT,
        "the end of a session that nothing carries",
    )
    clock.set(0)
    wait_until(lambda: network(alice)["clock_behind"] > 190 * DAY, LIMIT, lambda: str(network(alice)))
    assert not met(alice, "bob"), "what has been seen to expire stays so"

    for client in (alice, bob):
        client.stop()
    # The way back that docs/configuration.md names.
    (alice.state_dir / "clock").unlink()
    clock.launch()
    bob.launch()
    wait_met(alice, bob, timeout=LIMIT)
    assert network(alice)["clock_behind"] == 0
    wait_pings(alice, bob)
