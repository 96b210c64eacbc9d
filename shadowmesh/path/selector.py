"""Which path frames take: the one policy, replaceable as a whole.

A path costs its lowest recent round trip, and half a second for all of it that is lost.  A relay
costs that twice and 20 ms, since it belongs to somebody else: direct wins unless it is clearly worse.
IPv6 and the local network need no rule of their own: they are nearer.  Of the loss of two paths the
difference counts, if chance does not explain it: where both lose as much, the last dozen probes of one
always look worse, and frames would go to and fro for ever.

Another path of the same sort is taken only if it is a fifth and 2 ms cheaper, and not within 5 s of the last
change.  From a path that does not work frames go at once, and from a relay to a direct path too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

HOLD = 5.0
"""Seconds for which a choice stands unless it stops working: longer than a first measurement takes."""
GAIN, GAIN_AT_LEAST = 0.8, 0.002
"""Share of the present cost, and seconds less than it, that another path must come down to."""
LOSS_WEIGHT = 0.5
CHANCE = 3.0
"""Standard deviations that two paths may differ in loss by chance."""
RELAY_FACTOR, RELAY_PENALTY = 2.0, 0.02
UNKNOWN_RTT = 0.1
"""Seconds that are assumed before the first measurement."""


class Ranked(Protocol):
    """What the policy looks at; see `path.Path`."""

    @property
    def name(self) -> str: ...
    @property
    def detail(self) -> str: ...
    @property
    def relayed(self) -> bool: ...
    @property
    def usable(self) -> bool: ...
    @property
    def lowest(self) -> float | None: ...
    @property
    def loss(self) -> float: ...
    @property
    def counted(self) -> int: ...
    @property
    def left_by_peer(self) -> bool: ...
    def fresh(self, now: float) -> bool: ...


class Decision(NamedTuple):
    """`chosen`: index of the path in what was given, None for no path; `reason`: for people."""

    chosen: int | None
    reason: str


Policy = Callable[[Sequence[Ranked], int | None, float, float], Decision]
"""(paths, index of the present one, when it was chosen, now) -> decision."""


def cost(path: Ranked, loss: float) -> float:
    """Seconds, weighted; the cheapest path is the best."""
    rtt = UNKNOWN_RTT if path.lowest is None else path.lowest
    seconds = rtt + LOSS_WEIGHT * loss
    return RELAY_FACTOR * seconds + RELAY_PENALTY if path.relayed else seconds


def costs(here: Ranked, there: Ranked) -> tuple[float, float]:
    """Of two paths, compared with each other."""
    excess = here.loss - there.loss
    if abs(excess) <= CHANCE * math.sqrt(_variance(here) + _variance(there)):
        excess = 0.0
    return cost(here, max(0.0, excess)), cost(there, max(0.0, -excess))


def _variance(path: Ranked) -> float:
    """Of the measured loss; by Laplace's rule of succession, since none of a few tells little."""
    share = (path.loss * path.counted + 1.0) / (path.counted + 2.0)
    return share * (1.0 - share) / max(path.counted, 1)


def choose(paths: Sequence[Ranked], current: int | None, chosen_at: float, now: float) -> Decision:
    """The path for the next frames."""
    good = [
        index
        for index, path in enumerate(paths)
        if path.usable and (index == current or path.fresh(now)) and not path.left_by_peer
    ]
    if current is not None and paths[current].usable and current not in good:
        good = [index for index in good if not paths[index].relayed] or [*good, current]
    if not good:
        return _last_resort(paths)
    if current is None or current not in good:
        return _leave(paths, current, min(good, key=lambda index: cost(paths[index], paths[index].loss)))
    return _compare(paths, current, good, chosen_at, now)


def _compare(
    paths: Sequence[Ranked], current: int, good: Sequence[int], chosen_at: float, now: float
) -> Decision:
    here = paths[current]
    # Only to where it is cheaper by itself, too: of three paths, each may be better than the next one.
    cheaper = [index for index in good if cost(paths[index], paths[index].loss) < cost(here, here.loss)]
    compared = {index: costs(here, paths[index]) for index in cheaper or [current]}
    best = max(compared, key=lambda index: compared[index][0] - compared[index][1])
    there = paths[best]
    ours, theirs = compared[best]
    if ours <= theirs:
        return Decision(current, "it is the best that works")
    if here.relayed and not there.relayed:
        return Decision(best, f"it is direct{_versus(there, here)}")
    if now - chosen_at < HOLD or theirs > min(GAIN * ours, ours - GAIN_AT_LEAST):
        return Decision(current, f"{there.name} is not enough better{_versus(there, here)}")
    return Decision(best, f"it is clearly better{_versus(there, here)}")


def _leave(paths: Sequence[Ranked], current: int | None, best: int) -> Decision:
    if current is None:
        return Decision(best, "it is the first that works")
    left = paths[current]
    if left.left_by_peer:
        return Decision(best, f"the peer has left {left.name}")
    return Decision(best, f"{left.name} does not work any more: {left.detail or 'it is gone'}")


def _last_resort(paths: Sequence[Ranked]) -> Decision:
    """Nothing is known to work: a relay that fell silent is all that may come back unasked."""
    for index, path in enumerate(paths):
        if path.relayed:
            return Decision(index, "nothing else works, and it may come back")
    return Decision(None, "no path works")


def _versus(there: Ranked, here: Ranked) -> str:
    if there.lowest is None or here.lowest is None:
        return ""
    return f" ({_quality(there.lowest, there.loss)} against {_quality(here.lowest, here.loss)})"


def _quality(rtt: float, loss: float) -> str:
    return f"{rtt * 1000:.1f} ms" + (f" with {loss:.0%} lost" if loss >= 0.005 else "")
