"""Handshakes that are complete and wait for the answer of the operator's program (`hook.py`)."""

from __future__ import annotations

import itertools

from shadowmesh.session.link import Ready
from shadowmesh.session.links import Driver
from shadowmesh.units import NodeId

from .admission import claimed_network
from .clients import Knock
from .hook import Question


class Questions:
    """What is asked, and by whom. Who waits keeps its place among the handshakes under way."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._new: list[Question] = []
        self._asked: dict[int, Driver] = {}

    def __len__(self) -> int:
        return len(self._asked)

    def prepare(self, node: NodeId, knock: Knock, shown: bytes) -> None:
        """Nothing else admits this node: it is to be asked about when its handshake is complete."""
        knock.question = Question(next(self._numbers), node, knock.origin, claimed_network(shown))

    def ask(self, driver: Driver, knock: Knock, ready: Ready, now: float) -> None:
        """The handshake is complete; only for whom a question was prepared."""
        assert knock.question is not None
        knock.wait(ready, now)
        self._asked[knock.question.number] = driver
        self._new.append(knock.question)

    def poll(self) -> list[Question]:
        """What is to be asked now."""
        new, self._new = self._new, []
        return new

    def answered(self, number: int) -> Driver | None:
        """Whose question that was; None if it has gone."""
        return self._asked.pop(number, None)

    def forget(self, knock: Knock) -> bool:
        """It is gone before the answer came, or after a no; False if there was no question."""
        if knock.ready is None or knock.question is None:
            return False
        knock.ready.agreement.wipe()
        self._asked.pop(knock.question.number, None)
        return True
