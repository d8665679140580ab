"""Carries out what `react` decided. The order is the promise: the tally is written, then effects run, then the input is acked.

A crash between any two steps repeats a step and skips none. Every effect is safe to repeat: a timer replaces itself, agent
requests and endings carry a Msg-Id, a broadcast that comes twice cancels nothing twice.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import aclosing
from typing import assert_never

from parley.broker.concurrency import WeightedSemaphore, gather
from parley.broker.core import endings
from parley.broker.core.errors import InvalidMessage
from parley.broker.core.messages import (
    AgentCancel,
    AgentCompleted,
    AgentFailed,
    AgentOutcome,
    AgentRequested,
    DeliberationCompleted,
    DeliberationDeadline,
    DeliberationRequested,
    Ending,
    decode,
    decode_ending,
)
from parley.broker.core.observer import Observer
from parley.broker.core.tally import (
    ArmDeadline,
    Effect,
    Event,
    PublishEnding,
    RequestAgents,
    StopAgents,
    Tally,
)
from parley.broker.core.timestamps import format_timestamp
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.outcome_store import OutcomeStore
from parley.broker.jetstream.scan import scan
from parley.broker.jetstream.tally_store import FoldResult, TallyStore
from parley.broker.jetstream.topology import purge_timer_headers

log = logging.getLogger("parley.handlers")

# Bytes of agent requests on their way to the server at one time, for the whole process: 64 prompts of 250 KiB for 64 agents each
# would otherwise stand in memory at once (2.5 GiB measured).
FAN_OUT_BYTES = 16 * 1024 * 1024
# From then on an ending's Msg-Id may be forgotten (the shortest duplicate window is 180 s, `PARLEY_KEEP_SECONDS` at its least): who
# publishes one that was decided longer ago looks for it in the stream first.
MSG_ID_SECONDS = 120.0


# With the deadline so near nothing waits for company.
NEAR_SECONDS = 1.0


class EffectRunner:
    def __init__(
        self, wire: JetStream, ledger: TallyStore, observer: Observer, *, claim_check_bytes: int
    ) -> None:
        self._wire = wire
        self._ledger = ledger
        # Shared with the handler that counts outcomes.
        self.outcomes = OutcomeStore(wire)
        self._observer = observer
        self._claim_check_bytes = claim_check_bytes
        self._fan_out = WeightedSemaphore(FAN_OUT_BYTES)

    async def recorded(self, task_id: str) -> bool:
        """Whether there is, or was lately, a deliberation of this name."""
        return await self._ledger.read(task_id) is not None

    def outcomes_needed(self, task_id: str) -> int:
        """How many outcomes together may end a deliberation, as far as this process knows. Fewer only count; 1 if it does not know, or
        if the deadline is too near for anything to wait."""
        tally = self._ledger.cached(task_id)
        if tally is None or tally.deadline - time.time() < NEAR_SECONDS:
            return 1
        return tally.outcomes_needed

    async def apply(
        self,
        task_id: str,
        events: Sequence[tuple[Event, float]],
        request: DeliberationRequested | None = None,
    ) -> FoldResult:
        """Let events happen to a deliberation and carry out what follows; the caller acknowledges after.

        `request` is the request itself, at hand only for who received it; agents can be requested only then.
        """
        applied = await self._ledger.apply(task_id, events, new=request is not None)
        if applied.tally is not None:
            await self._perform(applied, applied.tally, request)
        return applied

    async def _perform(
        self, applied: FoldResult, tally: Tally, request: DeliberationRequested | None
    ) -> None:
        if not applied.effects:
            return
        # Effects of one decision do not depend on each other: none waits for another's PubAck. But those who are stopped report
        # at once, and had better meet an ending that is marked.
        first = [effect for effect in applied.effects if not isinstance(effect, StopAgents)]
        await gather(self._one(effect, tally, request) for effect in first)
        for effect in applied.effects[len(first) :]:
            await self._one(effect, tally, request)

    async def _one(self, effect: Effect, tally: Tally, request: DeliberationRequested | None) -> None:
        match effect:
            case ArmDeadline(at):
                await self.arm(tally, at)
            case RequestAgents(round=number, agents=agents):
                assert request is not None, "agents are requested where the request is at hand"
                await self._request_agents(tally, number, agents, request)
            case PublishEnding():
                await self._publish_ending(tally)
            case StopAgents(reason):
                cancel = AgentCancel(task_id=tally.task_id, reason=reason)
                await self._wire.broadcast(topology.AGENT_CANCEL, cancel.encode(), _trace(tally))
            case _:
                assert_never(effect)

    async def arm(self, tally: Tally, at: float) -> None:
        """Have the deadline come at `at`, or at once if that has passed. One that was armed before is replaced."""
        body = DeliberationDeadline(task_id=tally.task_id).encode()
        await self._wire.schedule(
            topology.timer_subject(tally.task_id), topology.deadline_subject(tally.task_id), at, body
        )

    async def _request_agents(
        self, tally: Tally, number: int, agents: Sequence[str], request: DeliberationRequested
    ) -> None:
        order = {agent: place for place, agent in enumerate(tally.phase.agents, 1)}
        headers = _trace(tally)
        weight = len(request.encode())
        work = _work(tally, number, agents[0], order[agents[0]], request)

        async def one(agent: str) -> None:
            async with self._fan_out.holding(weight):
                body = work.model_copy(update={"agent_id": agent, "agent_number": order[agent]}).encode()
                # The request's place tells a namesake's work apart, should this come very late.
                msg_id = f"{tally.task_id}:{agent}:{number}:request:{tally.request_seq}"
                await self._wire.publish(topology.AGENT_REQUESTED, body, msg_id=msg_id, headers=headers)

        await gather(map(one, agents))

    # ── the ending ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _publish_ending(self, tally: Tally) -> None:
        """Store the ending, hand it to who asked, mark it published."""
        ending = endings.compose(tally, await self._outcomes(tally))
        body = await self._fitting(ending)
        completed = isinstance(ending, DeliberationCompleted)
        subject = topology.COMPLETED if completed else topology.FAILED
        seq = await self._store_ending(tally, subject, body)
        if tally.reply_to is not None:
            await self._wire.broadcast(tally.reply_to, body, {**_trace(tally), "Parley-Subject": subject})
        marked = await self._ledger.mark_published(tally.task_id, seq)
        if marked.changed:
            self._observer.deliberation_ended(ending)
        for outcome in tally.phase.outcomes.values():
            self.outcomes.forget(outcome.seq)

    async def _store_ending(self, tally: Tally, subject: str, body: bytes) -> int:
        # The ending cancels its own deadline as it is stored: an ending that was not stored leaves it armed.
        headers = {**purge_timer_headers(tally.task_id), **_trace(tally)}
        msg_id = f"{tally.task_id}:ending"
        before = await self._published_before(tally)
        if before is not None:
            return before
        placed = await self._wire.publish(subject, body, msg_id=msg_id, headers=headers)
        if placed.duplicate and not await self._is_ending(tally, placed.seq):
            # Somebody else's message took our Msg-Id first, by accident or to silence us. The tally's own mark keeps it at one.
            placed = await self._wire.publish(
                subject, body, msg_id=f"{msg_id}:{tally.request_seq}", headers=headers
            )
        return placed.seq

    async def _published_before(self, tally: Tally) -> int | None:
        """The place of its ending, if that was stored so long ago that its Msg-Id may be forgotten, and never marked: nobody ran."""
        assert tally.verdict is not None
        if time.time() - tally.verdict.decided_at < MSG_ID_SECONDS:
            return None
        for subject in (topology.COMPLETED, topology.FAILED):
            async with aclosing(
                scan(self._wire, topology.DELIBERATIONS, subject, first=tally.request_seq)
            ) as endings_:
                async for message in endings_:
                    if _names(message.data, tally.task_id):
                        return int(message.metadata.sequence.stream)
        return None

    async def _is_ending(self, tally: Tally, seq: int) -> bool:
        message = await self._wire.get(topology.DELIBERATIONS, seq)
        if message is None or message.subject not in (topology.COMPLETED, topology.FAILED):
            return False
        return _names(message.data, tally.task_id)

    async def _outcomes(self, tally: Tally) -> dict[str, AgentOutcome]:
        counted = tally.phase.outcomes
        stored = await asyncio.gather(*(self.outcomes.get(outcome.seq) for outcome in counted.values()))
        outcomes: dict[str, AgentOutcome] = {}
        for (agent, outcome), body in zip(counted.items(), stored, strict=True):
            if body is not None:
                try:
                    outcomes[agent] = (
                        decode(AgentCompleted, body) if outcome.succeeded else decode(AgentFailed, body)
                    )
                except InvalidMessage as error:
                    # Counted by an older version that read it differently: said in the ending as lost, and no reason not to end.
                    log.error("an outcome of %s cannot be read any more: %s", tally.task_id, error)
        return outcomes

    async def _fitting(self, ending: Ending) -> bytes:
        """The ending as bytes; results above the claim-check threshold go to the object store and a reference travels."""
        body = ending.encode()
        if len(body) <= self._claim_check_bytes:
            return body
        results = b"[" + b",".join(result.encode() for result in ending.results) + b"]"
        ref = await self._wire.put_object(topology.RESULTS_BUCKET, ending.task_id, results)
        return ending.model_copy(update={"results": (), "results_ref": ref}).encode()


def _work(
    tally: Tally, number: int, agent: str, place: int, request: DeliberationRequested
) -> AgentRequested:
    return AgentRequested(
        task_id=tally.task_id,
        agent_id=agent,
        agent_number=place,
        round=number,
        role=tally.role,
        num_agents=len(tally.phase.agents),
        task_description=request.task_description,
        constraints=request.constraints,
        diversity=request.diversity,
        requested_at=format_timestamp(tally.accepted_at),
        deadline=format_timestamp(tally.deadline),
        metadata=tally.metadata,
        model=request.model,
        temperature=request.temperature,
        max_tokens=request.max_tokens,
        seed=request.seed,
        stop=request.stop,
    )


def _names(body: bytes, task_id: str) -> bool:
    """Whether this is an ending of that name."""
    try:
        return decode_ending(body).task_id == task_id
    except InvalidMessage:
        return False


def _trace(tally: Tally) -> dict[str, str]:
    return {"traceparent": tally.traceparent} if tally.traceparent else {}
