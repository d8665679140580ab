"""`agent.response.*` into the tallies.

Each deliberation has one fold at a time in this process. Outcomes that arrive meanwhile wait and are folded together next, with
one write for all: agents of one deliberation finish at about the same moment, and would otherwise refuse each other's writes. For
the same reason an outcome that can end nothing waits a moment for one that can.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from parley.broker.concurrency import gather
from parley.broker.core.messages import AgentCompleted, AgentFailed, AgentOutcome
from parley.broker.core.observer import Observer
from parley.broker.core.tally import Event, Reported
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream
from parley.handlers.delivery import Batch, Delivery
from parley.handlers.effects import EffectRunner
from parley.handlers.settle import Settler

# How long an outcome that ends nothing waits for others. Agents that begin together finish within milliseconds of each other.
COMPANY_SECONDS = 0.01

Arrival = tuple[Delivery[AgentOutcome], AgentOutcome, "asyncio.Future[None]"]


@dataclass(slots=True)
class _Lane:
    """What waits for one deliberation's next fold. `full`: set once as many wait as somebody waits for."""

    waiting: list[Arrival]
    wanted: int = 0
    full: asyncio.Event = field(default_factory=asyncio.Event)

    def join(self, arrival: Arrival) -> None:
        self.waiting.append(arrival)
        if len(self.waiting) >= self.wanted:
            self.full.set()

    def take(self) -> list[Arrival]:
        group, self.waiting = self.waiting, []
        return group

    async def company(self, wanted: int) -> None:
        """Wait for `wanted` to be there, but not for long."""
        self.wanted = wanted
        self.full.clear()
        if len(self.waiting) < wanted:
            with suppress(TimeoutError):
                async with asyncio.timeout(COMPANY_SECONDS):
                    await self.full.wait()


class Aggregate:
    def __init__(
        self, wire: JetStream, performer: EffectRunner, settler: Settler, observer: Observer
    ) -> None:
        self._wire = wire
        self._performer = performer
        self._settler = settler
        self._observer = observer
        self._lanes: dict[str, _Lane] = {}

    async def __call__(self, deliveries: Batch[AgentOutcome]) -> None:
        await gather(map(self._settle, deliveries))

    async def _settle(self, delivery: Delivery[AgentOutcome]) -> None:
        async def handle() -> None:
            outcome = read(delivery)
            await self._counted(delivery, outcome)

        await self._settler.settle(delivery, handle)

    async def _counted(self, delivery: Delivery[AgentOutcome], outcome: AgentOutcome) -> None:
        """Wait until a fold has counted this outcome. Raises what the fold raised."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        arrival = (delivery, outcome, done)
        lane = self._lanes.get(outcome.task_id)
        if lane is not None:
            lane.join(arrival)
        else:
            lane = self._lanes[outcome.task_id] = _Lane([arrival])
            await asyncio.sleep(0)  # the rest of this batch lines up before the first fold
            await self._fold_all(outcome.task_id, lane)
        await done

    async def _fold_all(self, task_id: str, lane: _Lane) -> None:
        """Fold whatever waits, until nothing does."""
        while lane.waiting:
            error: BaseException | None = None
            group: list[Arrival] = []
            try:
                await lane.company(self._performer.outcomes_needed(task_id))
                group = lane.take()
                await self._fold(task_id, group)
            except BaseException as raised:
                error = raised
            for _, _, done in group or lane.take():
                if done.done():
                    continue
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error)
        del self._lanes[task_id]

    async def _fold(self, task_id: str, group: Sequence[Arrival]) -> None:
        events: list[tuple[Event, float]] = []
        for delivery, outcome, _ in group:
            self._performer.outcomes.remember(delivery.seq, delivery.data)
            error_type = outcome.error_type if isinstance(outcome, AgentFailed) else None
            events.append((Reported(outcome.agent_id, outcome.round, delivery.seq, error_type), delivery.at))
        applied = await self._performer.apply(task_id, events)
        for (delivery, outcome, _), reaction in zip(group, applied.reactions, strict=True):
            if reaction.note:
                self._performer.outcomes.forget(delivery.seq)  # it came late, or for nobody
                self._observer.outcome_ignored(outcome)
            else:
                self._observer.agent_reported(outcome)


def read(delivery: Delivery[AgentOutcome]) -> AgentOutcome:
    """The outcome, by its subject. Raises InvalidMessage."""
    if delivery.msg.subject == topology.AGENT_COMPLETED:
        return delivery.payload(AgentCompleted)
    return delivery.payload(AgentFailed)
