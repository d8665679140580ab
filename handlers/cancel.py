"""`deliberation.cancel`: stop this one. A cancel may overtake its request; it waits until the request must have been seen."""

import time

from parley.broker.concurrency import gather
from parley.broker.core.messages import DeliberationCancel
from parley.broker.core.tally import CancelRequested
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream
from parley.handlers.delivery import Batch, Delivery
from parley.handlers.effects import EffectRunner
from parley.handlers.settle import Settler

# Before looking again whether the request of a cancel that came first has been taken in.
OVERTAKEN_WAIT_SECONDS = 0.5


class Cancel:
    def __init__(self, wire: JetStream, performer: EffectRunner, settler: Settler) -> None:
        self._wire = wire
        self._performer = performer
        self._settler = settler

    async def __call__(self, deliveries: Batch[DeliberationCancel]) -> None:
        await gather(map(self._settle, deliveries))

    async def _settle(self, delivery: Delivery[DeliberationCancel]) -> None:
        async def handle() -> float | None:
            return await self._cancel(delivery)

        await self._settler.settle(delivery, handle)

    async def _cancel(self, delivery: Delivery[DeliberationCancel]) -> float | None:
        cancel = delivery.payload(DeliberationCancel)
        event = CancelRequested(cancel.reason, delivery.seq)
        if (await self._performer.apply(cancel.task_id, [(event, time.time())])).tally is not None:
            return None
        if await self._may_come_yet(delivery.seq):
            return OVERTAKEN_WAIT_SECONDS
        # Intake may have recorded it between the two looks; by now it has, or never will.
        await self._performer.apply(cancel.task_id, [(event, time.time())])
        return None

    async def _may_come_yet(self, seq: int) -> bool:
        """Whether intake has still to settle a request that was stored before this cancel."""
        with self._wire.translate_errors():
            intake = await self._wire.js.consumer_info(topology.INTAKE.stream, topology.INTAKE.name)
        settled = intake.ack_floor.stream_seq if intake.ack_floor is not None else 0
        return bool(intake.num_pending or intake.num_ack_pending) and settled < seq
