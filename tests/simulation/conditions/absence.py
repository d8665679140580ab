"""A part that is away: for seconds, or for longer than tallies are kept and Msg-Ids are remembered."""

import random
from dataclasses import replace
from typing import TYPE_CHECKING

from parley.handlers.routes import Part
from tests.simulation.conditions.condition import Condition
from tests.simulation.lateness import NOTICED_SECONDS
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
LEAST_KEEP_SECONDS = 180.0
# Once it is back: what was in hand is delivered again, and the sweep of a start has run.
_BACK_SECONDS = 6.0


class Absence(Condition):
    name = "absence"
    disturbs = True

    def __init__(self, rng: random.Random, plan: Plan) -> None:
        self.parts = rng.choice(_APART)
        super().__init__(rng, plan)
        asked = rng.choice(plan.asked).acts[0]
        # Intake works for some ten milliseconds only.
        soon = rng.random() * 20 * plan.latency
        about = rng.choice((0.0, soon, soon, soon, rng.random() * float(asked.body["timeout_seconds"])))
        self.begins = BEGINNING + asked.at + about
        keep = LEAST_KEEP_SECONDS
        self.ends = self.begins + rng.choice((5.0, 60.0, 130.0, keep - 20.0, keep + 30.0, 2 * keep + 30.0))

    def adapt(self, plan: Plan) -> Plan:
        # The least that a service allows: an absence beyond an hour would cost many steps and show no more.
        options = replace(plan.options, keep_seconds=LEAST_KEEP_SECONDS)
        plan = replace(plan, keep_seconds=LEAST_KEEP_SECONDS, options=options)
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
        away = max(0.0, self.ends + _BACK_SECONDS - record.tally.deadline)
        if Part.AGGREGATE in self.parts or (Part.INTAKE in self.parts and record.created_at >= self.begins):
            return away
        # Recorded, and intake went before it armed the deadline: the sweep finds it, or intake's return.
        if Part.INTAKE in self.parts and record.armed_at >= self.begins:
            return min(away, NOTICED_SECONDS)
        return 0.0
