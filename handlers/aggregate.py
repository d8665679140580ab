"""`agent.response.*`: counts the agents' outcomes in the tallies.

This process folds one group of outcomes of a deliberation at a time. Outcomes that arrive meanwhile are folded
together next, in one write: agents of one deliberation finish at about the same moment, and single writes would
refuse each other. For the same reason an outcome that cannot end its deliberation waits a moment for others.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from parley.broker.core.events_and_effects import Event, Reported
from parley.broker.core.messages import AgentFailed, AgentOutcome, said_by
from parley.broker.core.observer import Observer
from parley.broker.core.reactions import Reaction
from parley.broker.jetstream.outcome_cache import outcome_of
from parley.handlers.delivery import ACK, Delivery, Settlement
from parley.handlers.effects import EffectRunner

# How long an outcome that ends nothing waits for others. Agents that begin together finish within milliseconds of
# each other.
LINGER_SECONDS = 0.01

Arrival = tuple[Delivery[AgentOutcome], AgentOutcome, "asyncio.Future[None]"]


@dataclass(slots=True)
class _Pending:
    """The outcomes that wait for the next fold of one deliberation."""

    waiting: list[Arrival]
    # How many outcomes the fold waits for.
    wanted: int = 0
    # Set when `wanted` outcomes wait.
    full: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, arrival: Arrival) -> None:
        self.waiting.append(arrival)
        if len(self.waiting) >= self.wanted:
            self.full.set()

    def take(self) -> list[Arrival]:
        group, self.waiting = self.waiting, []
        return group

    async def wait_for(self, wanted: int) -> None:
        """Wait until `wanted` outcomes are there, for LINGER_SECONDS at most."""
        self.wanted = wanted
        self.full.clear()
        if len(self.waiting) < wanted:
            with suppress(TimeoutError):
                async with asyncio.timeout(LINGER_SECONDS):
                    await self.full.wait()


class Aggregate:
    def __init__(self, effects: EffectRunner, observer: Observer) -> None:
        self._effects = effects
        self._observer = observer
        # Deliberations that are being folded, by task_id.
        self._pending: dict[str, _Pending] = {}

    async def handle(self, delivery: Delivery[AgentOutcome]) -> Settlement:
        """Return once a fold has counted this outcome. Raises what the fold raised, and InvalidMessage."""
        outcome = read(delivery)
        counted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        arrival = (delivery, outcome, counted)
        pending = self._pending.get(outcome.task_id)
        if pending is not None:
            pending.add(arrival)
        else:
            pending = self._pending[outcome.task_id] = _Pending([arrival])
            await asyncio.sleep(0)  # the rest of this batch is added before the first fold
            await self._fold_all(outcome.task_id, pending)
        await counted
        return ACK

    async def _fold_all(self, task_id: str, pending: _Pending) -> None:
        """Fold until nothing waits."""
        while pending.waiting:
            error: BaseException | None = None
            group: list[Arrival] = []
            try:
                await pending.wait_for(self._effects.outcomes_needed(task_id))
                group = pending.take()
                await self._fold(task_id, group)
            except BaseException as raised:
                error = raised
            for _, _, counted in group or pending.take():
                if counted.done():
                    continue
                if error is None:
                    counted.set_result(None)
                else:
                    counted.set_exception(error)
        del self._pending[task_id]

    async def _fold(self, task_id: str, group: Sequence[Arrival]) -> None:
        events: list[tuple[Event, float]] = []
        for delivery, outcome, _ in group:
            self._effects.outcomes.remember(delivery.seq, outcome, len(delivery.data))
            error_type = outcome.error_type if isinstance(outcome, AgentFailed) else None
            event = Reported(
                outcome.agent_id, outcome.round, delivery.seq, error_type, outcome.phase, said_by(outcome)
            )
            events.append((event, delivery.at))
        result = await self._effects.apply(task_id, events)
        for (delivery, outcome, _), reaction in zip(group, result.reactions, strict=True):
            if not _counted(reaction, outcome, delivery.seq):
                # It came late, or for a deliberation that does not exist: no ending will need it.
                self._effects.outcomes.forget(delivery.seq)
                self._observer.outcome_ignored(outcome)
            else:
                self._observer.agent_reported(outcome)


def _counted(reaction: Reaction, outcome: AgentOutcome, seq: int) -> bool:
    """Whether this fold counted the outcome. One that came long after its deadline may only have ended it."""
    if reaction.note or reaction.tally is None:
        return False
    counted = [phase.outcomes.get(outcome.agent_id) for phase in reaction.tally.all_phases]
    return any(one is not None and one.seq == seq for one in counted)


def read(delivery: Delivery[AgentOutcome]) -> AgentOutcome:
    """The outcome. Raises InvalidMessage."""
    return outcome_of(delivery.msg.subject, delivery.data)
