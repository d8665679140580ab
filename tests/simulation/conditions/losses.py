"""What NATS holds is lost or spoilt by others: a stream is purged, a tally deleted or overwritten, a consumer deleted and
made again (as `StreamKeeper` does within seconds)."""

import random
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING

from parley.broker.jetstream import topology
from tests.simulation.conditions.condition import Condition
from tests.simulation.lateness import NOTICED_SECONDS
from tests.simulation.loop import BEGINNING
from tests.simulation.plan import Plan

if TYPE_CHECKING:
    from tests.simulation.history import History
    from tests.simulation.record import Record

# A lost deadline is found by the watch over deadlines, two seconds late and half a second more, and its ending stored.
_WATCHED_SECONDS = 4.0
# A consumer is made again within so long.
_MADE_SECONDS = 10.0


class Loss(StrEnum):
    TIMERS = "DELIBERATIONS purged"
    OLDEST = "the oldest of DELIBERATIONS dropped"
    TALLY = "a tally deleted"
    JUNK = "a tally overwritten"
    CONSUMER = "a consumer deleted"


class Losses(Condition):
    name = "losses"
    disturbs = True

    def __init__(self, rng: random.Random, plan: Plan) -> None:
        super().__init__(rng, plan)
        self.loss = rng.choice(list(Loss))
        self.consumer = rng.choice(topology.DURABLES).name
        self.task_id = rng.choice(plan.asked).task_id
        asked = next(one for one in plan.asked if one.task_id == self.task_id).acts[0]
        timeout = float(asked.body["timeout_seconds"])
        about = rng.choice(
            (0.02, rng.random() * timeout, rng.random() * timeout, timeout - 0.02, timeout + 1.0)
        )
        self.begins = BEGINNING + asked.at + about
        self.made_again = self.begins + rng.random() * _MADE_SECONDS
        if self.loss in (Loss.TALLY, Loss.JUNK) and rng.random() < 0.5:
            self._ask_again(rng.choice((0.01, 1.0, 1.0 + timeout)))

    def _ask_again(self, after: float) -> None:
        """The client finds nothing of it, and asks again under the same name, `after` seconds after the loss."""
        at = self.begins - BEGINNING + after
        asked = tuple(
            replace(one, acts=(*one.acts, replace(one.acts[0], at=at, headers={})))
            if one.task_id == self.task_id
            else one
            for one in self.plan.asked
        )
        self.plan = replace(self.plan, asked=asked)

    def begin(self, history: "History") -> None:
        server = history.server
        server.loop.call_at(self.begins, self._lose, history)
        if self.loss is Loss.CONSUMER:
            server.loop.call_at(self.made_again, server.consumers[self.consumer].make_again)

    def _lose(self, history: "History") -> None:
        server = history.server
        what = {Loss.CONSUMER: self.consumer, Loss.TALLY: self.task_id, Loss.JUNK: self.task_id}
        server.trace.add(server.now, "broker", "!", f"{self.loss} {what.get(self.loss, '')}")
        tallies, deliberations = server.streams[topology.TALLIES], server.streams[topology.DELIBERATIONS]
        subject = topology.tally_subject(self.task_id)
        match self.loss:
            case Loss.TIMERS | Loss.OLDEST:
                most = len(deliberations.messages) if self.loss is Loss.TIMERS else self.rng.randint(1, 3)
                seqs = sorted(deliberations.messages)[:most]
                for seq in seqs:
                    deliberations.remove(seq)
                server.forget_timers(deliberations)
                history.eyes.purged(set(seqs))
            case Loss.CONSUMER:
                server.consumers[self.consumer].lose()
            case _:
                kept = tallies.newest(subject, server.now)
                if kept is None:
                    return
                history.eyes.lose(self.task_id)
                tallies.remove(kept.seq)
                if self.loss is Loss.JUNK:
                    tallies.store(subject, b"junk", {}, server.now)

    def late(self, record: "Record") -> float:
        if self.loss is Loss.CONSUMER and self.consumer == "intake":
            return max(0.0, self.made_again + _WATCHED_SECONDS - record.tally.deadline)
        # Nobody watches a deadline that is further off than tallies are kept. And who watched it may have died.
        watched = record.tally.deadline - record.tally.accepted_at < self.plan.keep_seconds
        return _WATCHED_SECONDS if watched and not self.plan.faults else NOTICED_SECONDS
