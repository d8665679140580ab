"""Ends a deliberation whose tally is lost: its deadline came, and the bucket has no tally that can be read.

A bucket that was purged or made anew, or a tally that another client overwrote, leads here; so does a deadline that
nobody asked for. The request tells them apart: it is still in REQUESTS. Such a deliberation ends as failed, not as if it
were new: its time is up, and its agents have run. What they answered is in AGENT_RESPONSES.
"""

import logging
from contextlib import aclosing

from nats.aio.msg import Msg

from parley.broker.core.headers_and_ids import own_name
from parley.broker.core.messages import MAX_TIMEOUT_SECONDS, OWN_NAME
from parley.broker.jetstream import topology
from parley.broker.jetstream.consumer_floor import consumer_floor
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.scan import scan
from parley.handlers.delivery import Delivery
from parley.handlers.effects import EffectRunner
from parley.handlers.intake import Intake, readable_task_id

log = logging.getLogger("parley.handlers")

LOST = (
    "the service has lost its record of this deliberation, so it cannot say who answered; ask again"
    f" (what agents answered is in the stream {topology.AGENT_RESPONSES})"
)
# Requests read for a deadline that does not say where its request is (0.1.0 armed it, or a stranger).
MAX_READ = 20_000
# When a deadline comes again that was earlier than its request.
LOOK_AGAIN_SECONDS = 1.0
_BATCH = 16


class LostTally:
    def __init__(self, jetstream: JetStream, effects: EffectRunner, intake: Intake) -> None:
        self._jetstream = jetstream
        self._effects = effects
        self._intake = intake

    async def end(self, task_id: str, request_seq: int | None, now: float) -> None:
        """End it if it was asked for and has no ending. `now`: when that was noticed. Raises BrokerUnavailable."""
        unreadable = await self._effects.discard(task_id)
        request = await self._request(task_id, request_seq, now)
        if request is None:
            log.warning("a deadline of %s, which nobody has asked for or which is forgotten", task_id)
        elif not unreadable and now < self._intake.deadline_of(request):
            # It may not be taken in yet; or another process deleted what could not be read, and died then.
            log.warning("an early deadline of %s: it comes again at its time", task_id)
            await self._effects.arm_for(task_id, request.seq, self._intake.deadline_of(request))
        elif not unreadable and await self._may_wait(request):
            log.warning("a deadline of %s, whose request may not be taken in yet: it comes again", task_id)
            await self._effects.arm_for(task_id, request.seq, now + LOOK_AGAIN_SECONDS)
        elif not await self._has_ended(task_id, request, guessed=request_seq is None):
            log.error("the tally of %s is lost: it ends as failed", task_id)
            await self._intake.abandon(request, LOST)

    async def _may_wait(self, request: Delivery[object]) -> bool:
        """Whether intake has still to take it in, as it has after an absence: then there is no record to be lost. Also
        true while an older request waits."""
        floor = await consumer_floor(self._jetstream, topology.INTAKE)
        return request.seq > floor.settled and not floor.idle

    async def _has_ended(self, task_id: str, request: Delivery[object], *, guessed: bool) -> bool:
        """Whether its ending is stored. `guessed`: the request may be a second asker's, and the ending is from shortly
        before it then."""
        since = request.at - self._effects.keep_seconds if guessed else request.at
        past = await self._effects.past_of(task_id, request.seq, since, request.count)
        return past.ending_seq is not None

    async def _request(self, task_id: str, seq: int | None, now: float) -> Delivery[object] | None:
        """The newest request of that name, or the one at `seq`, as if it had been delivered before."""
        if seq is None and OWN_NAME.fullmatch(task_id):
            seq = int(task_id.partition("-")[2])
        since = now - MAX_TIMEOUT_SECONDS if seq is None else None
        stored = scan(
            self._jetstream, topology.REQUESTS, topology.REQUESTED, first=seq or 1, since=since,
            batch=_BATCH if seq is None else 1,
        )  # fmt: skip
        read, newest = 0, None
        async with aclosing(stored) as messages:
            async for message in messages:
                found = _delivered_again(message)
                if (readable_task_id(message.data) or own_name(found.seq)) == task_id:
                    newest = found
                if seq is not None:
                    return newest  # if another's, none: a stranger's deadline must not end it
                read += 1
                if read == MAX_READ:
                    break
        return newest


def _delivered_again(message: Msg) -> Delivery[object]:
    """With a count above 1, so that its ending is looked for in the stream."""
    first: Delivery[object] = Delivery.of(message)
    return Delivery(first.msg, first.seq, first.at, first.count + 1)
