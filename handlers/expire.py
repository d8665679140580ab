"""`deliberation.deadline.<task_id>`: the NATS scheduler says that a deliberation's time is up."""

from broker.messages import DeliberationDeadline
from broker.tally import DeadlineReached
from handlers.delivery import Batch, Delivery
from handlers.perform import Performer
from handlers.settle import Settler
from handlers.together import together


class Expire:
    def __init__(self, performer: Performer, settler: Settler) -> None:
        self._performer = performer
        self._settler = settler

    async def __call__(self, deliveries: Batch[DeliberationDeadline]) -> None:
        await together(map(self._settle, deliveries))

    async def _settle(self, delivery: Delivery[DeliberationDeadline]) -> None:
        async def handle() -> None:
            task_id = delivery.payload(DeliberationDeadline).task_id
            # Judged by the server's clock, which stored both this message and the request that set the deadline.
            await self._performer.happen(task_id, [(DeadlineReached(), delivery.at)])

        await self._settler.settle(delivery, handle)
