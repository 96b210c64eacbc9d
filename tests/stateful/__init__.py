"""State machines of hypothesis: the product against slow reference models, under steps in any order.

`make test` runs few examples, the same ones every time; `make stateful` runs thousands of new ones.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine

LONG = 400
"""Times as many examples in the profile `long`."""


def case_of(machine: type[RuleBasedStateMachine], examples: int, steps: int = 50) -> type:
    """The test case of a machine: so many examples of at most so many steps in `make test`."""
    long = settings.get_current_profile_name() == "long"
    case = machine.TestCase
    case.settings = settings(max_examples=examples * (LONG if long else 1), stateful_step_count=steps)
    return case
