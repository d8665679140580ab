"""`deliberation.cancel`: end a deliberation. A cancel may arrive before its request, and then waits for it."""

from parley.broker.core.messages import DeliberationCancel
from parley.broker.core.tally import CancelRequested
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.topology import Durable
from parley.handlers.delivery import ACK, Delivery, Retry, Settlement
from parley.handlers.effects import EffectRunner

# Seconds before the handler looks again for the request of a cancel.
REQUEST_WAIT_SECONDS = 0.5


class Cancel:
    """`intake`: the consumer of the requests in the same stream."""

    def __init__(
        self, jetstream: JetStream, effects: EffectRunner, *, intake: Durable = topology.INTAKE
    ) -> None:
        self._jetstream = jetstream
        self._effects = effects
        self._intake = intake

    async def handle(self, delivery: Delivery[DeliberationCancel]) -> Settlement:
        """Raises InvalidMessage."""
        cancel = delivery.payload(DeliberationCancel)
        event = CancelRequested(cancel.reason, delivery.seq)
        if (await self._effects.apply(cancel.task_id, [(event, self._effects.now())])).tally is not None:
            return ACK
        if await self._may_come_yet(delivery.seq):
            return Retry(REQUEST_WAIT_SECONDS)
        # Intake has settled every earlier request by now: the request is recorded, or it never will be.
        await self._effects.apply(cancel.task_id, [(event, self._effects.now())])
        return ACK

    async def _may_come_yet(self, seq: int) -> bool:
        """Whether intake has still to settle a request that was stored before this cancel."""
        with self._jetstream.translate_errors():
            intake = await self._jetstream.js.consumer_info(self._intake.stream, self._intake.name)
        settled = intake.ack_floor.stream_seq if intake.ack_floor is not None else 0
        return bool(intake.num_pending or intake.num_ack_pending) and settled < seq
