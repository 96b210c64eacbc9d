"""Which path frames take, by the text of the policy; every path is compared with every other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Known:
    """What is known of a path. Times in seconds; `loss` from 0 to 1."""

    name: str
    relayed: bool
    usable: bool = False
    lowest: float | None = None
    loss: float = 0.0
    counted: int = 31
    left_by_peer: bool = False
    heard_at: float = 0.0
    detail: str = ""

    def fresh(self, now: float) -> bool:
        return self.relayed or now - self.heard_at < 50


def price(path: Known, loss: float) -> float:
    seconds = (0.1 if path.lowest is None else path.lowest) + loss / 2
    return 0.02 + 2 * seconds if path.relayed else seconds


def doubt(path: Known) -> float:
    """Variance of the share of probes lost, if one more had been answered and one more not."""
    tries = path.counted + 2
    lost = path.loss * path.counted + 1
    return (lost / tries) * ((tries - lost) / tries) / (path.counted or 1)


def prices(here: Known, there: Known) -> tuple[float, float]:
    """Of both; losses that three standard deviations explain are alike."""
    more = here.loss - there.loss
    if more * more <= 9 * (doubt(here) + doubt(there)):
        return price(here, 0), price(there, 0)
    return (price(here, more), price(there, 0)) if more > 0 else (price(here, 0), price(there, -more))


def choice(paths: Sequence[Known], current: Known | None, chosen_at: float, now: float) -> Known | None:
    """The path for the next frames."""
    works = [one for one in paths if one.usable and not one.left_by_peer]
    works = [one for one in works if one is current or one.fresh(now)]
    if current is not None and current.usable and current.left_by_peer:
        # Worth leaving for another direct path; a relay has to be better by itself.
        works = [one for one in works if not one.relayed] or [*works, current]
    if not works:
        return next((one for one in paths if one.relayed), None)
    if current is None or not any(one is current for one in works):
        return next(
            one for one in works if all(price(one, one.loss) <= price(other, other.loss) for other in works)
        )
    works = [one for one in works if price(one, one.loss) < price(current, current.loss)]
    if not works:
        return current
    saved = [ours - theirs for ours, theirs in (prices(current, one) for one in works)]
    cheapest = works[saved.index(max(saved))]
    ours, theirs = prices(current, cheapest)
    if ours <= theirs:
        return current
    if current.relayed and not cheapest.relayed:
        return cheapest
    worth = ours - theirs >= ours * 0.2 - 1e-12 and ours - theirs >= 0.002 - 1e-12
    return cheapest if worth and now - chosen_at >= 5 else current
