"""Publishes the ending of a decided deliberation: composes it, stores it once, sends it to the askers' inboxes, marks
the tally.

Several messages may publish one ending: a redelivery of the message that decided it, and later the deadline
(`_already_ended` in `broker/core/reactions.py`; `DeadlineRecovery` arms the deadline again). So an ending is stored under
a Msg-Id. If the server may have forgotten the Msg-Id, the ending is looked for in the stream first.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing
from functools import partial

import nats.js.errors

from parley.broker.asyncio_helpers import WeightedSemaphore
from parley.broker.core import endings, headers_and_ids
from parley.broker.core.choice import in_round, revisions
from parley.broker.core.messages import (
    AgentCompleted,
    AgentFailed,
    AgentOutcome,
    DeliberationCompleted,
    Ending,
    FailedAgent,
    LeftOut,
)
from parley.broker.core.observer import Observer
from parley.broker.core.phase_plan import PhaseKind
from parley.broker.core.spending import Spending
from parley.broker.core.tally import Phase, Tally
from parley.broker.core.timestamps import format_timestamp
from parley.broker.jetstream import topology
from parley.broker.jetstream.ending_of_stored_message import ending_of
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.object_store import REFUSED_SECONDS
from parley.broker.jetstream.outcome_cache import OutcomeCache, StoredOutcome
from parley.broker.jetstream.tally_store import TallyStore
from parley.broker.jetstream.topology import purge_timer_headers
from parley.handlers.deliberation_log import log_ended
from parley.handlers.ending_results import EndingResults
from parley.handlers.stored_ending_lookup import EndingLookup

log = logging.getLogger("parley.handlers")

# Seconds after a decision from which on the server may have forgotten the Msg-Id of its ending: the shortest
# duplicate window is 180 s (`PARLEY_KEEP_SECONDS` at its least).
MSG_ID_SECONDS = 120.0
# JetStream's code for a message that cancels a schedule (`Nats-Scheduler`) where there is another message.
_INVALID_SCHEDULER = 10212
# Of endings that are being composed in a process at one time. An ending that is larger than a message counts as one
# message, since it is written to the object store as it is read.
COMPOSING_BYTES = 16 * 1024 * 1024
# What an ending's headers and those of its copy need, at most.
HEADER_BYTES = 1_024
# An object store that refuses at the deadline is asked again for this long.
LEAST_PATIENCE_SECONDS = 0.5
# An ending that waited so long for its turn may have been published by another process.
LONG_WAIT_SECONDS = 0.2


class EndingPublisher:
    """`claim_check_bytes`: the results of a larger ending go to the object store, and the ending refers to them."""

    def __init__(
        self, jetstream: JetStream, tallies: TallyStore, observer: Observer, *, claim_check_bytes: int
    ) -> None:
        self._jetstream = jetstream
        self._tallies = tallies
        # Shared with the handler that counts outcomes.
        self.outcomes = OutcomeCache(jetstream)
        self._observer = observer
        # For endings whose Msg-Id or tally may be forgotten; shared with intake.
        self.lookup = EndingLookup(jetstream)
        self._claim_check_bytes = claim_check_bytes
        # Bytes of endings that are being composed and stored.
        self._composing = WeightedSemaphore(COMPOSING_BYTES)
        # Endings that are being published, by task_id and request: whether that succeeded.
        self._publishing: dict[tuple[str, int], asyncio.Future[bool]] = {}

    async def publish(self, tally: Tally) -> None:
        """Store the ending, send it to the inboxes that its askers named, mark the tally. Safe to repeat.

        Several callers at a time share one publication.
        """
        which = (tally.task_id, tally.request_seq)
        while (other := self._publishing.get(which)) is not None:
            if await asyncio.shield(other):
                return
        loop = asyncio.get_running_loop()
        done = self._publishing[which] = loop.create_future()
        published = False
        try:
            began = loop.time()
            async with self._composing.holding(self._weight(tally)):
                waited = loop.time() - began > LONG_WAIT_SECONDS
                if not waited or not await self._is_marked(tally):
                    await self._publish(tally, *await self._compose(tally))
            published = True
        finally:
            del self._publishing[which]
            done.set_result(published)

    async def send(self, task_id: str, seq: int, reply_to: str) -> None:
        """Send the ending that is stored at `seq` to one more inbox, if the stream still has it."""
        stored = await self.lookup.get(task_id, seq)
        if stored is not None:
            await self._jetstream.broadcast(reply_to, stored.data, {headers_and_ids.SUBJECT: stored.subject})

    async def publish_unread(self, tally: Tally) -> None:
        """Publish the ending without a look at the outcomes: each process that read them ended by it."""
        assert tally.verdict is not None
        counted, at = tally.answers.outcomes, tally.verdict.decided_at
        failed = {
            agent: endings.lost(agent, at) for agent, outcome in counted.items() if not outcome.succeeded
        }
        answered = tally.answers.successes
        left_out: list[LeftOut] = ["results"] if answered else []
        if tally.synthesis is not None and tally.synthesis.seq is not None:
            left_out.append("synthesis.content")
        ending = endings.compose(tally, (), failed, answered=answered, left_out=left_out)
        await self._publish(tally, *endings.fit(ending, self._limit))

    async def _is_marked(self, tally: Tally) -> bool:
        """Whether another process has published the ending meanwhile."""
        stored = await self._tallies.read(tally.task_id)
        return (
            stored is not None and stored.request_seq == tally.request_seq and stored.ending_seq is not None
        )

    async def _publish(self, tally: Tally, ending: Ending, body: bytes) -> None:
        completed = isinstance(ending, DeliberationCompleted)
        subject = topology.COMPLETED if completed else topology.FAILED
        seq = await self._store(tally, subject, body)
        headers = {**trace_headers(tally), headers_and_ids.SUBJECT: subject}
        for inbox in tally.inboxes:
            await self._jetstream.broadcast(inbox, body, headers)
        marked = await self._tallies.mark_published(tally.task_id, seq)
        if marked.changed:
            self._observer.deliberation_ended(ending)
            log_ended(ending)
            # Of those who asked meanwhile. Who asks from now on finds the mark, and gets the stored ending.
            later = marked.tally.inboxes if marked.tally is not None else ()
            for inbox in set(later) - set(tally.inboxes):
                await self._jetstream.broadcast(inbox, body, headers)
        for phase in tally.all_phases:
            for outcome in phase.outcomes.values():
                self.outcomes.forget(outcome.seq)

    # ── compose ───────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _limit(self) -> int:
        """Bytes that an ending may have at most."""
        return self._jetstream.max_payload - HEADER_BYTES

    def _weight(self, tally: Tally) -> int:
        """Bytes that composing this ending keeps in memory, at most."""
        seqs = [outcome.seq for phase in tally.all_phases for outcome in phase.outcomes.values()]
        if not seqs:
            return 0
        size = self.outcomes.size(seqs)
        return self._limit if size is None else min(size, self._limit)

    async def _compose(self, tally: Tally) -> tuple[Ending, bytes]:
        """The ending and its bytes, small enough to be published. Raises BrokerUnavailable."""
        failed: dict[str, FailedAgent] = {}
        results = EndingResults(
            self._jetstream, tally.task_id, limit=self._limit, refused_seconds=self._patience(tally)
        )
        try:
            spent = [Spending() for _ in tally.all_phases]
            answered = await self._collect(tally, results, failed, spent[0]) if spent else 0
            judged: dict[int, AgentOutcome | None] = {}
            revised = revisions(tally)
            for phase, spending in zip(tally.later_phases, spent[1:], strict=True):
                judged |= await self._collect_later(phase, revised, results, spending)
            compose = partial(
                endings.compose, tally, failed=failed, answered=answered, judged=judged, spent=spent
            )
            ending = compose(results.kept)
            body = ending.encode()
            if len(body) <= self._claim_check_bytes and len(results.kept) == results.added:
                return ending, body
            ref = await results.refer() if results.added else None
        except Exception:
            await results.abandon()
            raise
        kept = results.kept if ref is None else ()
        left_out: list[LeftOut] = ["results"] if ref is None and len(kept) < results.added else []
        ending = compose(kept, results_ref=ref, left_out=left_out)
        ending, body = endings.fit(ending, self._limit)
        if ending.left_out:
            log.warning("the ending of %s leaves out: %s", tally.task_id, ", ".join(ending.left_out))
        return ending, body

    async def _collect(
        self, tally: Tally, results: EndingResults, failed: dict[str, FailedAgent], spending: Spending
    ) -> int:
        """Read what the agents reported, in their order. Returns how many answered."""
        assert tally.verdict is not None
        at, lost = tally.verdict.decided_at, 0
        counted = tally.answers.outcomes
        answered = [agent for agent in tally.answers.agents if agent in counted and counted[agent].succeeded]
        if len(answered) < len(counted):
            await self._collect_failures(tally, failed, spending, at)
        async with aclosing(self._read({agent: counted[agent].seq for agent in answered})) as answers:
            async for agent, stored in answers:
                if stored is None or isinstance(stored.outcome, AgentFailed):
                    failed[agent] = endings.lost(agent, at)
                    lost += 1
                else:
                    spending.add(stored.outcome)
                    await results.add(endings.result_of(stored.outcome), stored.size)
                if results.lost and tally.is_plain:  # else the ending tells what all of them cost
                    break
        return len(answered) - lost

    async def _collect_failures(
        self, tally: Tally, failed: dict[str, FailedAgent], spending: Spending, at: float
    ) -> None:
        counted = {agent: one.seq for agent, one in tally.answers.outcomes.items() if not one.succeeded}
        async with aclosing(self._read(counted)) as failures:
            async for agent, stored in failures:
                if stored is None or isinstance(stored.outcome, AgentCompleted):
                    failed[agent] = endings.lost(agent, at)
                else:
                    failed[agent] = endings.failure_of(stored.outcome)
                    spending.add(stored.outcome)

    async def _collect_later(
        self, phase: Phase, revised: Collection[str], results: EndingResults, spending: Spending
    ) -> dict[int, AgentOutcome | None]:
        """Read what the agents of a later phase reported, in their order: the answers of a round of revision that are
        `revised` become results, or None where they are no longer stored; all else that is stored is returned by its
        sequence: failures, a few dozen ballots, and one text."""
        found: dict[int, AgentOutcome | None] = {}
        counted = {agent: phase.outcomes[agent].seq for agent in phase.agents if agent in phase.outcomes}
        async with aclosing(self._read(counted)) as outcomes:
            async for agent, stored in outcomes:
                is_result = phase.kind is PhaseKind.REVISE and in_round(agent, phase.number) in revised
                if stored is None:
                    if is_result:
                        found[counted[agent]] = None
                    continue
                spending.add(stored.outcome)
                if phase.kind is not PhaseKind.REVISE or isinstance(stored.outcome, AgentFailed):
                    found[counted[agent]] = stored.outcome
                elif is_result:
                    await results.add(endings.result_of(stored.outcome), stored.size)
        return found

    async def _read(
        self, counted: Mapping[str, int]
    ) -> AsyncGenerator[tuple[str, StoredOutcome | None], None]:
        """The outcomes at these sequences, each with its agent; None for what is lost."""
        async with aclosing(self.outcomes.in_order([*counted.values()])) as outcomes:
            agents = iter(counted)
            async for stored in outcomes:
                yield next(agents), stored

    def _patience(self, tally: Tally) -> float:
        """Seconds for which an object store that refuses is asked again: the ending is to come within a second of its
        deadline."""
        left = tally.deadline - self._jetstream.clock.now()
        return max(LEAST_PATIENCE_SECONDS, min(REFUSED_SECONDS, left + LEAST_PATIENCE_SECONDS))

    # ── store, once ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _store(self, tally: Tally, subject: str, body: bytes) -> int:
        """The ending's place in the stream, stored now or before."""
        # Storing the ending cancels its deadline: an ending that was not stored leaves the deadline armed.
        headers = {**purge_timer_headers(tally.task_id), **trace_headers(tally)}
        msg_id = headers_and_ids.ending_msg_id(tally.task_id)
        before = await self._find(tally)
        if before is not None:
            return before
        try:
            ack = await self._jetstream.publish(subject, body, msg_id=msg_id, headers=headers)
        except nats.js.errors.APIError as error:
            if error.err_code != _INVALID_SCHEDULER:
                raise
            # What is at the timer's subject is no timer: a stranger's message, or an acknowledgement that one has
            # aimed there. There is nothing to cancel.
            log.warning("the timer of %s has been replaced by another message", tally.task_id)
            headers = trace_headers(tally)
            ack = await self._jetstream.publish(subject, body, msg_id=msg_id, headers=headers)
        if ack.duplicate and not await self._is_at(tally, ack.seq):
            # A message of another client has our Msg-Id, by accident or to suppress the ending; or an earlier
            # deliberation of the name has it, whose tally was lost. Under the request's own Msg-Id it is stored once.
            ack = await self._jetstream.publish(
                subject, body, msg_id=f"{msg_id}:{tally.request_seq}", headers=headers
            )
        return ack.seq

    async def _is_at(self, tally: Tally, seq: int) -> bool:
        """Whether the ending of this very deliberation is stored at `seq`, not that of an earlier one of its name:
        that was decided before this one was asked for, even if it was stored later."""
        assert tally.verdict is not None
        stored = await self.lookup.get(tally.task_id, seq)
        ending = ending_of(stored, tally.task_id) if stored is not None else None
        if ending is None:
            return False
        decided = ending.completed_at if isinstance(ending, DeliberationCompleted) else ending.timestamp
        # Timestamps of one form are in the order of their letters. 0.1.0 decided by its own clock, maybe too early.
        own = format_timestamp(tally.verdict.decided_at)
        return decided == own or decided >= format_timestamp(tally.accepted_at)

    async def _find(self, tally: Tally) -> int | None:
        """The place of an ending that was stored so long ago that its Msg-Id may be forgotten, and was never marked."""
        assert tally.verdict is not None
        if self._jetstream.clock.now() - tally.verdict.decided_at < MSG_ID_SECONDS:
            return None
        seq = await self.lookup.find(tally.task_id, tally.accepted_at)
        return seq if seq is not None and await self._is_at(tally, seq) else None


def trace_headers(tally: Tally) -> dict[str, str]:
    return {"traceparent": tally.traceparent} if tally.traceparent else {}
