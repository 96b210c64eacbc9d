"""What traces tell of set-ups, on virtual time: which stages there are, and whose parts."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from shadowmesh.crypto.identity import node_id_text
from shadowmesh.stages import MAX_ENDED, QUIET, Stage, Stages
from shadowmesh_relay.admission import Admission
from shadowmesh_relay.hook import Verdict
from shadowmesh_relay.testing import MemoryRelay
from tests.protocol.mesh import IDENTITIES, RELAY_IDENTITY, Mesh

HANDSHAKE = ["quic.handshake", "session.proofs", "session.confirmation"]


class Traced(Mesh):
    """Everybody tells of stages."""

    def __init__(self, admission: Admission | None = None) -> None:
        super().__init__()
        self.at_relay = Stages(on=True)
        self.stages: dict[int, Stages] = {}
        admitted = admission or Admission(True, frozenset())
        self.relay = MemoryRelay(
            RELAY_IDENTITY, admitted, self.relay_address, self.network.now, 1, stages=self.at_relay
        )
        self.network.attach(self.relay)

    def start(self, number: int, *peers: int, **more: object) -> None:
        self.stages[number] = Stages(on=True)
        self.start_client(number, peers, stages=self.stages[number], **more)  # type: ignore[arg-type]

    def ended(self, number: int) -> list[Stage]:
        return self.stages[number].poll()


def one(stages: Iterable[Stage], name: str) -> Stage:
    found = [stage for stage in stages if stage.name == name]
    assert len(found) == 1, found
    return found[0]


def parts(stages: Iterable[Stage], whole: Stage) -> list[str]:
    return [stage.name for stage in sorted(stages, key=lambda one: one.began_at) if stage.parent is whole]


def test_the_way_to_a_relay() -> None:
    mesh = Traced()
    mesh.start(0, 1)
    mesh.network.run_for(1)
    stages = mesh.ended(0)
    connect = one(stages, "relay.connect")
    assert connect.parent is None
    assert parts(stages, connect) == ["relay.resolve", "relay.attempt"]
    attempt = one(stages, "relay.attempt")
    assert parts(stages, attempt) == HANDSHAKE
    assert attempt.facts == {"transport": "udp", "resumed": False}
    assert connect.began_at == pytest.approx(1000.0, abs=1e-3)
    assert connect.ended_at == attempt.ended_at
    assert not any(stage.error for stage in stages if stage.name != "channel.open" and stage.parent)


def test_both_sides_of_a_session() -> None:
    mesh = Traced()
    for number in (0, 1):
        mesh.start(number, 1 - number)
        mesh.network.run_for(1)
    mesh.pair_up()
    mesh.network.run_for(1)
    called, caller = mesh.ended(0), mesh.ended(1)
    setup = one(caller, "session.setup")
    assert parts(caller, setup) == ["channel.open", "session.handshake", "path.first"]
    assert parts(caller, one(caller, "session.handshake")) == HANDSHAKE
    assert setup.ended_at == one(caller, "path.first").ended_at == one(caller, "session.handshake").ended_at
    first, second = [stage for stage in called if stage.name == "session.setup"]
    assert (first.error, first.facts["began_by"]) == ("absent", "channel.open")
    assert (second.error, second.facts["began_by"]) == ("", "call")
    assert parts(called, second) == ["session.handshake", "path.first"]
    # Whose proofs are complete by the last word of the initiator waits for no confirmation.
    assert parts(called, one(called, "session.handshake")) == HANDSHAKE[:2]


def test_a_set_up_beside_an_older_session_ends_with_its_own_handshake() -> None:
    mesh = Traced()
    for number in (0, 1):
        mesh.start(number, 1 - number)
        mesh.network.run_for(1)
    mesh.pair_up()
    mesh.network.run_for(5)
    mesh.ended(0)
    mesh.network.link.change(delay=0.3)  # so that the old session is looked at meanwhile
    mesh.start(1, 0)  # it was killed, and comes back as another process
    mesh.network.run_for(10)
    stages = mesh.ended(0)
    setup = one(stages, "session.setup")
    # Both sides may begin one; then one of them ends as a collision.
    handshake = one([stage for stage in stages if not stage.error], "session.handshake")
    assert (setup.error, handshake.parent) == ("", setup)
    assert setup.ended_at is not None
    assert handshake.ended_at is not None
    assert setup.ended_at >= handshake.ended_at > setup.began_at + 1


def test_the_search_for_a_direct_path_is_a_part_that_ends_by_itself() -> None:
    mesh = Traced()
    for number in (0, 1):
        mesh.start(number, 1 - number, direct="auto")
    mesh.network.run_for(3)
    for number in (0, 1):
        stages = mesh.ended(number)
        search = one(stages, "path.search")
        setup = search.parent
        assert setup is not None
        assert setup.name == "session.setup"
        assert setup.ended_at is not None
        assert search.ended_at is not None
        assert search.ended_at > setup.ended_at
        assert search.facts == {"kind": "static"}
        assert "direct 198.51.100." in str(search.private["path"])


def test_a_search_in_vain() -> None:
    mesh = Traced()
    for number in (0, 1):
        mesh.start(number, 1 - number, direct="auto")
    relay = mesh.relay_address
    mesh.network.filter = lambda source, target, _data: relay in (source, target)
    mesh.network.run_for(20)
    searches = [stage for stage in mesh.ended(0) if stage.name == "path.search"]
    assert len(searches) > 1
    assert {stage.error for stage in searches} == {"no_answer"}
    assert [stage.parent is None for stage in searches] == [False] + [True] * (len(searches) - 1)


def test_a_relay_that_is_not_there() -> None:
    mesh = Traced()
    mesh.names.clear()
    mesh.start(0, 1)
    mesh.network.run_for(0.1)
    stages = mesh.ended(0)
    assert one(stages, "relay.resolve").error == "not_found"
    assert one(stages, "relay.connect").error == "no_answer"
    mesh.names["relay.test"] = [mesh.relay_address._replace(port=1)]
    mesh.network.run_for(5)
    stages = mesh.ended(0)
    assert {stage.error for stage in stages if stage.name != "relay.resolve"} == {"timeout"}


def test_who_is_refused() -> None:
    mesh = Traced(Admission(False, frozenset([IDENTITIES[1].node_id])))
    mesh.start(0, 1)
    mesh.network.run_for(1)
    assert one(mesh.ended(0), "relay.connect").error == "refused"
    join = one(mesh.at_relay.poll(), "client.join")
    assert join.error == "refused"
    assert join.private["client_id"] == node_id_text(IDENTITIES[0].node_id)


def test_what_a_relay_does_for_a_pair() -> None:
    mesh = Traced()
    for number in (0, 1):
        mesh.start(number, 1 - number)
        mesh.network.run_for(1)
    mesh.pair_up()
    stages = mesh.at_relay.poll()
    joins = [stage for stage in stages if stage.name == "client.join"]
    assert [parts(stages, join) for join in joins] == [["session.handshake", "relay.admission"]] * 2
    vain, made = [stage for stage in stages if stage.name == "relay.introduce"]
    assert (vain.error, made.error) == ("refused", "")
    assert made.ended_at is not None
    assert made.ended_at - made.began_at == pytest.approx(0.02)
    assert made.private == {
        "caller_id": node_id_text(IDENTITIES[1].node_id),
        "callee_id": node_id_text(IDENTITIES[0].node_id),
    }
    assert not mesh.relay.core._rendezvous._introducing  # type: ignore[union-attr]


@pytest.mark.parametrize("admitted", [True, False])
def test_a_hook_that_takes_its_time(admitted: bool) -> None:
    mesh = Traced(Admission(False, frozenset(), asks=True))
    assert mesh.relay is not None
    mesh.start(0, 1)
    mesh.network.run_for(1)
    (question,) = mesh.relay.core.poll_questions()
    mesh.relay.core.handle_verdict(question.number, Verdict(admitted), mesh.network.now)
    mesh.network.flush(mesh.relay)
    mesh.network.run_for(1)
    stages = mesh.at_relay.poll()
    admission = one(stages, "relay.admission")
    assert admission.facts == {"by": "hook"}
    assert admission.ended_at is not None
    assert admission.ended_at - admission.began_at > 0.9
    assert {admission.error, one(stages, "client.join").error} == {"" if admitted else "refused"}


def test_nothing_public_names_anybody() -> None:
    mesh = Traced()
    for number in (0, 1):
        mesh.start(number, 1 - number, direct="auto")
    mesh.network.run_for(3)
    stages = [*mesh.ended(0), *mesh.ended(1), *mesh.at_relay.poll()]
    public = repr([(stage.name, stage.facts, stage.error) for stage in stages])
    named = repr([stage.private for stage in stages])
    names = ["198.51.100.", "node1", "relay.test", node_id_text(IDENTITIES[0].node_id)]
    assert [name in named for name in names] == [True] * 4
    assert [name in public for name in names] == [False] * 4


def test_nothing_is_kept_while_nobody_wants_traces(mesh: Mesh) -> None:
    mesh.start_client(0, (1,), direct="auto")
    mesh.start_client(1, (0,), direct="auto")
    mesh.pair_up()
    mesh.network.run_for(3)
    assert mesh.relay is not None
    for stages in (*(one.core._shared.stages for one in mesh.clients.values()), mesh.relay.core._stages):
        assert stages.poll() == []
    assert (QUIET.facts, QUIET.private, QUIET.span, QUIET.ended_at) == ({}, {}, None, None)
    for links in (mesh.clients[0].core._shared.links, mesh.relay.core._links):
        assert not any("phases" in vars(driver) for driver in links._by_id.values())


def test_stages_that_nobody_takes_are_counted() -> None:
    stages = Stages(on=True)
    for number in range(MAX_ENDED + 3):
        stages.begin("x", float(number)).end(float(number))
    assert len(stages.poll()) == MAX_ENDED
    assert stages.lost == 3
    assert stages.poll() == []


def test_only_the_first_end_counts() -> None:
    stages = Stages(on=True)
    stage = stages.begin("x", 1.0)
    stage.end(2.0)
    stage.end(3.0, "late")
    assert stages.poll() == [stage]
    assert (stage.ended_at, stage.error, stage.under_way) == (2.0, "", False)
