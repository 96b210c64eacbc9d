"""Why frames to a peer take the path that they take: both sides' views, what they come to, what to do.

Words only: it reads what the path layer knows and changes nothing.
"""

from __future__ import annotations

from shadowmesh.api.schema import Side, TriedAddress, WhyReply
from shadowmesh.core.local import LocalNetwork
from shadowmesh.core.refusals import Refusals
from shadowmesh.core.routing import Mode, Routing
from shadowmesh.crypto.identity import node_id_text
from shadowmesh.errors import Failure
from shadowmesh.membership.roster import Member
from shadowmesh.path.finder import MOVING_NAT
from shadowmesh.path.view import view
from shadowmesh.wire.messages import PathView

REFUSED = {
    "spoofed_source": "they claim the MAC address of another machine (spoofed_source)",
    "spoofed_address": "they claim an address that is not its own; if it should be, put it into its "
    "certificate, or into `peers[].addresses` (spoofed_address)",
    "dhcp_guard": "they are replies of a DHCP server, which takes the right `dhcp` (dhcp_guard)",
    "ra_guard": "they are router advertisements or redirects, which takes the right `ra`, or neighbour "
    "discovery in fragments (ra_guard)",
    "broadcast_budget": "they are more broadcast and multicast than `interface.broadcast` allows; look there "
    "for a storm, or a loop (broadcast_budget)",
    "malformed_packet": "their headers contradict each other or hide the sender (malformed_packet)",
}
"""What the guards refuse, by reason."""

PICKY_NAT = "filtering address-and-port-dependent"
TOO_LARGE = "full-size"
"""Part of the detail of an address that answered small packets only."""


def explain(
    member: Member,
    routing: Routing,
    mode: Mode,
    network: LocalNetwork,
    problem: str | None,
    refusals: Refusals,
    clock: str | None = None,
    over_tcp: str | None = None,
) -> WhyReply:
    """The story.

    :param problem: why frames go nowhere at all, if they do.
    :param refusals: of frames that came from there.
    :param clock: what is to be said of this machine's clock.
    :param over_tcp: the relay of the peer's channel, if its leg runs over TCP.
    """
    here = _side(view(routing.paths, network.nat))
    there = _side(routing.peer_view) if routing.peer_view is not None else None
    direct = routing.name is not None and routing.paths.direct is not None
    if routing.name is None:
        findings: list[str] = [f"there is no path to {member.name}: {problem or 'it is being set up'}"]
        advice: list[str] = []
        findings += [clock] if clock else []
    elif direct:
        findings, advice = _direct(member.name, there)
    else:
        findings, advice = _relayed(member.name, mode, here, there)
        if over_tcp is not None:
            slower = f"UDP to relay {over_tcp} is blocked, so our leg to it runs over TCP: it is slower"
            findings.append(Failure("path.tcp", slower).told)
            advice.append(f"let UDP to {over_tcp} out of this network")
    for reason, count in refusals.counts.items():
        words = f"{count} frames of {member.name} were refused: {REFUSED[reason]}"
        findings.append(Failure("peer.frames-refused", words).told)
    if refusals.counts:
        findings.append(f"the last of them that was looked at: {refusals.example}")
    return WhyReply(
        peer=member.name,
        node_id=node_id_text(member.node_id),
        direct=direct,
        here=here,
        there=there,
        findings=findings,
        advice=advice,
    )


def _side(seen: PathView) -> Side:
    tried = [TriedAddress(address=one.address, state=one.state, detail=one.detail) for one in seen.tried]
    return Side(path=seen.path, reason=seen.reason, nat=seen.nat, tried=tried)


def _direct(name: str, there: Side | None) -> tuple[list[str], list[str]]:
    findings = [f"our frames to {name} take a direct path that carried a full-size packet and back"]
    if there is not None and not there.path.startswith("direct"):
        findings.append(f"{name} sends to us by {there.path}: each side chooses for itself ({there.reason})")
    return findings, []


def _relayed(name: str, mode: Mode, here: Side, there: Side | None) -> tuple[list[str], list[str]]:
    """The first thing that stands in the way, from the surest to the least sure."""
    if mode == "never":
        finding = Failure("path.off", "direct paths are switched off here")
        return [finding.told], ["set `paths: {direct: auto}` in the configuration"]
    if not here.tried:
        return _nothing_to_try(name, mode)
    usable = [one.address for one in here.tried if one.state == "usable"]
    if usable:
        return [
            f"a direct path to {', '.join(usable)} works, but the relay is clearly better: {here.reason}"
        ], []
    checking = [one.address for one in here.tried if one.state in ("trying", "checking") and not one.detail]
    if checking:
        finding = Failure("path.trying", f"{len(checking)} addresses of {name} are being tried right now")
        return [finding.told], ["ask again in some seconds"]
    if any(TOO_LARGE in one.detail for one in here.tried):
        words = (
            f"{name} answers small packets directly, but none of 1200 bytes: something on the way drops them"
        )
        return [Failure("path.too-narrow", words).told], [
            "look for a tunnel or a firewall with a small MTU on the way, or one that drops fragments"
        ]
    return _unanswered(name, here, there)


def _nothing_to_try(name: str, mode: Mode) -> tuple[list[str], list[str]]:
    if mode == "static":
        words = (
            f"the configuration names no `endpoint:` for {name}, and `paths: {{direct: static}}` "
            "tries nothing else"
        )
        advice = "name an endpoint, or set `paths: {direct: auto}`"
    else:
        words = f"{name} has told us no address at which it might be reached"
        advice = f"look at `paths:` in the configuration of {name}: `never` and `static` tell nobody"
    return [Failure("path.off", words).told], [advice]


def _unanswered(name: str, here: Side, there: Side | None) -> tuple[list[str], list[str]]:
    silence = Failure("path.unanswered", f"none of {len(here.tried)} addresses of {name} has answered us")
    findings = [silence.told]
    if there is None:
        findings.append(f"{name} has not told how it looks from there")
    elif there.tried:
        findings.append(f"{name} tried {len(there.tried)} of ours: {_outcome(there)}")
    else:
        findings.append(f"{name} tries none of ours: direct paths may be switched off there")
    nats = [("here", here.nat), (f"at {name}", there.nat if there is not None else "")]
    moving = [where for where, nat in nats if MOVING_NAT in nat]
    picky = [where for where, nat in nats if PICKY_NAT in nat]
    if moving and (len(moving) == 2 or set(picky) - set(moving)):
        words = (
            f"the NAT {' and the NAT '.join(moving)} takes another port for each destination, and the "
            "other side's lets in only what it has written to: neither can know where to write"
        )
        return [*findings, Failure("path.nat", words).told], [
            "turn on UPnP, NAT-PMP or PCP in one of the routers, or forward a UDP port there and name it as "
            "`endpoint:` on the other side, or use IPv6"
        ]
    return findings, [
        "let UDP through: a firewall here, there or in between drops it; or forward a UDP port in one "
        "router and name it as `endpoint:` on the other side"
    ]


def _outcome(side: Side) -> str:
    details = dict.fromkeys(one.detail or one.state for one in side.tried)
    return "; ".join(details)
