"""Publishes the ending of a decided deliberation: composes it, stores it once, sends it to the inbox, marks the
tally.

Several messages may publish one ending: a redelivery of the message that decided it, and later the deadline
(`_already_ended` in `broker/core/tally.py`; `DeadlineRecovery` arms the deadline again). So an ending is stored under
a Msg-Id. If the server may have forgotten the Msg-Id, the ending is looked for in the stream first.
"""

import asyncio
import logging
from contextlib import aclosing

from parley.broker.core import endings, wire_names
from parley.broker.core.errors import InvalidMessage
from parley.broker.core.messages import (
    AgentCompleted,
    AgentFailed,
    AgentOutcome,
    DeliberationCompleted,
    Ending,
    decode,
    decode_ending,
)
from parley.broker.core.observer import Observer
from parley.broker.core.tally import Tally
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.outcome_cache import OutcomeCache
from parley.broker.jetstream.scan import scan
from parley.broker.jetstream.tally_store import TallyStore
from parley.broker.jetstream.topology import purge_timer_headers

log = logging.getLogger("parley.handlers")

# Seconds after a decision from which on the server may have forgotten the Msg-Id of its ending: the shortest
# duplicate window is 180 s (`PARLEY_KEEP_SECONDS` at its least).
MSG_ID_SECONDS = 120.0


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
        self._claim_check_bytes = claim_check_bytes

    async def publish(self, tally: Tally) -> None:
        """Store the ending, send it to the inbox that the request named, mark the tally. Safe to repeat."""
        ending = endings.compose(tally, await self._read_outcomes(tally))
        body = await self._encode(ending)
        completed = isinstance(ending, DeliberationCompleted)
        subject = topology.COMPLETED if completed else topology.FAILED
        seq = await self._store(tally, subject, body)
        if tally.reply_to is not None:
            headers = {**trace_headers(tally), wire_names.SUBJECT: subject}
            await self._jetstream.broadcast(tally.reply_to, body, headers)
        marked = await self._tallies.mark_published(tally.task_id, seq)
        if marked.changed:
            self._observer.deliberation_ended(ending)
        for outcome in tally.phase.outcomes.values():
            self.outcomes.forget(outcome.seq)

    # ── compose ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _read_outcomes(self, tally: Tally) -> dict[str, AgentOutcome]:
        counted = tally.phase.outcomes
        stored = await asyncio.gather(*(self.outcomes.get(outcome.seq) for outcome in counted.values()))
        outcomes: dict[str, AgentOutcome] = {}
        for (agent, outcome), body in zip(counted.items(), stored, strict=True):
            if body is None:
                continue
            kind: type[AgentCompleted | AgentFailed] = AgentCompleted if outcome.succeeded else AgentFailed
            try:
                outcomes[agent] = decode(kind, body)
            except InvalidMessage as error:
                # Another version counted it and read it differently. The ending calls it lost, and is published.
                log.error("an outcome of %s cannot be read any more: %s", tally.task_id, error)
        return outcomes

    async def _encode(self, ending: Ending) -> bytes:
        body = ending.encode()
        if len(body) <= self._claim_check_bytes:
            return body
        results = b"[" + b",".join(result.encode() for result in ending.results) + b"]"
        ref = await self._jetstream.put_object(topology.RESULTS_BUCKET, ending.task_id, results)
        return ending.model_copy(update={"results": (), "results_ref": ref}).encode()

    # ── store, once ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _store(self, tally: Tally, subject: str, body: bytes) -> int:
        """The ending's place in the stream, stored now or before."""
        # Storing the ending cancels its deadline: an ending that was not stored leaves the deadline armed.
        headers = {**purge_timer_headers(tally.task_id), **trace_headers(tally)}
        msg_id = wire_names.ending_msg_id(tally.task_id)
        before = await self._find(tally)
        if before is not None:
            return before
        ack = await self._jetstream.publish(subject, body, msg_id=msg_id, headers=headers)
        if ack.duplicate and not await self._is_ending(tally, ack.seq):
            # A message of another client has our Msg-Id, by accident or to suppress the ending. Under another Msg-Id
            # the tally's mark alone keeps the ending at one.
            ack = await self._jetstream.publish(
                subject, body, msg_id=f"{msg_id}:{tally.request_seq}", headers=headers
            )
        return ack.seq

    async def _find(self, tally: Tally) -> int | None:
        """The place of an ending that was stored so long ago that its Msg-Id may be forgotten, and was never marked."""
        assert tally.verdict is not None
        if self._jetstream.clock.now() - tally.verdict.decided_at < MSG_ID_SECONDS:
            return None
        for subject in (topology.COMPLETED, topology.FAILED):
            messages = scan(self._jetstream, topology.DELIBERATIONS, subject, since=tally.accepted_at)
            async with aclosing(messages):
                async for message in messages:
                    if _is_of(message.data, tally.task_id):
                        return int(message.metadata.sequence.stream)
        return None

    async def _is_ending(self, tally: Tally, seq: int) -> bool:
        message = await self._jetstream.get(topology.DELIBERATIONS, seq)
        if message is None or message.subject not in (topology.COMPLETED, topology.FAILED):
            return False
        return _is_of(message.data, tally.task_id)


def trace_headers(tally: Tally) -> dict[str, str]:
    return {"traceparent": tally.traceparent} if tally.traceparent else {}


def _is_of(body: bytes, task_id: str) -> bool:
    """Whether this is an ending of that deliberation."""
    try:
        return decode_ending(body).task_id == task_id
    except InvalidMessage:
        return False
