"""What can be asked of the local control API: one table, of which server, OpenAPI document and docs are made.

Data only; how each is answered is in `server`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from shadowmesh.api.live import EventsQuery, LogQuery, LogReply, Samples, SamplesQuery
from shadowmesh.api.schema import (
    DelegateReply,
    InvitationReply,
    InvitationRequest,
    InvitationsReply,
    InvitationVerdict,
    Netcheck,
    PingReply,
    PingRequest,
    ReloadReply,
    RevocationsReply,
    RevocationsRequest,
    Status,
    VerdictReply,
    WhyReply,
    WhyRequest,
)

Media = Literal["application/json", "text/event-stream"]


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One request. Where `changes` is true it is only for root and the client's own user.

    `reply` is the struct of the answer, None for any JSON object; `problems` gives reasons by HTTP status.
    """

    id: str
    method: Literal["GET", "POST"]
    path: str
    summary: str
    changes: bool
    body: type | None = None
    query: type | None = None
    reply: type | None = None
    code: int = 200
    media: Media = "application/json"
    problems: dict[int, str] = {}


_NO_PEER = {404: "`unknown-peer`: the client has no such peer"}
_NO_NETWORK = {422: "`refused`: the client is in no network, or the message says what else"}

OPERATIONS = (
    Operation(
        id="status",
        method="GET",
        path="/v1/status",
        summary="The client, its relays and its peers now.",
        changes=False,
        reply=Status,
    ),
    Operation(
        id="samples",
        method="GET",
        path="/v1/samples",
        summary="Throughput, round trips and drops of the last 300 seconds, second by second.",
        changes=False,
        query=SamplesQuery,
        reply=Samples,
    ),
    Operation(
        id="log",
        method="GET",
        path="/v1/log",
        summary="The latest lines of the client's log.",
        changes=False,
        query=LogQuery,
        reply=LogReply,
    ),
    Operation(
        id="events",
        method="GET",
        path="/v1/events",
        summary="Server-sent events: statuses, samples and lines of the log, as they come.",
        changes=False,
        query=EventsQuery,
        media="text/event-stream",
        problems={503: "`busy`: too many programs read events already"},
    ),
    Operation(
        id="ping",
        method="POST",
        path="/v1/ping",
        summary="One round trip to a peer.",
        changes=False,
        body=PingRequest,
        reply=PingReply,
        problems={**_NO_PEER, 504: "`no-reply`: there is no session, or no answer in time"},
    ),
    Operation(
        id="why",
        method="POST",
        path="/v1/why",
        summary="Why frames to a peer take their path.",
        changes=False,
        body=WhyRequest,
        reply=WhyReply,
        problems=_NO_PEER,
    ),
    Operation(
        id="netcheck",
        method="POST",
        path="/v1/netcheck",
        summary="What the network around this machine allows; takes 8 s at most.",
        changes=False,
        reply=Netcheck,
    ),
    Operation(
        id="revocations",
        method="POST",
        path="/v1/revocations",
        summary="Hand in a revocation list, which the client reads from a file.",
        changes=True,
        body=RevocationsRequest,
        reply=RevocationsReply,
    ),
    Operation(
        id="reload",
        method="POST",
        path="/v1/reload",
        summary="Read the configuration again, and use what can be changed while running.",
        changes=True,
        reply=ReloadReply,
        problems={422: "`refused`: the file has a mistake; nothing was changed"},
    ),
    Operation(
        id="invitations",
        method="GET",
        path="/v1/invitations",
        summary="All invitations, never their tokens.",
        changes=False,
        reply=InvitationsReply,
        problems=_NO_NETWORK,
    ),
    Operation(
        id="invite",
        method="POST",
        path="/v1/invitations",
        summary="Open an invitation.",
        changes=True,
        body=InvitationRequest,
        reply=InvitationReply,
        problems=_NO_NETWORK,
    ),
    Operation(
        id="delegate",
        method="GET",
        path="/v1/invitations/delegate",
        summary="The keys that a delegation to invite must name.",
        changes=False,
        reply=DelegateReply,
        problems=_NO_NETWORK,
    ),
    Operation(
        id="judge",
        method="POST",
        path="/v1/invitations/verdict",
        summary="A person's word on a node that waits, or on an invitation.",
        changes=True,
        body=InvitationVerdict,
        reply=VerdictReply,
        problems=_NO_NETWORK,
    ),
    Operation(
        id="down",
        method="POST",
        path="/v1/down",
        summary="Stop the client; its socket goes when it has stopped.",
        changes=True,
        code=202,
    ),
    Operation(
        id="openapi",
        method="GET",
        path="/v1/openapi.json",
        summary="This description, in OpenAPI 3.1.",
        changes=False,
    ),
)
