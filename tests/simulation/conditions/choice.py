"""Which condition a history has: every second one is ordinary."""

import random

from tests.simulation.conditions.absence import Absence
from tests.simulation.conditions.condition import Condition
from tests.simulation.conditions.losses import Losses
from tests.simulation.conditions.payload import Payload
from tests.simulation.conditions.refusals import Refusals
from tests.simulation.conditions.skew import Skew
from tests.simulation.conditions.strangers import Strangers
from tests.simulation.conditions.versions import Versions
from tests.simulation.conditions.weight import Weight
from tests.simulation.plan import Plan

CONDITIONS: tuple[type[Condition], ...] = (
    Refusals,
    Skew,
    Absence,
    Versions,
    Strangers,
    Payload,
    Weight,
    Losses,
)


def kind_of(seed: int) -> type[Condition]:
    dice = random.Random(f"{seed} condition")
    return dice.choice(CONDITIONS) if dice.random() < 0.5 else Condition


def condition_of(seed: int, plan: Plan) -> Condition:
    return kind_of(seed)(random.Random(f"{seed} conditions"), plan)


def seeds_of(kind: type[Condition], count: int) -> list[int]:
    """The first `count` seeds of histories with this condition."""
    found: list[int] = []
    seed = 0
    while len(found) < count:
        if kind_of(seed) is kind:
            found.append(seed)
        seed += 1
    return found
