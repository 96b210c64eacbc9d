"""Which local addresses others may be told."""

from __future__ import annotations

import ipaddress

import pytest

from shadowmesh.io import network
from shadowmesh.io.network import LocalAddress, usable

OVERLAY = [ipaddress.ip_network("10.77.0.0/24"), ipaddress.ip_network("fd77::/64")]
TEMPORARY, DEPRECATED, TENTATIVE, DAD_FAILED = 0x01, 0x20, 0x40, 0x08


def pick(*found: LocalAddress, first: int = 0) -> list[str]:
    return list(usable(found, [1, 2], OVERLAY, first))


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "::1", "224.0.0.1", "ff02::1", "0.0.0.0", "10.77.0.9", "fd77::9"]
)
def test_addresses_that_nobody_may_be_told(host: str) -> None:
    assert pick(LocalAddress(host, 1, 0)) == []


@pytest.mark.parametrize("flag", [DEPRECATED, TENTATIVE, DAD_FAILED])
def test_addresses_that_do_not_work_now_are_left_out(flag: int) -> None:
    assert pick(LocalAddress("2001:db8::1", 1, flag)) == []
    assert pick(LocalAddress("2001:db8::1", 1, 0)) == ["2001:db8::1"]


def test_temporary_address_counts_only_without_a_stable_one_of_its_network() -> None:
    temporary, stable = LocalAddress("2001:db8::2", 1, TEMPORARY), LocalAddress("2001:db8::1", 1, 0)
    assert pick(temporary) == ["2001:db8::2"]
    assert pick(temporary, stable) == ["2001:db8::1"]
    assert len(pick(temporary, LocalAddress("2001:db8:0:1::1", 1, 0))) == 2
    assert pick(LocalAddress("192.0.2.2", 1, TEMPORARY)) == ["192.0.2.2"], "secondary, in IPv4"


def test_link_local_has_its_scope_and_links_that_are_down_do_not_count() -> None:
    other = LocalAddress("192.0.2.2", 2, 0)
    assert pick(LocalAddress("fe80::1", 2, 0), other) == ["fe80::1%2", "192.0.2.2"]
    assert pick(LocalAddress("fe80::1", 2, 0)) == [], "as of a container's link"
    assert pick(LocalAddress("169.254.7.7", 2, 0)) == ["169.254.7.7"]
    assert pick(LocalAddress("192.0.2.1", 3, 0)) == []


def test_the_way_out_comes_first_and_the_number_is_bounded() -> None:
    many = [LocalAddress(f"192.0.2.{number}", 1, 0) for number in range(1, 100)]
    assert len(pick(*many)) == network.MAX_ADDRESSES
    assert pick(*many, LocalAddress("198.51.100.1", 2, 0), first=2)[0] == "198.51.100.1"
