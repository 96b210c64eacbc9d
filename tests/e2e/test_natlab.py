"""The NATs of the namespace lab behave as they are named: shown with plain UDP sockets, no ShadowMesh."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING

import pytest

from shadowmesh.testing.natlab import Kind, NatLab, Router, cut, mend
from shadowmesh.testing.process import LabError, wait_until
from shadowmesh.testing.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shadowmesh.testing.lab import Host

pytestmark = pytest.mark.root

PORT = 5000
SILENCE = 0.15
"""Seconds after which a packet counts as not arrived: the lab's links take microseconds."""

Endpoint = tuple[str, int]


class Box:
    """A UDP socket on a host; close `socket`."""

    def __init__(self, host: Host, port: int) -> None:
        self.socket = host.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("0.0.0.0", port))
        self.socket.settimeout(SILENCE)
        self.endpoint = (host.address, port)

    def reaches(self, other: Box, at: Endpoint) -> Endpoint | None:
        """Send to `at`: the source that `other` sees, or None if nothing arrives there."""
        mark = f"{id(self)} {id(other)} {at}".encode()
        self.socket.sendto(mark, at)
        with contextlib.suppress(TimeoutError):
            while True:
                data, source = other.socket.recvfrom(2048)
                if data == mark:
                    return str(source[0]), int(source[1])
        return None


class Setting:
    """Endpoints A:1, A:2 and B:1 in public, one inside; what RFC 4787 asks of the NAT between."""

    def __init__(self, lab: NatLab, inside: Host, stack: contextlib.ExitStack) -> None:
        first, second = lab.host("A"), lab.host("B")
        self.remotes = [
            self._box(stack, host, port) for host, port in ((first, 7001), (first, 7002), (second, 7001))
        ]
        self.inside = self._box(stack, inside, PORT)

    def _box(self, stack: contextlib.ExitStack, host: Host, port: int) -> Box:
        box = Box(host, port)
        stack.enter_context(box.socket)
        return box

    def observed(self) -> list[Endpoint]:
        """What each of the three sees as our endpoint, when we write to it."""
        seen = [self.inside.reaches(remote, remote.endpoint) for remote in self.remotes]
        assert None not in seen
        return [endpoint for endpoint in seen if endpoint]

    def heard(self, mapped: Endpoint) -> list[bool]:
        """Whether what each of the three sends to `mapped` arrives, from where it was sent."""
        found = [remote.reaches(self.inside, mapped) for remote in self.remotes]
        assert all(seen in (None, remote.endpoint) for seen, remote in zip(found, self.remotes, strict=True))
        return [seen is not None for seen in found]


@pytest.fixture(scope="module")
def lab() -> Iterator[NatLab]:
    with NatLab() as lab:
        yield lab
    lab.check_leaks()


@contextlib.contextmanager
def setting(lab: NatLab, router: Router) -> Iterator[Setting]:
    with contextlib.ExitStack() as stack:
        yield Setting(lab, lab.behind(f"in-{router.host.name}", router), stack)


EXPECTED = {
    Kind.FULL_CONE: (1, [True, True, True]),
    Kind.RESTRICTED: (1, [True, True, False]),
    Kind.PORT_RESTRICTED: (1, [True, False, False]),
    Kind.SYMMETRIC: (3, [True, False, False]),
}


@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.name.lower())
def test_each_kind_maps_and_filters_as_it_is_named(lab: NatLab, kind: Kind) -> None:
    """Mapping as in RFC 4787 section 4.1, filtering as in section 5."""
    router = lab.router(f"r{kind.name.lower()[:6]}", kind)
    mappings, admitted = EXPECTED[kind]
    with setting(lab, router) as here:
        assert here.heard((router.wan, PORT)) == [False, False, False]
        mapped = here.inside.reaches(here.remotes[0], here.remotes[0].endpoint)
        assert mapped is not None
        assert mapped[0] == router.wan
        assert here.heard(mapped) == admitted
        observed = here.observed()
        assert len(set(observed)) == mappings
        assert here.observed() == observed
        assert (observed[0][1] == PORT) == (kind is not Kind.SYMMETRIC)


def test_double_nat(lab: NatLab) -> None:
    carrier = lab.router("carrier", Kind.FULL_CONE)
    home = lab.router("home", Kind.PORT_RESTRICTED, behind=carrier)
    with setting(lab, home) as here:
        mapped = here.inside.reaches(here.remotes[0], here.remotes[0].endpoint)
        assert mapped is not None
        assert mapped[0] == carrier.wan
        assert here.heard(mapped) == [True, False, False]
        assert len(set(here.observed())) == 1


@pytest.mark.parametrize("kind", [Kind.FULL_CONE, Kind.PORT_RESTRICTED], ids=lambda kind: kind.name.lower())
@pytest.mark.parametrize("hairpin", [True, False])
def test_hairpin(lab: NatLab, hairpin: bool, kind: Kind) -> None:
    """RFC 4787 REQ-9: a neighbour reached by the external address is seen by its external address."""
    router = lab.router(f"h{kind.name.lower()[:4]}{int(hairpin)}", kind, hairpin=hairpin)
    neighbour = lab.behind(f"{router.host.name}-b", router)
    box = Box(neighbour, PORT + 1)
    with setting(lab, router) as here, box.socket:
        remote = here.remotes[0]
        mapped, other = (one.reaches(remote, remote.endpoint) for one in (here.inside, box))
        assert mapped is not None
        assert other is not None
        assert box.reaches(here.inside, mapped) == (other if hairpin else None)
        assert here.inside.reaches(box, other) == (mapped if hairpin else None)
        assert here.inside.reaches(box, box.endpoint) is not None


def test_mapping_ends(lab: NatLab) -> None:
    """After its time-out of one second a symmetric NAT gives another port, and lets nobody in by the old."""
    router = lab.router("short", Kind.SYMMETRIC, timeout=1)
    with setting(lab, router) as here:
        remote = here.remotes[0]
        mapped = here.inside.reaches(remote, remote.endpoint)
        assert mapped is not None
        assert here.inside.reaches(remote, remote.endpoint) == mapped
        with contextlib.suppress(TimeoutError):
            here.inside.socket.settimeout(2.1)
            here.inside.socket.recv(1)
        here.inside.socket.settimeout(SILENCE)
        assert remote.reaches(here.inside, mapped) is None
        assert here.inside.reaches(remote, remote.endpoint) != mapped


def test_blocked_udp(lab: NatLab) -> None:
    router = lab.router("strict", Kind.FULL_CONE)
    with setting(lab, router) as here:
        router.block_udp(here.remotes[2].endpoint[0])
        arrived = [here.inside.reaches(remote, remote.endpoint) is not None for remote in here.remotes]
        assert arrived == [False, False, True]
        assert here.remotes[2].reaches(here.inside, (router.wan, PORT)) is not None


def test_one_family_only(lab: NatLab) -> None:
    six = lab.host("six", ipv4=False)
    assert six.ipv4 is None
    assert "10.99." not in six.run(["ip", "address"]).stdout
    assert six.ipv6 is not None
    lab.host("A").ping(six.ipv6)


def test_cut_and_mended(lab: NatLab) -> None:
    """A router is cut in both directions, an end in its own; other addresses are untouched."""
    router = lab.router("cuttable", Kind.PORT_RESTRICTED)
    with setting(lab, router) as here:
        first, _, second = here.remotes
        mapped = here.inside.reaches(first, first.endpoint)
        assert mapped is not None
        inner, outer = here.inside.endpoint[0], router.wan
        cuts = (
            (router.host, first.endpoint[0], False, False),
            (lab.hosts["in-cuttable"], first.endpoint[0], True, False),
            (lab.host("A"), outer, False, True),
            (lab.host("A"), inner, True, True),
        )
        for host, address, out, back in cuts:
            cut(host, address)
            assert (here.inside.reaches(first, first.endpoint) is not None) == out
            assert (first.reaches(here.inside, mapped) is not None) == back
            assert here.inside.reaches(second, second.endpoint) is not None
            mend(host)
            assert here.inside.reaches(first, first.endpoint) == mapped
            assert first.reaches(here.inside, mapped) is not None


def test_stream_counts_what_is_lost_and_sees_the_gap(lab: NatLab) -> None:
    near, far = lab.host("A"), lab.host("B")
    assert near.ipv4 is not None
    assert far.ipv4 is not None
    with Stream(near, far, far.ipv4, 1000) as stream:
        stream.wait_flowing()
        cut(far, near.ipv4)
        time.sleep(0.2)
        mend(far)
        wait_until(stream.gaps, 5.0, "the gap to end")
        result = stream.stop()
    (gap,) = result.gaps
    assert 0.2 < gap.length < 1.0
    assert result.lost == pytest.approx(1000 * gap.length, rel=0.1)
    assert (result.doubled, result.overtaken) == (0, 0)


def test_stream_at_a_high_rate_loses_nothing(lab: NatLab) -> None:
    """Of this instrument's own making, that is: a bare link has no other reason to."""
    near, far = lab.host("A"), lab.host("B")
    assert far.ipv4 is not None
    with Stream(near, far, far.ipv4, 30_000) as stream:
        stream.wait_flowing()
        time.sleep(0.5)
        result = stream.stop()
    assert result.sent > 10_000
    assert (result.lost, result.doubled, result.gaps) == (0, 0, [])


def test_wrong_rules_are_reported(lab: NatLab) -> None:
    with pytest.raises(LabError, match="syntax error"):
        cut(lab.host("A"), "not an address")
