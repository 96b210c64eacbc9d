"""Invitations as people use them: opened, shown and judged through the local API of the running client.

Makes tokens, and shows nothing of them later. What a guest gets is decided by `membership.invitations`.
"""

from __future__ import annotations

import secrets
import time
from typing import Literal, cast

from shadowmesh.api.schema import (
    DelegateReply,
    InvitationReply,
    InvitationRequest,
    InvitationsReply,
    InvitationStatus,
    InvitationUse,
    InvitationVerdict,
    VerdictReply,
    WaitingNode,
)
from shadowmesh.core.node import Core
from shadowmesh.core.relays import RelayClient, RelayState
from shadowmesh.crypto.identity import Identity, node_id_text
from shadowmesh.errors import BadPacket, ConfigError, Failure, NotMember
from shadowmesh.membership.guard import Membership
from shadowmesh.membership.invitations import Invitation, Invitations
from shadowmesh.membership.token import SECRET_SIZE, Token

State = Literal["open", "used", "expired", "revoked"]
Verdict = Literal["", "approved", "refused"]


class Inviting:
    """One per running client."""

    def __init__(self, core: Core, identity: Identity) -> None:
        self._core = core
        self._identity = identity

    def show(self) -> InvitationsReply:
        """All of them. Raises ConfigError without a network, as every method does."""
        network = self._membership.network
        return InvitationsReply(
            network=network.name,
            network_id=node_id_text(network.id),
            invitations=[self._status(one) for one in self._book.all],
            refused={
                relay: Failure("invite.not-taken", why).told
                for relay, why in self._core.guests.refused.items()
            },
        )

    def delegate(self) -> DelegateReply:
        """The keys that sign for joining nodes. ConfigError too if no relay could bring them to us."""
        self._relay()
        keys = self._identity.public
        network_id = node_id_text(self._membership.network.id)
        return DelegateReply(network_id=network_id, ed25519=keys.ed25519, mldsa=keys.mldsa)

    def invite(self, wanted: InvitationRequest) -> InvitationReply:
        """Open one, and tell the relays. Raises ConfigError."""
        relay, network = self._relay(), self._membership.network
        secret = secrets.token_bytes(SECRET_SIZE)
        tcp = str(relay.config.tcp or "")
        token = Token(network.id, self._core.node_id, relay.config.id, relay.name, secret, tcp)
        try:
            made = self._book.add(
                token.id, token.key, wanted.name, wanted.delegation, wanted.ttl, wanted.by_hand
            )
        except (ValueError, NotMember) as error:
            raise ConfigError(str(error), "invite.refused") from None
        except BadPacket:
            raise ConfigError("the delegation is damaged", "invite.refused") from None
        self._register()
        return InvitationReply(token=token.encode(), relay=relay.name, expires=made.expires)

    def judge(self, wanted: InvitationVerdict) -> VerdictReply:
        """A person's word. Raises ConfigError."""
        try:
            if wanted.verdict == "revoked":
                return VerdictReply(name=self._book.revoke(wanted.label)[0].name)
            invitation, node = self._book.decide(wanted.label, wanted.verdict)
        except (ValueError, NotMember) as error:
            raise ConfigError(str(error), "invite.refused") from None
        self._core.guests.handle_verdict(invitation, node, time.monotonic())
        return VerdictReply(name=invitation.name, node_id=node_id_text(node))

    # Inside.

    @property
    def _membership(self) -> Membership:
        membership = self._core.members.membership
        if membership is None:
            text = "this client is in no network: its configuration has no `network:`"
            raise ConfigError(text, "network.none")
        return membership

    @property
    def _book(self) -> Invitations:
        book = self._core.guests.invitations
        if book is None:
            text = "this client is in no network: its configuration has no `network:`"
            raise ConfigError(text, "network.none")
        return book

    def _relay(self) -> RelayClient:
        """The one that the token names: joiner and inviter meet there."""
        refused = self._core.guests.refused
        up = [relay for relay in self._core.relays if relay.state is RelayState.CONNECTED]
        willing = [relay for relay in up if relay.name not in refused]
        if not willing:
            why = next(iter(refused.values()), "none is connected just now")
            raise ConfigError(f"no relay takes invitations: {why}", "invite.no-relay")
        return willing[0]

    def _register(self) -> None:
        for relay in self._core.relays:
            if relay.state is RelayState.CONNECTED:
                self._core.guests.handle_relay_up(relay, time.monotonic())

    def _status(self, one: Invitation) -> InvitationStatus:
        grants = {grant.serial: grant.name for grant in one.grants}
        return InvitationStatus(
            name=one.name,
            state=cast(State, self._book.state(one)),
            created=one.created,
            expires=one.expires,
            by_hand=one.by_hand,
            grants=len(grants),
            turned_away=one.turned_away,
            uses=[
                InvitationUse(
                    node_id=node_id_text(use.node),
                    name=grants[use.serial],
                    serial=use.serial,
                    at=use.at,
                    source=use.source,
                )
                for use in one.uses
            ],
            waiting=[
                WaitingNode(
                    node_id=node_id_text(node.node),
                    at=node.at,
                    source=node.source,
                    verdict=cast(Verdict, node.verdict),
                )
                for node in one.waiting
            ],
        )
