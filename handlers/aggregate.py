"""`agent.response.*` into the tallies. Outcomes that arrived together for one deliberation are folded with one write."""

import asyncio
from collections.abc import Sequence

from broker import topology
from broker.connection import Stored, Wire
from broker.messages import AgentCompleted, AgentFailed, AgentOutcome
from broker.observer import Observer
from broker.tally import Event, Reported
from handlers.delivery import Batch, Delivery
from handlers.perform import Performer
from handlers.settle import Settler

Arrival = tuple[Delivery[AgentOutcome], AgentOutcome]


class Aggregate:
    def __init__(self, wire: Wire, performer: Performer, settler: Settler, observer: Observer) -> None:
        self._wire = wire
        self._performer = performer
        self._settler = settler
        self._observer = observer

    async def __call__(self, deliveries: Batch[AgentOutcome]) -> None:
        by_task: dict[str, list[Arrival]] = {}
        unreadable = []
        for delivery in deliveries:
            try:
                outcome = read(delivery)
            except Exception as error:
                unreadable.append(self._settler.failed(delivery, error))
                continue
            by_task.setdefault(outcome.task_id, []).append((delivery, outcome))
        await asyncio.gather(*unreadable, *(self._settle(task_id, group) for task_id, group in by_task.items()))

    async def _settle(self, task_id: str, group: Sequence[Arrival]) -> None:
        folded = asyncio.ensure_future(self._fold(task_id, group))

        async def handle() -> None:
            await asyncio.shield(folded)

        await asyncio.gather(*(self._settler.settle(delivery, handle) for delivery, _ in group))

    async def _fold(self, task_id: str, group: Sequence[Arrival]) -> None:
        events: list[tuple[Event, float]] = []
        for delivery, outcome in group:
            message = Stored(delivery.seq, delivery.msg.subject, delivery.data, delivery.headers)
            self._wire.remember(topology.AGENT_RESPONSES, message)
            error_type = outcome.error_type if isinstance(outcome, AgentFailed) else None
            events.append((Reported(outcome.agent_id, outcome.round, delivery.seq, error_type), delivery.at))
        applied = await self._performer.happen(task_id, events)
        for (_, outcome), reaction in zip(group, applied.reactions, strict=True):
            if reaction.note:
                self._observer.outcome_ignored(outcome, reaction.note)
            else:
                self._observer.agent_reported(outcome)


def read(delivery: Delivery[AgentOutcome]) -> AgentOutcome:
    """The outcome, by its subject. Raises BadMessage."""
    if delivery.msg.subject == topology.AGENT_COMPLETED:
        return delivery.payload(AgentCompleted)
    return delivery.payload(AgentFailed)
