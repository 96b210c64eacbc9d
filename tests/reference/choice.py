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
    left_by_peer: bool = False
    heard_at: float = 0.0
    detail: str = ""

    def fresh(self, now: float) -> bool:
        return self.relayed or now - self.heard_at < 50


def price(path: Known) -> float:
    seconds = (0.1 if path.lowest is None else path.lowest) + path.loss / 2
    return 0.02 + 2 * seconds if path.relayed else seconds


def choice(paths: Sequence[Known], current: Known | None, chosen_at: float, now: float) -> Known | None:
    """The path for the next frames."""
    works = [one for one in paths if one.usable and not one.left_by_peer]
    works = [one for one in works if one is current or one.fresh(now)]
    if current is not None and current.usable and current.left_by_peer:
        # Worth leaving for another direct path; a relay has to be better by itself.
        works = [one for one in works if not one.relayed] or [*works, current]
    if not works:
        return next((one for one in paths if one.relayed), None)
    cheapest = next(one for one in works if all(price(one) <= price(other) for other in works))
    if current is None or not any(one is current for one in works):
        return cheapest
    if current.relayed and not cheapest.relayed:
        return cheapest
    saved = price(current) - price(cheapest)
    worth = saved >= price(current) * 0.2 - 1e-12 and saved >= 0.002 - 1e-12
    return cheapest if worth and now - chosen_at >= 5 else current
