"""Members of one network merge its keys and revocation lists in any order, with restarts and thieves.

Whatever order they come in, members that hear each other go by the same. A list is on disk before it counts;
no number goes back, and nobody who was revoked is let in again, but by lists of a stolen key. Certificates,
renewed by the authority and by a delegate, count at each time exactly where the model says.
"""

from __future__ import annotations

import ipaddress
import itertools
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from shadowmesh.crypto.authority_key import AuthorityKey
from shadowmesh.crypto.identity import Identity
from shadowmesh.errors import BadPacket, NotMember
from shadowmesh.io.documents import network_text
from shadowmesh.io.membership import open_guard
from shadowmesh.membership.certificate import Certificate, CertificateBody
from shadowmesh.membership.clock import RELEASED, SteadyClock
from shadowmesh.membership.delegation import Credentials, Delegation, DelegationBody, Scope
from shadowmesh.membership.guard import Membership, Standing
from shadowmesh.membership.network import Network
from shadowmesh.membership.revocation import RevocationList, Revocations
from shadowmesh.membership.signed import Kind, to_text
from tests.reference.papers import Deed, Link, List, Papers
from tests.stateful import case_of

NOW, DAY = RELEASED + 1000, 86_400
MEMBERS = 3
THIEF, HEIR, STRANGER = 7, 8, 9
"""Numbers of keys: one that a thief of key 0 names as the next, the thief's next one, and one of nobody."""
KEYS = {number: AuthorityKey.generate() for number in (0, 1, 2, THIEF, HEIR, STRANGER)}
LINKS = {
    (0, 1): Link(NOW + 10 * DAY, 3),
    (0, 1, 2): Link(NOW + 40 * DAY, 6),
    (0, THIEF): Link(NOW + DAY, 9),
    (0, THIEF, HEIR): Link(NOW + DAY, 9),
}
DELEGATE = Identity.generate("delegate")
BASIS_END = NOW + 10 * DAY
NODES = (b"a" * 32, b"b" * 32, DELEGATE.node_id)


def networks() -> dict[tuple[int, ...], Network]:
    made: dict[tuple[int, ...], Network] = {}
    made[0,] = Network.make("home", [ipaddress.ip_network("10.77.0.0/16")], [], KEYS[0], NOW)
    for keys, link in LINKS.items():
        old = made[keys[:-1]]
        made[keys] = old.rotated(KEYS[keys[-2]], KEYS[keys[-1]], NOW, link.until, link.lists)
    return made


NETWORKS = networks()
SIGNED_FOR = {0: (0,), 1: (0, 1), 2: (0, 1, 2), THIEF: (0, THIEF)}
LISTS = [
    *(List(number, 0, frozenset(NODES[:1])) for number in (1, 2)),
    List(3, 0, frozenset(NODES[:1]), frozenset({12})),
    List(4, 1, frozenset(NODES[:1]), frozenset({12})),
    List(6, 1, frozenset(NODES[:1]), frozenset({12, 20})),
    List(7, 2, frozenset({NODES[0], NODES[2]}), frozenset({12, 20})),
    *(List(number, 0) for number in (5, 9)),  # of a thief: key 0 ends with number 3
    List(8, 1),  # the same, of key 1
    List(2, THIEF),
    List(10, STRANGER),
]
HONEST = LISTS[:6]
SHIPPED = [(SIGNED_FOR[made.key], made) for made in [*HONEST, List(5, 0), List(8, 1)]]


def document(made: List) -> bytes:
    network = NETWORKS[SIGNED_FOR.get(made.key, (0,))]
    if made.key == STRANGER:
        network = replace(network, authority=KEYS[STRANGER].public)
    key = KEYS[made.key]
    return RevocationList.make(network, key, made.number, NOW, NOW + DAY, made.nodes, made.serials).document


DOCUMENTS = {made: document(made) for made in LISTS}


def certificate(deed: Deed, end: int, signer: Any) -> Certificate:
    body = CertificateBody(
        network=NETWORKS[0,].id,
        node=deed.node,
        name="bob",
        addresses=["10.77.0.9/16"],
        not_before=deed.begin,
        not_after=end,
        serial=deed.serial,
    )
    return Certificate.make(body, signer)


def credentials(deed: Deed) -> Credentials:
    if not deed.delegate:
        return Credentials(certificate(deed, deed.end, KEYS[deed.key]))
    delegation = DelegationBody(
        network=NETWORKS[0,].id,
        ed25519=DELEGATE.ed25519_public,
        mldsa=DELEGATE.mldsa.public_key().public_bytes_raw(),
        scope=Scope.RENEW,
        not_before=0,
        not_after=deed.delegation_end,
        serial=deed.delegation,
    )
    return Credentials(
        certificate(deed, deed.end, DELEGATE),
        Delegation.make(delegation, KEYS[deed.key]),
        certificate(deed, deed.basis_end, KEYS[deed.key if deed.basis_key < 0 else deed.basis_key]),
    )


PLAIN = [
    Deed(node, serial, NOW + begin * DAY, NOW + end * DAY, key)
    for (node, serial, begin, end), key in itertools.product(
        [(NODES[0], 11, 0, 30), (NODES[1], 12, 0, 30), (NODES[1], 13, 5, 60)], (0, 1, STRANGER)
    )
]
RENEWED = [
    Deed(NODES[1], 14, NOW, NOW + end * DAY, key, DELEGATE.node_id, 20 + key, NOW + until * DAY, BASIS_END)
    for (end, until), key in itertools.product([(20, 50), (45, 50), (20, 15)], (0, 1))
]
RENEWED += [replace(RENEWED[1], basis_key=0), replace(RENEWED[0], basis_key=1)]
DEEDS = {deed: credentials(deed) for deed in PLAIN + RENEWED}


class Crash(Exception):
    """The process ends while it writes a document down."""


class Member:
    """A guard over a directory of its own, and the model of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = Papers(LINKS)
        self.installed: tuple[tuple[int, ...], List] | None = None
        """What its operator has put where it began with key 0 alone."""
        self.crash = ""
        """Whether the next write ends the process: before or after it."""
        self.robbed = False
        """Whether a list of a stolen key counted here."""
        self.revoked: tuple[frozenset[bytes], frozenset[int]] = frozenset(), frozenset()
        folder.mkdir()
        (folder / "home.pem").write_text(network_text(NETWORKS[0,]))
        self.start()

    def start(self) -> None:
        """What was installed is read each time: it may count again, if a stolen key's list was dropped."""
        if self.installed is not None:
            self.model.offer_keys(self.installed[0])
            self.model.offer_list(self.installed[1])
        self.guard = open_guard(self.folder / "home.pem", self.folder)
        revocations, guard = self.guard.revocations, self.guard
        keep_list, keep_network = revocations._keep, guard.keep_network

        def list_is_kept(data: bytes) -> None:
            assert revocations.number < RevocationList.number_untrusted(data, guard.network), (
                "used before it is kept"
            )
            self.write(lambda: keep_list(data))

        def network_is_kept(made: Network) -> None:
            assert len(guard.network.links) < len(made.links), "used before it is kept"
            self.write(lambda: keep_network(made))

        revocations._keep, guard.keep_network = list_is_kept, network_is_kept

    def write(self, write: Any) -> None:
        if self.crash != "before":
            write()
        if self.crash:
            raise Crash

    def begins(self, deed: Deed, now: float) -> bool:
        """Whether a session may."""
        self.guard.clock = SteadyClock(lambda: now, 0.0, lambda _: None)
        return holds(lambda: self.guard.check_untrusted(deed.node, shown(deed)))

    def goes_on(self, deed: Deed, now: float) -> bool:
        """Whether a session may."""
        self.guard.clock = SteadyClock(lambda: now, 0.0, lambda _: None)
        return holds(lambda: self.guard.recheck(Standing(DEEDS[deed], 0)))


def shown(deed: Deed) -> bytes:
    clock = SteadyClock(lambda: NOW, 0.0, lambda _: None)
    network = NETWORKS[0,]
    return Membership(network, Revocations(network, b"", lambda _: None), clock, DEEDS[deed]).show()


def holds(check: Any) -> bool:
    try:
        check()
    except NotMember:
        return False
    return True


class Merge(RuleBasedStateMachine):
    """`which`: of the members."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = TemporaryDirectory()
        self.members: list[Member] = []

    @initialize()
    def begin(self) -> None:
        self.members = [Member(Path(self._folder.name) / str(number)) for number in range(MEMBERS)]

    def teardown(self) -> None:
        self._folder.cleanup()

    def offer(self, member: Member, what: List | tuple[int, ...], crash: str = "") -> None:
        guard, model, member.crash = member.guard, member.model, crash
        before = model.keys, model.list
        if isinstance(what, List):
            wanted, data, merge = model.offer_list(what), DOCUMENTS[what], guard.revocations.merge_untrusted
        else:
            wanted = model.offer_keys(what)
            data, merge = NETWORKS[what].document, guard.merge_network_untrusted
        try:
            if wanted is None:
                with pytest.raises((NotMember, BadPacket)):
                    merge(data)
            else:
                assert merge(data) == wanted
        except Crash:
            if crash == "before":
                model.keys, model.list = before
            member.crash = ""
            member.start()
        member.crash = ""
        if (model.keys, model.list) != before:
            self.look_at_sessions(member)

    def look_at_sessions(self, member: Member) -> None:
        """Every session that may have begun goes on until the model says so, and no longer."""
        for deed in DEEDS:
            if deed.signers <= set(member.model.keys):
                last = member.model.last(deed)
                for now in (last, last + 1):
                    assert member.goes_on(deed, now) == member.model.keeps(deed, now)

    @rule(
        which=st.integers(0, MEMBERS - 1),
        papers=st.lists(st.sampled_from([*LISTS, *HONEST, *sorted(NETWORKS)]), min_size=1, max_size=5),
        crash=st.sampled_from(["", "", "", "before", "after"]),
    )
    def hear(self, which: int, papers: list[List | tuple[int, ...]], crash: str) -> None:
        for what in papers:
            self.offer(self.members[which], what, crash)

    @rule(which=st.integers(0, MEMBERS - 1), chains=st.permutations(sorted(NETWORKS)))
    def hear_of_all_keys(self, which: int, chains: list[tuple[int, ...]]) -> None:
        """Of those of the thief too, before or after the right ones."""
        for keys in chains:
            self.offer(self.members[which], keys)

    @rule(which=st.integers(0, MEMBERS - 1))
    def restart(self, which: int) -> None:
        self.members[which].start()

    @rule(which=st.integers(0, MEMBERS - 1), shipped=st.sampled_from(SHIPPED))
    def install(self, which: int, shipped: tuple[tuple[int, ...], List]) -> None:
        """Its operator installs what `network export` wrote, perhaps an old file, or a thief's."""
        member, (keys, made) = self.members[which], shipped
        if THIEF in member.model.keys:
            return  # it would refuse to start
        text = network_text(NETWORKS[keys]) + to_text(DOCUMENTS[made], Kind.REVOCATIONS)
        (member.folder / "home.pem").write_text(text)
        member.installed = shipped
        member.start()

    @rule(source=st.integers(0, MEMBERS - 1), to=st.integers(0, MEMBERS - 1))
    def tell(self, source: int, to: int) -> None:
        """What a session tells when it begins: the network, then the list."""
        here, there = self.members[source].model, self.members[to]
        self.offer(there, here.keys)
        if here.list is not None:
            self.offer(there, here.list)

    @rule()
    def gossip(self) -> None:
        """Everybody tells everybody, twice: all go by the same, unless they believe different keys."""
        for _ in range(2):
            for source, to in itertools.permutations(range(MEMBERS), 2):
                self.tell(source, to)
        chains = {member.model.keys for member in self.members}
        if len({chain[:2] for chain in chains}) == 1:
            numbers = {(len(one.guard.network.links), one.guard.revocations.number) for one in self.members}
            assert len(numbers) == 1

    @rule(which=st.integers(0, MEMBERS - 1), deed=st.sampled_from(sorted(DEEDS, key=repr)))
    def check(self, which: int, deed: Deed) -> None:
        member = self.members[which]
        for now in member.model.moments(deed):
            assert member.begins(deed, now) == member.model.admits(deed, now)

    @invariant()
    def members_are_where_the_model_is(self) -> None:
        for member in self.members:
            guard, model = member.guard, member.model
            assert guard.network.document == NETWORKS[model.keys].document
            current = guard.revocations.current
            assert (None if current is None else current.document) == (
                None if model.list is None else DOCUMENTS[model.list]
            )

    @invariant()
    def nobody_is_let_in_again(self) -> None:
        for member in self.members:
            current = member.guard.revocations.current
            if member.model.list is not None and member.model.list not in HONEST:
                member.robbed = True
            if current is not None and not member.robbed:
                assert current.nodes >= member.revoked[0]
                assert current.serials >= member.revoked[1]
                member.revoked = current.nodes, current.serials
            assert member.robbed or (current is not None) == any(member.revoked)


TestMerge = case_of(Merge, 30, steps=30)
