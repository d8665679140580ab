"""Messages that differ a hundredfold in size, and processes with little memory, which are killed beyond it."""

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from parley.broker.jetstream import topology
from tests.simulation.asking import Act, Asked
from tests.simulation.conditions.condition import Condition
from tests.simulation.plan import Plan

if TYPE_CHECKING:
    from tests.simulation.record import Record

# What a subscriber may have in hand, in bytes; the largest message is half of it.
_LIMITS_BYTES = (8 * 1024, 16 * 1024)
# How many large requests come within a moment.
_LARGE = (6, 12, 24)
# While so many are taken in, others wait a little.
_BUSY_SECONDS = 3.0


class Weight(Condition):
    name = "weight"

    def __init__(self, rng: random.Random, plan: Plan) -> None:
        self.limit_bytes = rng.choice(_LIMITS_BYTES)
        super().__init__(rng, plan)

    def adapt(self, plan: Plan) -> Plan:
        moods = replace(plan.options.moods, answer_bytes=self.rng.choice((300, self.limit_bytes // 4)))
        options = replace(plan.options, moods=moods, in_hand=64, limit_bytes=self.limit_bytes)
        first = plan.asked[0]
        begins = first.acts[0].at + self.rng.choice((0.0, 0.0, 0.5))
        count = self.rng.choice(_LARGE)
        large = tuple(self._large(begins + 0.001 * place, place) for place in range(count))
        asked = (Asked(first.task_id, (*first.acts, *large), first.looks), *plan.asked[1:])
        return replace(plan, options=options, asked=asked)

    def _large(self, at: float, place: int) -> Act:
        size = self.rng.randint(self.limit_bytes // 8, self.limit_bytes // 2 - 512)
        body: dict[str, Any] = {
            "task_id": f"large{place}",
            "task_description": "t" * size,
            "timeout_seconds": 20.0,
        }
        if self.rng.random() < 0.8:
            body["min_responses"] = 9  # rejected
        else:
            body["num_agents"] = 1
        return Act(at, topology.REQUESTED, body, {})

    def late(self, record: "Record") -> float:
        return _BUSY_SECONDS
