"""Finds deliberations whose deadline has passed without an ending, in seconds: the deadline was lost (a purge, a full
store, a server that died before it fired).

The deadline itself is a message of the NATS scheduler; this is the second look. Each process remembers the deadlines
of what it recorded, counted for or armed in a sweep, and looks again `OVERDUE_SECONDS` later. In a process with all
parts most are forgotten before that, since the ending is marked here. In other deployments it costs one read a
deliberation.
"""

import asyncio
import logging

from parley.broker.asyncio_helpers import gather
from parley.broker.core.errors import BrokerUnavailable, Conflict
from parley.broker.core.events_and_effects import DeadlineReached
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.store_probe import PROBED
from parley.handlers.deadline_book import Watched
from parley.handlers.effects import EffectRunner
from parley.handlers.lost_tally_ending import LostTally

log = logging.getLogger("parley.handlers")

# Seconds after a deadline until it counts as lost: longer than its timer takes, also when thousands are due at once.
OVERDUE_SECONDS = 2.0
LOOK_SECONDS = 0.5
# After a failure.
AGAIN_SECONDS = 1.0
# After a failure that is a bug of ours.
BUG_SECONDS = 30.0
# Looked at together. Few: with thousands overdue the handler of the deadlines is at work too.
AT_ONCE = 16
# Seconds after a decision in which its ending may just be on its way to be marked. Longer than any handler's
# `ack_wait`, so that the message which decided it comes first, and no listener of core NATS hears an ending twice
# without need.
MARKING_SECONDS = 10.0


class DeadlineWatch:
    def __init__(self, jetstream: JetStream, effects: EffectRunner, lost: LostTally) -> None:
        self._jetstream = jetstream
        self._effects = effects
        self._lost = lost
        # One look at a time: after a full store the sweep asks for one, too.
        self._looking = asyncio.Lock()
        # Whose deadline was applied, and not all of what followed carried out.
        self._half_done: set[str] = set()

    async def run(self) -> None:
        """Look every LOOK_SECONDS, for ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> int:
        """End what is overdue, unless the store is full or NATS is away. Returns how many deliberations were looked
        at."""
        looked, book = 0, self._effects.deadlines
        async with self._looking:
            while self._can_store:
                overdue = book.take_due(self._effects.now() - OVERDUE_SECONDS, AT_ONCE)
                if not overdue:
                    break
                looked += len(overdue)
                await gather(self._end(task_id, watched) for task_id, watched in overdue)
        return looked

    @property
    def _can_store(self) -> bool:
        return self._jetstream.connected and self._jetstream.health.refusal(PROBED) is None

    def _again(self, task_id: str, due: float, watched: Watched) -> None:
        """Look at it again once `due`, and not before."""
        self._effects.deadlines.remove(task_id)  # applying an event may have put it back
        self._effects.deadlines.add(task_id, due - OVERDUE_SECONDS, watched.request_seq)

    async def _end(self, task_id: str, watched: Watched) -> None:
        now = self._effects.now()
        half_done = task_id in self._half_done
        self._half_done.discard(task_id)
        try:
            tally = await self._effects.read(task_id)
            if tally is None:
                await self._lost.end(task_id, watched.request_seq, now)
                return
            if tally.ended and not tally.ending_unpublished:
                return
            # Its publisher may be mid-way: then subscribers of core NATS would hear the ending twice.
            marked_by = tally.verdict.decided_at + MARKING_SECONDS if tally.verdict is not None else now
            if now < marked_by:
                self._again(task_id, marked_by, watched)
                return
            another_began = tally.verdict is None and now < tally.limit + OVERDUE_SECONDS
            if another_began:
                self._again(task_id, tally.limit + OVERDUE_SECONDS, watched)
                if not half_done:
                    return
            self._half_done.add(task_id)
            await self._effects.apply(task_id, [(DeadlineReached(), now)])
            self._half_done.discard(task_id)
        except (BrokerUnavailable, Conflict):
            self._again(task_id, now + AGAIN_SECONDS, watched)
        except Exception:
            log.exception("the overdue deadline of %s could not be carried out", task_id)
            self._again(task_id, now + BUG_SECONDS, watched)
