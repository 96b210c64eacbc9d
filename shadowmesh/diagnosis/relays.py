"""Checks of the clock, the relays and their names, and UDP. Pure functions of the facts."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from shadowmesh.api.schema import RelayCheck
from shadowmesh.diagnosis.facts import Facts, Unseen
from shadowmesh.diagnosis.findings import Result, Verdict, check, listed, note, ok, problem, skipped, warning
from shadowmesh.diagnosis.paths import IpNetwork, overlay
from shadowmesh.output import duration

OK, SKIPPED, NOTE, WARNING, PROBLEM = Result

SKEW_NOTED, SKEW = 30.0, 300.0
"""Seconds: worth a word; and from where on the client itself warns (`node.standing.SKEW`)."""
LOSSY = 0.05
"""Share of exchanges with a relay: above, TCP inside slows down for good."""
LOADED = 90
"""Percent of a relay's capacity."""

_RELAY_SAYS = "the relay says: "
"""How the client's words on a relay that refused it begin (`core.relays`)."""
_REFUSED = " [link.refused]"
"""How they end then, whatever the relay says (`core.failure`)."""
_OTHER_IDENTITY = ("its NodeID differs", "is my NodeID the one that you pinned")
"""In the words of either side on a relay that is another than the pinned one (`session.machine`)."""
_NTP = "turn on NTP (systemctl enable --now systemd-timesyncd, or chrony)"


@check("clock.skew", OK, NOTE, WARNING, PROBLEM, SKIPPED)
def skew(facts: Facts) -> Verdict:
    """This machine's clock against that of the relay that is known best."""
    if not isinstance(facts.status, Unseen) and facts.status.node.network is not None:
        behind = facts.status.node.network.clock_behind
        if behind:
            return problem(
                f"the clock is at least {duration(behind)} behind what was seen here", f"set it; {_NTP}"
            )
    if isinstance(facts.netcheck, Unseen):
        return skipped(facts.netcheck)
    told = [
        (relay.clock_error or 0.0, relay.clock_skew, relay.address)
        for relay in facts.netcheck.relays
        if relay.clock_skew is not None
    ]
    if not told:
        return skipped("no relay has told its time")
    error, ahead, name = min(told)
    off = max(0.0, abs(ahead) - error)
    if off <= SKEW_NOTED:
        return ok(f"the clock agrees with that of relay {name}, within {max(abs(ahead), error, 0.1):.1f} s")
    text = f"the clock is {duration(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'} that of relay {name}"
    if off <= SKEW:
        return note(text, _NTP)
    if facts.papers is not None:
        return problem(f"{text}; dates of certificates are held against it", f"set it; {_NTP}")
    return warning(text, f"set it; {_NTP}")


@check("clock.ntp", OK, NOTE, SKIPPED)
def ntp(facts: Facts) -> Verdict:
    """Whether anything keeps the clock."""
    if facts.machine.synchronised is None:
        return skipped("the kernel does not tell whether its clock is kept")
    if facts.machine.synchronised:
        return ok("the kernel's clock is synchronised")
    return note("nothing keeps this machine's clock (it is not synchronised)", _NTP)


@check("dns.relays", OK, WARNING, PROBLEM, SKIPPED)
def names(facts: Facts) -> Verdict:
    """The names of the relays."""
    if isinstance(facts.names, Unseen):
        return skipped(facts.names)
    if not facts.names:
        return ok("the relays are given by addresses; no name has to be resolved")
    bad = [one for one in facts.names if one.problem]
    remedy = "look at /etc/resolv.conf and at the spelling; an address in relays[].address needs no DNS"
    if bad:
        text = listed(f"{one.host}: {one.problem}" for one in bad)
        return problem(text, remedy) if len(bad) == len(facts.names) else warning(text, remedy)
    inside = [one.host for one in facts.names if _within(one.addresses, overlay(facts))]
    if inside:
        text = f"{listed(inside)} resolves to an address of the overlay itself"
        return problem(text, "give the relay a name or address outside of it")
    return ok(listed(f"{one.host} is {', '.join(one.addresses[:2])}" for one in facts.names))


@check("relay.reachable", OK, WARNING, PROBLEM, SKIPPED)
def reachable(facts: Facts) -> Verdict:
    """Whether relays answer."""
    if isinstance(facts.netcheck, Unseen):
        return skipped(facts.netcheck)
    relays = facts.netcheck.relays
    if not relays:
        return skipped("there is no relay in the configuration")
    away = [relay for relay in relays if relay.state != "connected"]
    text = listed(f"{relay.address}: {relay.last_error or relay.state}" for relay in away)
    if len(away) == len(relays):
        return problem(f"no relay is connected; {text}", "is it up? does its UDP port get through to it?")
    if away:
        return warning(text, "is it up? the others serve meanwhile")
    return ok(listed(f"{one.address} answers" for one in relays))


@check("relay.admitted", OK, PROBLEM, SKIPPED)
def admitted(facts: Facts) -> Verdict:
    """Whether relays let us in."""
    if isinstance(facts.netcheck, Unseen):
        return skipped(facts.netcheck)
    relays = facts.netcheck.relays
    refused = [one for one in relays if (one.last_error or "").endswith(_REFUSED) and not _is_another(one)]
    if refused:
        text = listed(f"{one.address}: {(one.last_error or '').removeprefix(_RELAY_SAYS)}" for one in refused)
        remedy = "put this NodeID (shadowmesh-client id) into admission.nodes there, or mend what it says"
        return problem(f"refused by {text}", remedy)
    return _of_connected(facts.netcheck.relays, "admits us")


@check("relay.identity", OK, PROBLEM, SKIPPED)
def identity(facts: Facts) -> Verdict:
    """Whether relays are those that are pinned."""
    if isinstance(facts.netcheck, Unseen):
        return skipped(facts.netcheck)
    others = [one.address for one in facts.netcheck.relays if _is_another(one)]
    if others:
        remedy = "compare relays[].id with `shadowmesh-relay id` there; if they agree, somebody is in between"
        return problem(f"{listed(others)} has another identity than the pinned one", remedy)
    return _of_connected(facts.netcheck.relays, "has the pinned NodeID")


@check("relay.quality", OK, WARNING, SKIPPED)
def quality(facts: Facts) -> Verdict:
    """Loss and load of relays that are connected."""
    if isinstance(facts.netcheck, Unseen):
        return skipped(facts.netcheck)
    bad = [f"{one.address} loses {one.loss:.0%}" for one in facts.netcheck.relays if (one.loss or 0) >= LOSSY]
    bad += [
        f"{one.address} is {one.load}% loaded" for one in facts.netcheck.relays if (one.load or 0) >= LOADED
    ]
    if bad:
        return warning(listed(bad), "add a relay, or look at the line to it")
    return _of_connected(facts.netcheck.relays, "has little loss and load")


@check("udp.works", OK, WARNING, PROBLEM, SKIPPED)
def udp(facts: Facts) -> Verdict:
    """Whether UDP comes through."""
    if isinstance(facts.netcheck, Unseen):
        return skipped(facts.netcheck)
    found = facts.netcheck
    if found.udp == "works":
        return ok(f"UDP works; {found.datagram} bytes pass")
    if found.udp == "no network":
        return problem("this machine has no network", "bring an interface up, with an address")
    if any(relay.transport == "tcp" for relay in found.relays):
        return warning(
            "UDP is blocked: relays answer over TCP only", "let UDP out, or bear with the slower way"
        )
    text = "no relay answers by UDP: it is blocked here, or all relays are down"
    return problem(text, "let UDP out; relays[].tcp is for networks that never will")


@check("udp.nat", OK, NOTE, SKIPPED)
def nat(facts: Facts) -> Verdict:
    """What the NAT means for direct paths."""
    if isinstance(facts.netcheck, Unseen):
        return skipped(facts.netcheck)
    found = facts.netcheck.nat
    if found.mapped:
        return ok(f"the router maps {found.mapped} to this machine")
    if found.mapping in ("address-dependent", "address-and-port-dependent"):
        text = f"the NAT maps {found.mapping} (symmetric): direct paths only to peers without such a one"
        return note(text, "turn on PCP, NAT-PMP or UPnP in the router, or forward a port")
    if found.mapping == "unknown":
        return skipped("what the NAT does is not known; it takes two relays, or one with a second_port")
    return ok(f"NAT mapping: {found.mapping}")


def _is_another(relay: RelayCheck) -> bool:
    return any(words in (relay.last_error or "") for words in _OTHER_IDENTITY)


def _of_connected(relays: Iterable[RelayCheck], what: str) -> Verdict:
    """Fine as far as it is known: of relays that are connected."""
    there = [one.address for one in relays if one.state == "connected"]
    return ok(listed(f"{address} {what}" for address in there)) if there else skipped("no relay is connected")


def _within(addresses: Iterable[str], prefixes: list[IpNetwork]) -> bool:
    ips = [ipaddress.ip_address(address.partition("%")[0]) for address in addresses]
    return any(ip in prefix for ip in ips for prefix in prefixes if ip.version == prefix.version)
