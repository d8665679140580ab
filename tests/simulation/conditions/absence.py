"""A part that is away: for seconds, or for longer than tallies are kept and Msg-Ids are remembered."""

import random
from dataclasses import replace
from typing import TYPE_CHECKING

from parley.handlers.routes import Part
from tests.simulation.conditions.condition import Condition
from tests.simulation.loop import BEGINNING
from tests.simulation.plan import Plan
from tests.simulation.roles import ALL_PARTS, Role

if TYPE_CHECKING:
    from tests.simulation.history import History
    from tests.simulation.record import Record

# Which parts run in a process of their own.
_APART = (
    frozenset({Part.INTAKE}), frozenset({Part.AGGREGATE}), frozenset({Part.DISPATCH}),
    frozenset({Part.INTAKE, Part.AGGREGATE}), ALL_PARTS,
)  # fmt: skip
# Once it is back: what was in hand is delivered again, and the sweep of a start has run.
_BACK_SECONDS = 6.0


class Absence(Condition):
    name = "absence"
    disturbs = True
    patience_seconds = 60.0

    def __init__(self, rng: random.Random, plan: Plan) -> None:
        self.parts = rng.choice(_APART)
        super().__init__(rng, plan)
        asked = rng.choice(plan.asked).acts[0]
        # Intake works for some ten milliseconds only.
        soon = rng.random() * 20 * plan.latency
        about = rng.choice((0.0, soon, soon, soon, rng.random() * float(asked.body["timeout_seconds"])))
        self.begins = BEGINNING + asked.at + about
        keep = plan.keep_seconds
        self.ends = self.begins + rng.choice((5.0, 60.0, 130.0, keep - 20.0, keep + 30.0, 2 * keep + 30.0))

    def adapt(self, plan: Plan) -> Plan:
        if self.parts == ALL_PARTS:
            return plan
        others = Role(ALL_PARTS - self.parts)
        return replace(plan, roles=(Role(self.parts), *(others for _ in plan.roles)))

    def begin(self, history: "History") -> None:
        server = history.server

        def leave() -> None:
            told = ", ".join(sorted(self.parts))
            server.trace.add(server.now, "broker", "without", f"{told} for {self.ends - self.begins:g} s")
            for process in list(history.processes):
                if process.role.parts == self.parts:
                    process.kill()

        server.loop.call_at(self.begins, leave)

    def back_at(self, role: Role) -> float:
        return self.ends if role.parts == self.parts else 0.0

    def late(self, record: "Record") -> float:
        needed = Part.AGGREGATE in self.parts or (
            Part.INTAKE in self.parts and record.created_at >= self.begins
        )
        return max(0.0, self.ends + _BACK_SECONDS - record.tally.deadline) if needed else 0.0
