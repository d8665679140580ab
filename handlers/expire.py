"""`deliberation.deadline.<task_id>`: the NATS scheduler says that the deadline of a deliberation has come."""

from collections.abc import Sequence

from parley.broker.core.events_and_effects import DeadlineReached
from parley.broker.core.messages import DeliberationDeadline
from parley.broker.jetstream import topology
from parley.handlers.delivery import ACK, Delivery, Settlement
from parley.handlers.effects import EffectRunner
from parley.handlers.lost_tally_ending import LostTally

_PREFIX = topology.deadline_subject("")


class Expire:
    def __init__(self, effects: EffectRunner, lost: LostTally) -> None:
        self._effects = effects
        self._lost = lost

    async def prepare(self, deliveries: Sequence[Delivery[DeliberationDeadline]]) -> None:
        """Read the tallies of many deadlines together."""
        await self._effects.read_ahead(
            [delivery.msg.subject.removeprefix(_PREFIX) for delivery in deliveries]
        )

    async def handle(self, delivery: Delivery[DeliberationDeadline]) -> Settlement:
        """Raises InvalidMessage."""
        deadline = delivery.payload(DeliberationDeadline)
        # By the server's clock, which stored both this message and the request that set the deadline.
        result = await self._effects.apply(deadline.task_id, [(DeadlineReached(), delivery.at)])
        if result.tally is None:
            await self._lost.end(deadline.task_id, deadline.request_seq, delivery.at)
        return ACK

    async def give_up(self, delivery: Delivery[DeliberationDeadline], _: str) -> None:
        """End a deliberation whose ending could never be composed: `left_out` names what it lacks."""
        task_id = delivery.msg.subject.removeprefix(topology.deadline_subject(""))
        await self._effects.end_unread(task_id, delivery.at)
