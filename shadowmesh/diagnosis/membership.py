"""Checks of membership: certificate, revocations, renewal, names. Pure functions of the facts."""

from __future__ import annotations

from shadowmesh.api.schema import NetworkStatus
from shadowmesh.diagnosis.facts import Facts, Papers, Unseen
from shadowmesh.diagnosis.findings import Result, Verdict, check, listed, note, ok, problem, skipped, warning
from shadowmesh.output import duration

OK, SKIPPED, NOTE, WARNING, PROBLEM = Result

USUAL_WARNING = 14 * 86_400.0
"""Seconds before the end of a certificate of whose length nothing is known (`core.expiry.WARN_BEFORE`)."""
NONE = "this machine is in no network with certificates"
NO_RESOLVED = " [names.no-resolved]"
"""Nothing on this machine could ask by itself, and nobody wanted it: no reason for a note."""


@check("membership.certificate", OK, WARNING, PROBLEM, SKIPPED)
def certificate(facts: Facts) -> Verdict:
    """The dates of our certificate."""
    network, papers = _seen(facts)
    if facts.papers_problem:
        return problem(facts.papers_problem, "put the files of network.file and network.certificate right")
    if isinstance(papers, Unseen):
        return skipped(papers)
    if network is None and papers is None:
        return skipped(NONE)
    left = network.expires_in if network is not None else 0.0
    before = USUAL_WARNING
    if papers is not None:
        left = left if network is not None else papers.not_after - facts.now
        before = papers.warn_before
        if facts.now < papers.not_before:
            text = f"the certificate begins in {duration(papers.not_before - facts.now)}"
            return problem(text, "is the machine's clock right? else have it signed again")
    if left < 0:
        text = f"the certificate expired {duration(-left)} ago"
        return problem(text, "have it signed: network renew NAME at the authority, then reload")
    text = f"the certificate holds for {duration(left)}"
    if left < before:
        why = f" ({network.renewal_error})" if network is not None and network.renewal_error else ""
        return warning(f"{text} only{why}", "network renew NAME at the authority, or a member that renews")
    return ok(text)


@check("membership.revocations", OK, NOTE, WARNING, SKIPPED)
def revocations(facts: Facts) -> Verdict:
    """The revocation list."""
    network, papers = _seen(facts)
    if isinstance(papers, Unseen):
        return skipped(papers)
    if network is None and papers is None:
        return skipped(NONE)
    number = network.revocation_list if network is not None else papers.list_number if papers else 0
    if not number:
        return note(
            "no revocation list is known here", "nothing, unless the authority has issued one: spread it"
        )
    if papers is not None and papers.list_until is not None and facts.now > papers.list_until:
        text = f"revocation list {number} is {duration(facts.now - papers.list_until)} past its date"
        return warning(text, "the authority should issue the next one, and network spread it")
    age = network.revocation_list_age if network is not None else None
    return ok(f"revocation list {number}{'' if age is None else f', {duration(age)} old'}")


@check("membership.renewal", OK, NOTE, SKIPPED)
def renewal(facts: Facts) -> Verdict:
    """Who renews certificates."""
    network, _ = _seen(facts)
    if isinstance(facts.status, Unseen):
        return skipped(facts.status) if facts.papers is not None else skipped(NONE)
    if network is None:
        return skipped(NONE)
    able = [peer.name for peer in facts.status.peers if peer.renews]
    able += ["this machine"] * (network.renews_for is not None)
    if able:
        return ok(f"certificates are renewed by {listed(able)}")
    text = "nobody that is met now renews certificates"
    return note(text, "network delegate lets a member do it; else network renew at the authority in time")


@check("membership.warnings", OK, WARNING, SKIPPED)
def warnings(facts: Facts) -> Verdict:
    """What the running client warns of itself."""
    network, _ = _seen(facts)
    if isinstance(facts.status, Unseen):
        return skipped(facts.status) if facts.papers is not None else skipped(NONE)
    if network is None:
        return skipped(NONE)
    if network.warnings:
        return warning(listed(network.warnings), "each says what to do; `status` shows them")
    return ok(f"the client has nothing to warn of in network {network.name}")


@check("membership.names", OK, NOTE, WARNING, SKIPPED)
def names(facts: Facts) -> Verdict:
    """The resolver of members' names, and who asks it."""
    if isinstance(facts.status, Unseen):
        return skipped(facts.status)
    found = facts.status.names
    if found is None:
        return skipped("names.serve is off")
    if found.problem is not None:
        text = f"names below .{found.domain} are not resolved: {found.problem}"
        remedy = "end what listens there, or let the client listen below 1024 (drop-in names.conf)"
        return warning(text, f"{remedy}; names.serve: off, if nobody needs names")
    advice = found.advice or ""  # without an id at its end it is as the configuration says
    if advice.endswith("]") and not advice.endswith(NO_RESOLVED):
        return note(f"not every program of this machine asks for names below .{found.domain}", advice)
    where = ", ".join(found.listen)
    return ok(f"names below .{found.domain} are resolved at {where}; asked by: {found.host}")


def _seen(facts: Facts) -> tuple[NetworkStatus | None, Papers | Unseen | None]:
    """What the running client says, and the files where that is not enough or there is none."""
    network = None if isinstance(facts.status, Unseen) else facts.status.node.network
    papers = facts.papers
    if isinstance(papers, Unseen) and network is not None:
        papers = None
    return network, papers
