"""`deliberation.deadline.<task_id>`: the NATS scheduler says that a deliberation's time is up."""

from parley.broker.concurrency import gather
from parley.broker.core.messages import DeliberationDeadline
from parley.broker.core.tally import DeadlineReached
from parley.handlers.delivery import Batch, Delivery
from parley.handlers.effects import EffectRunner
from parley.handlers.settle import Settler


class Expire:
    def __init__(self, performer: EffectRunner, settler: Settler) -> None:
        self._performer = performer
        self._settler = settler

    async def __call__(self, deliveries: Batch[DeliberationDeadline]) -> None:
        await gather(map(self._settle, deliveries))

    async def _settle(self, delivery: Delivery[DeliberationDeadline]) -> None:
        async def handle() -> None:
            task_id = delivery.payload(DeliberationDeadline).task_id
            # Judged by the server's clock, which stored both this message and the request that set the deadline.
            await self._performer.apply(task_id, [(DeadlineReached(), delivery.at)])

        await self._settler.settle(delivery, handle)
