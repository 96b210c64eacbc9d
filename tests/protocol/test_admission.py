"""Admission by token and by hook, against real handshakes on virtual time."""

from __future__ import annotations

import pytest

from shadowmesh.session.machine import Opening
from shadowmesh_relay import clients
from shadowmesh_relay.admission import Admission
from shadowmesh_relay.hook import Verdict
from shadowmesh_relay.testing import MemoryRelay
from tests.protocol.mesh import IDENTITIES, RELAY_IDENTITY, Mesh

TOKEN, OTHER = b"n2yq8rWcDk5VtGm1Zs0xEu7b", b"Q0j9aL4hTf6pXw3oRi8cYv2e"
RELAY = RELAY_IDENTITY.node_id


def start(tokens: tuple[bytes, ...] = (), asks: bool = False, nodes: tuple[int, ...] = ()) -> Mesh:
    mesh = Mesh()
    listed = frozenset(IDENTITIES[number].node_id for number in nodes)
    mesh.start_relay(Admission(False, listed, (), tokens, asks))
    return mesh


def admitted(mesh: Mesh, number: int) -> bool:
    assert mesh.relay is not None
    return IDENTITIES[number].node_id in mesh.relay.core.clients


def relay_of(mesh: Mesh) -> MemoryRelay:
    assert mesh.relay is not None
    return mesh.relay


# ---- token -----------------------------------------------------------------------------------


def test_a_token_admits_whoever_holds_it() -> None:
    mesh = start(tokens=(OTHER, TOKEN), nodes=(2,))
    mesh.start_client(0, (1,), tokens={RELAY: TOKEN})
    mesh.start_client(1, (0,), tokens={RELAY: OTHER})
    mesh.start_client(2, ())
    mesh.pair_up()
    mesh.exchange(0, 1)
    assert admitted(mesh, 2)


@pytest.mark.parametrize("tokens", [None, {RELAY: OTHER}, {b"\7" * 32: TOKEN}])
def test_no_token_or_a_wrong_one_admits_nobody(tokens: dict[bytes, bytes] | None) -> None:
    mesh = start(tokens=(TOKEN,))
    mesh.start_client(0, (), tokens=tokens)
    mesh.network.run_for(3)
    assert not admitted(mesh, 0)
    assert "does not admit" in (mesh.clients[0].core.relays[0].last_error or "")


def test_the_token_is_not_on_the_wire_and_its_proof_serves_nobody_else() -> None:
    """A relay that isn't the pinned one gets the proof in HELLO; it admits another node nowhere."""
    mesh = start(tokens=(TOKEN,))
    client = mesh.start_client(0, (), tokens={RELAY: TOKEN})
    openings: list[Opening] = []
    shared = client.core._shared
    original = shared.new_opening

    def keep(*arguments, **more):  # type: ignore[no-untyped-def]
        openings.append(original(*arguments, **more))
        return openings[-1]

    shared.new_opening = keep  # type: ignore[method-assign]
    mesh.network.run_for(2)
    assert admitted(mesh, 0)
    (opening,) = openings
    assert opening.token is not None
    assert TOKEN not in opening.token
    thief = mesh.start_client(1, ())
    thief.core._shared.new_opening = lambda *a, **m: opening  # type: ignore[method-assign]
    mesh.network.run_for(3)
    assert not admitted(mesh, 1)


# ---- hook ------------------------------------------------------------------------------------


def test_the_hook_is_asked_about_whom_nothing_else_admits() -> None:
    mesh = start(tokens=(TOKEN,), asks=True, nodes=(2,))
    mesh.start_client(1, (), tokens={RELAY: TOKEN})
    mesh.start_client(2, ())
    client = mesh.start_client(0, (1,))
    mesh.network.run_for(1)
    (question,) = relay_of(mesh).core.poll_questions()
    assert question.node == IDENTITIES[0].node_id
    assert (question.address, question.network) == (client.address, None)
    assert admitted(mesh, 1)
    assert admitted(mesh, 2)
    assert not admitted(mesh, 0)


def test_nobody_is_served_before_the_answer_and_nothing_is_lost_after_it() -> None:
    mesh = start(asks=True)
    mesh.start_client(0, (1,))
    mesh.start_client(1, (0,))
    mesh.network.run_for(2)
    core = relay_of(mesh).core
    assert core.clients == {}
    assert relay_of(mesh).tables.legs == {}
    for question in core.poll_questions():
        core.handle_verdict(question.number, Verdict(True), mesh.network.now)
    mesh.network.flush(relay_of(mesh))
    mesh.pair_up(within=5)
    mesh.exchange(0, 1)


@pytest.mark.parametrize(
    ("verdict", "reason", "told"),
    [
        (Verdict(False, "not paid"), "hook_refused", "not paid"),
        (Verdict(False, "broken", failed=True), "hook_failed", "does not admit you"),
    ],
)
def test_a_no_and_no_answer_refuse(verdict: Verdict, reason: str, told: str) -> None:
    mesh = start(asks=True)
    mesh.start_client(0, ())
    mesh.network.run_for(1)
    core = relay_of(mesh).core
    (question,) = core.poll_questions()
    core.handle_verdict(question.number, verdict, mesh.network.now)
    core.handle_verdict(question.number, Verdict(True), mesh.network.now)
    mesh.network.flush(relay_of(mesh))
    mesh.network.run_for(1)
    assert not admitted(mesh, 0)
    assert core.drops[reason] == 1
    assert len(core._reception.door._refused) == (not verdict.failed)
    assert told in (mesh.clients[0].core.relays[0].last_error or "")
    assert core._half_open == {}
    assert len(core._questions) == 0


def test_who_leaves_before_the_answer_leaves_nothing_but_a_refusal() -> None:
    mesh = start(asks=True)
    client = mesh.start_client(0, ())
    mesh.network.run_for(1)
    core = relay_of(mesh).core
    assert len(core._reception.door._refused) == 0
    (question,) = core.poll_questions()
    client.core.close(mesh.network.now)
    mesh.network.flush(client)
    mesh.network.run_for(1)
    assert (core._half_open, len(core._questions)) == ({}, 0)
    core.handle_verdict(question.number, Verdict(True), mesh.network.now)
    assert core.clients == {}
    assert len(core._reception.door._refused) == 1


def test_who_says_too_much_before_the_answer_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "MAX_EARLY", 2)
    mesh = start(asks=True)
    mesh.start_client(0, (1, 2, 3, 4))
    relay = mesh.clients[0].core.relays[0]
    mesh.network.run_until(lambda: "too much" in (relay.last_error or ""), 2)
    assert len(relay_of(mesh).core._questions) == 0


# ---- read again ------------------------------------------------------------------------------


def readmit(mesh: Mesh, admission: Admission) -> int:
    relay = relay_of(mesh)
    ended = relay.core.readmit(admission, mesh.network.now)
    mesh.network.flush(relay)
    return ended


def listed(*numbers: int) -> frozenset[bytes]:
    return frozenset(IDENTITIES[number].node_id for number in numbers)


def test_a_token_that_was_removed_ends_the_sessions_that_it_admitted() -> None:
    mesh = start(tokens=(TOKEN, OTHER), nodes=(2, 3))
    mesh.start_client(0, (1,), tokens={RELAY: TOKEN})
    mesh.start_client(1, (0,), tokens={RELAY: OTHER})
    mesh.start_client(2, ())
    mesh.start_client(3, (), tokens={RELAY: TOKEN})
    mesh.pair_up()
    relay = relay_of(mesh)
    assert readmit(mesh, Admission(False, listed(2, 3), (), (OTHER,))) == 1
    assert IDENTITIES[0].node_id not in relay.core.clients, "at once"
    assert len(relay.tables.legs) == 3
    assert relay.tables.channels == {}, "its channels carry nothing any more"
    mesh.network.run_for(20)
    assert not admitted(mesh, 0)
    assert [admitted(mesh, number) for number in (1, 2, 3)] == [True] * 3
    assert "does not admit" in (mesh.clients[0].core.relays[0].last_error or "")
    readmit(mesh, Admission(False, listed(), (), (OTHER, TOKEN)))
    mesh.network.run_until(lambda: admitted(mesh, 0), 20)
    assert admitted(mesh, 3), "its token alone is enough"
    assert not admitted(mesh, 2)


def test_a_node_that_was_removed_has_to_go() -> None:
    mesh = start(nodes=(0, 1))
    mesh.start_client(0, (1,))
    mesh.start_client(1, (0,))
    mesh.pair_up()
    assert readmit(mesh, Admission(False, listed(1), ())) == 1
    mesh.network.run_for(20)
    assert [admitted(mesh, number) for number in (0, 1)] == [False, True]
    assert readmit(mesh, Admission(True, frozenset(), ())) == 0
    mesh.network.run_until(lambda: admitted(mesh, 0), 20)
    assert readmit(mesh, Admission(False, listed(0, 1), ())) == 0, "open before, listed now"
    mesh.pair_up(within=20)


def test_whom_the_program_let_in_stays_while_there_is_one() -> None:
    mesh = start(asks=True)
    mesh.start_client(0, ())
    mesh.network.run_for(2)
    (question,) = relay_of(mesh).core.poll_questions()
    relay_of(mesh).core.handle_verdict(question.number, Verdict(True), mesh.network.now)
    mesh.network.flush(relay_of(mesh))
    mesh.network.run_for(1)
    assert readmit(mesh, Admission(False, listed(1), (), (), True)) == 0
    assert admitted(mesh, 0)


def test_who_is_on_its_way_in_when_its_token_is_removed_stays_out() -> None:
    mesh = start(tokens=(TOKEN,))
    mesh.start_client(0, (), tokens={RELAY: TOKEN})
    core = relay_of(mesh).core
    mesh.network.run_until(lambda: any(knock.greeting for knock in core._half_open.values()), 2)
    assert core.sources == {mesh.clients[0].address}, "no tunnel gets it"
    assert readmit(mesh, Admission(False, listed(1), (), (OTHER,))) == 0, "nobody is in yet"
    mesh.network.run_for(1)
    assert core.sources == set()
    assert not admitted(mesh, 0)
    assert "any more" in (mesh.clients[0].core.relays[0].last_error or "")
    assert relay_of(mesh).tables.legs == {}
