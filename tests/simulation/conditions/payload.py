"""A small `max_payload` and large answers, with an object store that may take nothing: the smallest ending matters."""

import random
from dataclasses import replace
from typing import TYPE_CHECKING

from parley.broker.jetstream import topology
from tests.simulation.conditions.condition import Condition
from tests.simulation.conditions.refusals import ANSWERS
from tests.simulation.faults import AT_STEPS, Fault
from tests.simulation.plan import Plan

if TYPE_CHECKING:
    from tests.simulation.history import History
    from tests.simulation.record import Record

_SIZES = (4_096, 6_144, 16_384)
_ANSWER_BYTES = (300, 1_500, 2_500)
# Most agents fail in some histories, each with the longest error.
_FAILING = (0.0, 0.2, 0.9)
# How long the object store may be asked for one ending, beyond the deadline, and what that delays.
_ASKED_SECONDS = 12.0


class Payload(Condition):
    name = "payload"
    disturbs = True

    def __init__(self, rng: random.Random, plan: Plan) -> None:
        self.max_payload = rng.choice(_SIZES)
        self.refused = rng.choice((None, None, *ANSWERS))
        super().__init__(rng, plan)

    def adapt(self, plan: Plan) -> Plan:
        moods = replace(
            plan.options.moods, answer_bytes=self.rng.choice(_ANSWER_BYTES), failing=self.rng.choice(_FAILING)
        )
        plan = replace(plan, options=replace(plan.options, moods=moods))
        if self.rng.random() < 0.5:
            fault = Fault(self.rng.choice(AT_STEPS), "object", self.rng.randint(1, 6), 1.5)
            plan = replace(plan, faults=(*plan.faults, fault))
        return plan

    def begin(self, history: "History") -> None:
        history.server.max_payload = self.max_payload
        if self.refused is not None:
            history.server.refusing = {topology.RESULTS: self.refused}

    def late(self, record: "Record") -> float:
        return _ASKED_SECONDS if self.refused is not None else 0.0
