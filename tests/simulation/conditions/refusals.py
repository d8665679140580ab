"""Stores that refuse for a while: no storage left, a stream at its limit, an account at its limit, no answer at all.

nats-server's scheduler does not fire again what it could not store, so a deadline that comes meanwhile is lost.
"""

import random
from typing import TYPE_CHECKING

from parley.broker.jetstream import topology
from tests.simulation.conditions.condition import Condition
from tests.simulation.lateness import NOTICED_SECONDS
from tests.simulation.loop import BEGINNING
from tests.simulation.plan import Plan
from tests.simulation.stream import NoRoom, Refused, RefusedInSilence

if TYPE_CHECKING:
    from tests.simulation.history import History
    from tests.simulation.record import Record

ANSWERS: tuple[Refused, ...] = (
    Refused(503, 10047, "insufficient storage resources available"),
    Refused(503, 10023, "insufficient resources"),
    NoRoom(503, 10077, "maximum bytes exceeded"),
    Refused(400, 10002, "resource limits exceeded for account"),
    RefusedInSilence(),
)
# Streams without which no ending can be stored.
_OF_ENDINGS = frozenset({topology.DELIBERATIONS, topology.TALLIES})
# An ending is stored this long after there is room: what was refused last is tried again by then, and sweeps have run.
_ROOM_SECONDS = 6.0


class Refusals(Condition):
    name = "refusals"
    disturbs = True
    stores_are_probed = True

    def __init__(self, rng: random.Random, plan: Plan) -> None:
        super().__init__(rng, plan)
        asked = rng.choice(plan.asked).acts[0]
        timeout = float(asked.body["timeout_seconds"])
        about = rng.choice((0.0, 0.01, rng.random() * timeout, timeout - 1.0, timeout - 0.1, timeout))
        self.begins = BEGINNING + max(0.0, asked.at + about)
        self.ends = self.begins + rng.choice((0.3, 2.0, 8.0, 30.0, 150.0))
        everywhere = tuple(config.name or "" for config in topology.streams())
        self.streams = frozenset(everywhere if rng.random() < 0.5 else (rng.choice(everywhere),))
        self.answer = rng.choice(ANSWERS)

    def begin(self, history: "History") -> None:
        server = history.server

        def refuse() -> None:
            where = "every stream" if len(self.streams) > 1 else min(self.streams)
            server.trace.add(
                server.now, "broker", "refuses", f"{where} for {self.ends - self.begins:g} s: {self.answer}"
            )
            server.refusing = dict.fromkeys(self.streams, self.answer)

        server.loop.call_at(self.begins, refuse)
        server.loop.call_at(self.ends, server.refusing_ends)

    def late(self, record: "Record") -> float:
        if not self.streams & _OF_ENDINGS:
            return 0.0
        late = max(0.0, self.ends + _ROOM_SECONDS - record.tally.deadline)
        # What may be forgotten before its deadline is not watched. If nobody wrote while the store was full, the sweep
        # finds it.
        tally = record.tally
        return late + (
            NOTICED_SECONDS if tally.deadline - tally.accepted_at >= self.plan.keep_seconds else 0.0
        )
