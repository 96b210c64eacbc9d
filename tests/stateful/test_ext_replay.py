"""The replay window against a set of all numbers that it ever accepted (RFC 6479)."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from shadowmesh._ext.replay import ReplayWindow
from tests.reference import replay_window
from tests.reference.replay_window import SIZE
from tests.stateful import case_of

TOP = 2**64 - 1


class Window(RuleBasedStateMachine):
    """Numbers around the newest, around both ends of the window, word borders, and ones that were there."""

    @initialize(base=st.sampled_from([0, 1, 63, 64, 8127, 8128, 8191, 8192, 2**31, 2**32 - 1, TOP - 20_000]))
    def begin(self, base: int) -> None:
        self.window, self.twin = ReplayWindow(), replay_window.ReplayWindow()
        if base:
            self.accept(base)

    def accept(self, number: int) -> None:
        if not 0 <= number <= TOP:
            return
        judged = self.window.check(number).name
        assert self.window.accept(number).name == judged == self.twin.accept(number)

    @rule(
        step=st.one_of(
            st.integers(0, 70), st.sampled_from([127, 128, SIZE - 1, SIZE, 8191, 8192, 8193, 20_000])
        )
    )
    def forward(self, step: int) -> None:
        self.accept(self.twin.newest + step)

    @rule(back=st.one_of(st.integers(0, 200), st.integers(SIZE - 70, SIZE + 70), st.integers(0, SIZE + 200)))
    def behind(self, back: int) -> None:
        self.accept(self.twin.newest - back)

    @rule(data=st.data())
    def again(self, data: st.DataObject) -> None:
        """A packet that was taken before, however old."""
        if self.twin.accepted:
            self.accept(data.draw(st.sampled_from(sorted(self.twin.accepted))))

    @rule(first=st.integers(-SIZE, 64), count=st.integers(1, 300))
    def train(self, first: int, count: int) -> None:
        for number in range(self.twin.newest + first, self.twin.newest + first + count):
            self.accept(number)


TestWindow = case_of(Window, 60)
