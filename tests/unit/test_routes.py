"""Which gateway carries which prefix: permission, loops, failover with hysteresis."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from shadowmesh.config import Route
from shadowmesh.overlay.routes import RETURN_AFTER, Gateway, Guarded, Key, Routes

LAN = "192.168.5.0/24"
KEY = Key(LAN, 1024)
OVERLAY = [ipaddress.ip_network("10.77.0.0/16"), ipaddress.ip_network("fd77::/64")]
BOB = Gateway("bob", ("10.77.0.2", "fd77::2"), ("192.168.0.0/16", "fd00:5::/48"), alive=True)
CAROL = Gateway("carol", ("10.77.0.3",), (LAN,), alive=True)


def to(prefix: str = LAN, via: str = "bob", metric: int = 1024) -> Route:
    return Route(via=via, to=prefix, metric=metric)


def look(
    routes: Routes,
    *gateways: Gateway,
    now: float = 100.0,
    guarded: Sequence[Guarded] = (),
) -> Mapping[Key, str]:
    known: dict[str, Gateway | None] = {entry.route.via: None for entry in routes.entries}
    return routes.update(known | {one.name: one for one in gateways}, guarded, OVERLAY, now)


def verdict(routes: Routes, index: int = 0) -> str:
    return f"{routes.entries[index].state}: {routes.entries[index].reason}"


def test_a_prefix_that_the_certificate_covers_is_installed_by_its_family() -> None:
    routes = Routes([to(), to("fd00:5:0:1::/64")])
    assert look(routes, BOB) == {KEY: "10.77.0.2", Key("fd00:5:0:1::/64", 1024): "fd77::2"}
    assert verdict(routes) == "installed: "


@pytest.mark.parametrize(
    ("route", "gateway", "expected"),
    [
        (to("192.0.0.0/8"), BOB, "refused: bob may not carry 192.0.0.0/8 (its routes: 192.168.0.0/16, fd"),
        (to("172.16.0.0/16"), BOB, "refused: bob may not carry 172.16.0.0/16"),
        (to("fd00::/32"), BOB, "refused: bob may not carry fd00::/32"),
        (to(), replace(BOB, allowed=()), f"refused: bob may not carry {LAN} (its routes: none)"),
        (to(), replace(BOB, allowed=None), "waiting: the certificate of bob is not known yet"),
        (to(), replace(BOB, revoked="bob is revoked (list 3 of home)"), "refused: bob is revoked (list 3"),
        (to("fd00:5::/48"), replace(BOB, addresses=("10.77.0.2",)), "refused: bob has no IPv6 address"),
        (to("10.77.9.0/24"), replace(BOB, allowed=("10.0.0.0/8",)), "refused: 10.77.9.0/24 overlaps the"),
        (to(via="dave"), BOB, "waiting: no member dave is known yet"),
    ],
)  # fmt: skip
def test_what_may_not_be_is_refused_by_name_and_the_rest_works_on(
    route: Route, gateway: Gateway, expected: str
) -> None:
    routes = Routes([route, to(via="carol")])
    assert look(routes, gateway, CAROL) == {KEY: "10.77.0.3"}
    assert verdict(routes).startswith(expected)


def test_a_route_that_would_swallow_the_underlay_is_refused_while_it_would() -> None:
    routes = Routes([to()])
    guarded = [Guarded("192.168.5.1", "the address of relay home.test:4433")]
    assert look(routes, BOB) != {}
    assert look(routes, BOB, guarded=guarded) == {}
    assert verdict(routes) == f"refused: {LAN} would swallow 192.168.5.1, the address of relay home.test:4433"
    assert look(routes, BOB, guarded=[Guarded("192.168.6.1", ""), Guarded("fe80::1%eth0", "")]) != {}


def test_the_first_gateway_with_a_session_carries_and_the_next_takes_over_at_once() -> None:
    routes = Routes([to(), to(via="carol")])
    gone = replace(BOB, alive=False)
    assert look(routes, BOB, CAROL) == {KEY: "10.77.0.2"}
    assert verdict(routes, 1) == "standby: "
    assert look(routes, gone, CAROL, now=101.0) == {KEY: "10.77.0.3"}
    assert verdict(routes, 0) == "standby: bob does not answer"
    assert look(routes, replace(BOB, revoked="bob is revoked"), CAROL, now=102.0) == {KEY: "10.77.0.3"}


def test_routes_move_back_only_to_a_gateway_that_stays() -> None:
    routes = Routes([to(), to(via="carol")])
    gone = replace(BOB, alive=False)
    look(routes, gone, CAROL, now=100.0)
    assert look(routes, BOB, CAROL, now=101.0) == {KEY: "10.77.0.3"}
    assert look(routes, gone, CAROL, now=104.0) == {KEY: "10.77.0.3"}
    assert look(routes, BOB, CAROL, now=105.0) == {KEY: "10.77.0.3"}
    assert look(routes, BOB, CAROL, now=105.0 + RETURN_AFTER - 0.1) == {KEY: "10.77.0.3"}
    assert look(routes, BOB, CAROL, now=105.0 + RETURN_AFTER) == {KEY: "10.77.0.2"}


def test_without_any_session_packets_stay_in_the_overlay() -> None:
    routes = Routes([to(), to(via="carol")])
    gone = [replace(one, alive=False) for one in (BOB, CAROL)]
    assert look(routes, *gone) == {KEY: "10.77.0.2"}, "never a session: the first of the file"
    look(routes, gone[0], CAROL)
    assert look(routes, *gone) == {KEY: "10.77.0.3"}, "it stays where it was"
    assert look(routes, gone[0], replace(CAROL, allowed=())) == {KEY: "10.77.0.2"}, "but not where it may not"


def test_what_the_system_refuses_is_told() -> None:
    routes = Routes([to()])
    look(routes, BOB)
    routes.refuse(KEY, "there is a route already")
    assert verdict(routes) == "refused: there is a route already"
