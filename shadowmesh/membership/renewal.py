"""Renewal: when a certificate wants a next one, and the next one from a member with a delegation for that.

A delegate changes the dates and nothing else; what everybody then checks is in `delegation.py`. How the
question travels is not known here.
"""

from __future__ import annotations

from msgspec.structs import replace

from shadowmesh.crypto.identity import Identity
from shadowmesh.errors import NotMember
from shadowmesh.membership.certificate import Certificate, CertificateBody, date_text
from shadowmesh.membership.delegation import BASIS_GRACE, Credentials, Delegation, Scope
from shadowmesh.membership.guard import Guard
from shadowmesh.units import NodeId

BACKDATE = 3600
"""Seconds that a renewed certificate begins before it was signed: clocks of members may be behind."""
RENEW_AT = 0.4
"""Share of its life that a certificate has left when it is renewed: before `status` warns, at a third."""
RENEW_JITTER = 0.05
"""Share of its life by which that is later, at most: members signed together do not ask together."""
LEAST_GAIN = 0.1
MOST_GAIN = 5 * 86_400
"""Share of its life, and seconds at most, that a renewal must add: nobody renews every hour because a
delegation ends soon."""


def life(body: CertificateBody) -> int:
    """Seconds from a certificate's begin to its end."""
    return body.not_after - body.not_before


def renew_at(body: CertificateBody, jitter: float) -> float:
    """When to ask for the next certificate, in seconds since 1970.

    :param jitter: from 0 to 1, of this certificate.
    """
    return body.not_after - life(body) * (RENEW_AT - RENEW_JITTER * jitter)


class Delegate:
    """A member that may renew the certificates of others, and its own.

    Raises NotMember if the delegation is not this identity's.
    """

    def __init__(self, identity: Identity, delegation: Delegation) -> None:
        if delegation.body.scope is not Scope.RENEW:
            raise NotMember("wrong_scope", "the delegation is not for renewals")
        if delegation.delegate.node_id != identity.node_id:
            raise NotMember("wrong_node", "the delegation is for another NodeID")
        self.delegation = delegation
        self._identity = identity

    @property
    def until(self) -> int:
        """When it ends, in seconds since 1970."""
        return self.delegation.body.not_after

    def renew(self, shown: Credentials, node: NodeId, guard: Guard) -> Credentials:
        """The next certificate of `node`, which has shown these on its session. Raises NotMember."""
        now = guard.clock.now()
        basis = self._basis(shown)
        old = shown.certificate.body
        begin = int(now) - BACKDATE
        end = min(begin + life(basis.body), self.until, basis.body.not_after + BASIS_GRACE)
        for signed in (basis.signed, self.delegation.signed):
            end = int(min(end, guard.network.signer_until(signed)))
        if end < old.not_after + min(LEAST_GAIN * life(basis.body), MOST_GAIN):
            raise NotMember("no_gain", self._no_gain(old, basis))
        body = replace(basis.body, not_before=min(begin, end), not_after=end)
        made = Credentials(Certificate.make(body, self._identity), self.delegation, basis)
        made.admit(guard.network, guard.revocations, node, now)
        return made

    @staticmethod
    def _basis(shown: Credentials) -> Certificate:
        if shown.delegation is None:
            return shown.certificate
        if shown.basis is None:
            name = shown.certificate.body.name
            text = f"the authority has not signed the certificate of {name} itself, so it has to renew it"
            raise NotMember("no_basis", text)
        return shown.basis

    def _no_gain(self, old: CertificateBody, basis: Certificate) -> str:
        late = min(self.until, basis.body.not_after + BASIS_GRACE)
        what = "the delegation" if late == self.until else "what a delegate may add to its certificate"
        return f"{what} ends at {date_text(late)}, too soon to renew the certificate of {old.name}"
