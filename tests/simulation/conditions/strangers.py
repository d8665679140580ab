"""Strangers who may publish requests and cancels only: headers that command a stream, and forged acknowledgements."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nats.js.api import PubAck

from parley.broker.core.timestamps import format_timestamp
from parley.broker.jetstream import topology
from tests.simulation.asking import Act, Asked
from tests.simulation.conditions.condition import Condition
from tests.simulation.loop import BEGINNING
from tests.simulation.plan import Plan

if TYPE_CHECKING:
    from tests.simulation.link import Link

# How many of a history's acknowledgements to a service a stranger forges: one of so many.
_ONE_IN = 12


class Strangers(Condition):
    name = "strangers"
    # A forged acknowledgement costs a try, like one that was lost.
    disturbs = True

    def __init__(self, rng: random.Random, plan: Plan) -> None:
        self.forging = rng.random() < 0.5
        super().__init__(rng, plan)

    def adapt(self, plan: Plan) -> Plan:
        return replace(plan, asked=tuple(self._disturbed(asked) for asked in plan.asked))

    def _disturbed(self, asked: Asked) -> Asked:
        rng, request = self.rng, asked.acts[0]
        timeout = float(request.body["timeout_seconds"])
        acts = []
        for _ in range(rng.choice((1, 2, 3))):
            at = request.at + rng.choice((0.0, 0.02, rng.random() * timeout, timeout - 0.05))
            subject = rng.choice((topology.REQUESTED, topology.CANCEL))
            headers = rng.choice(_commands(asked.task_id, BEGINNING + at + 0.1))
            acts.append(Act(max(0.0, at), subject, _body(asked.task_id, subject, headers), headers))
        return replace(asked, acts=(*asked.acts, *acts))

    def forged(self, link: "Link", subject: str) -> PubAck | None:
        """What a stranger tells a service instead of the server's acknowledgement."""
        if not self.forging or not link.of_service or self.rng.random() * _ONE_IN > 1:
            return None
        # A place that the stranger has itself: a request of its own.
        return PubAck(stream=topology.REQUESTS, seq=self.rng.randint(1, 5))

    def late(self, _: object) -> float:
        # A few tries may be answered by the stranger, each tried again after half a second, or four.
        return 10.0 if self.forging else 0.0


def _commands(task_id: str, at: float) -> Sequence[dict[str, str]]:
    when = f"@at {format_timestamp(at)}"
    timer = topology.timer_subject(task_id)
    return (
        {"Nats-Rollup": "all"},
        {"Nats-Rollup": "sub"},
        {"Nats-Schedule": when, "Nats-Schedule-Target": topology.COMPLETED},
        {"Nats-Schedule": when, "Nats-Schedule-Target": topology.CANCEL},
        {"Nats-Schedule-Next": "purge", "Nats-Scheduler": timer},
        {"Nats-TTL": "1s"},
    )


def _body(task_id: str, subject: str, headers: dict[str, str]) -> dict[str, Any]:
    if headers.get("Nats-Schedule-Target") == topology.COMPLETED:
        return {"task_id": task_id, "status": "completed", "results": []}
    if subject == topology.CANCEL or "Nats-Schedule" in headers:
        return {"task_id": "nobody"}
    return {"task_description": "a stranger's", "num_agents": 1, "timeout_seconds": 3.0}
