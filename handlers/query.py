"""`deliberation.get`: the status of a deliberation: from the request until intake has taken it in, then from its tally,
and from its ending once that is stored.

Listing all deliberations is the client's: it reads the bucket of tallies.
"""

from collections.abc import Sequence
from typing import Any

from parley.broker.core import endings
from parley.broker.core.choice import written
from parley.broker.core.errors import BrokerUnavailable, InvalidMessage
from parley.broker.core.messages import (
    AgentFailed,
    AgentResult,
    AgentRunning,
    DeliberationCompleted,
    DeliberationFailed,
    DeliberationGet,
    DeliberationStatus,
    Ending,
    decode,
)
from parley.broker.core.states_and_moves import STATUS_WORDS, State
from parley.broker.core.tally import Tally
from parley.broker.core.timestamps import format_timestamp
from parley.broker.jetstream import topology
from parley.broker.jetstream.ending_of_stored_message import ending_of
from parley.broker.jetstream.forgery_counts import Forgery
from parley.broker.jetstream.jetstream import JetStream, StoredMessage
from parley.broker.jetstream.outcome_cache import outcome_of
from parley.broker.jetstream.tally_store import TallyStore
from parley.handlers.untaken_request_lookup import UntakenRequests

# What an ending may leave out and a status has too.
_SAID_BY_STATUS = ("results", "metadata", "error")
# Bytes for the headers of an answer.
_HEADER_BYTES = 256

# Workers answer at once, in about a millisecond. None answers if no agent has begun.
RUNNING_WAIT_SECONDS = 0.15
# More questions than this at a time are answered without asking the workers: each waits for most of the above.
MAX_ASKING_WORKERS = 16
_TOO_MANY = "cannot tell now: very many requests wait to be taken in; ask again"

# The stream no longer has the ending (a purge, its limits), and the tally is still kept.
_GONE = "{} (its ending is no longer in the stream)"


class Query:
    def __init__(self, jetstream: JetStream, tallies: TallyStore) -> None:
        self._jetstream = jetstream
        self._tallies = tallies
        self._untaken = UntakenRequests(jetstream)
        # Questions to the workers that are under way.
        self._asking_workers = 0

    async def __call__(self, body: bytes) -> DeliberationStatus:
        """The answer to a request body, also to an invalid one, and also while NATS is away."""
        try:
            question = decode(DeliberationGet, body)
        except InvalidMessage as error:
            return DeliberationStatus(task_id="", status="UNKNOWN", error_message=str(error))
        task_id = question.task_id
        try:
            status, _ = endings.fit(
                await self.status(task_id, question.answers_of), self._jetstream.max_payload - _HEADER_BYTES
            )
            return status
        except BrokerUnavailable as error:
            return DeliberationStatus(
                # The reason only: where NATS is is not the client's.
                task_id=task_id,
                status="UNKNOWN",
                error_message=f"cannot tell now: {error.reason}",
            )

    async def status(self, task_id: str, answers_of: Sequence[str] = ()) -> DeliberationStatus:
        """`answers_of`: whose answers are asked for while it runs. Raises BrokerUnavailable."""
        tally = await self._tallies.read(task_id)
        waits: bool | None = False
        if tally is None:
            waits = await self._untaken.holds(task_id)
            # Intake may have taken it in meanwhile.
            tally = await self._tallies.read(task_id) if not waits else None
        if tally is None:
            return _untold(task_id, waits)
        ending = await self._ending(tally)
        if ending is not None:
            return _of_ending(tally, ending)
        phase = tally.answers
        return DeliberationStatus(
            task_id=task_id,
            # For a client it is not over before its ending is published.
            status="IN_PROGRESS" if await self._in_progress(tally) else STATUS_WORDS[tally.state],  # type: ignore[arg-type]  # pydantic checks it
            error_message=_GONE.format(tally.verdict.error or tally.state)
            if tally.ending_seq is not None and tally.verdict
            else "",
            results=await self._answers(tally, answers_of),
            total_agents=len(phase.agents),
            **_under_way(tally),
            received_count=phase.successes,
            failed_count=len(phase.outcomes) - phase.successes,
            metadata=tally.metadata,
        )

    async def _in_progress(self, tally: Tally) -> bool:
        """Whether it is decided and not published, or no agent has reported yet and one has begun: its worker says
        so."""
        if tally.state is not State.PENDING or self._asking_workers >= MAX_ASKING_WORKERS:
            return tally.ending_unpublished
        question = AgentRunning(task_id=tally.task_id).encode()
        self._asking_workers += 1
        try:
            return await self._jetstream.anybody_answers(
                topology.AGENT_RUNNING, question, RUNNING_WAIT_SECONDS
            )
        finally:
            self._asking_workers -= 1

    async def _answers(self, tally: Tally, names: Sequence[str]) -> tuple[AgentResult, ...]:
        """The answers of these names, as far as there are any and they fit into a message."""
        counted = written(tally) if names else {}
        found: list[AgentResult] = []
        left = self._jetstream.max_payload
        for name in dict.fromkeys(names):
            stored = (
                await self._jetstream.get(topology.AGENT_RESPONSES, counted[name].seq)
                if name in counted
                else None
            )
            answer = _answer_at(stored, tally.task_id, name) if stored is not None else None
            if answer is None or stored is None:
                continue
            left -= len(stored.data)
            if left < 0 and found:
                break  # asked for alone, it fits
            found.append(answer)
        return tuple(found)

    async def _ending(self, tally: Tally) -> Ending | None:
        if tally.ending_seq is None:
            return None
        stored = await self._jetstream.get(topology.DELIBERATIONS, tally.ending_seq)
        if stored is None:
            return None
        ending = ending_of(stored, tally.task_id)
        if ending is None:
            self._jetstream.nc.forgeries.note(Forgery.ENDING, topology.GET)
        return ending


def _answer_at(stored: StoredMessage, task_id: str, name: str) -> AgentResult | None:
    """The answer that a tally names at this place in AGENT_RESPONSES; None if it is not there."""
    try:
        outcome = outcome_of(stored.subject, stored.data)
    except InvalidMessage:
        return None
    if isinstance(outcome, AgentFailed) or outcome.task_id != task_id:
        return None
    result = endings.result_of(outcome)
    return result if result.agent_id == name else None


def _under_way(tally: Tally) -> dict[str, Any]:
    """The phase of one that chooses, or has several rounds."""
    if tally.is_plain or tally.ended:
        return {}
    return {"phase": tally.phase.kind.value, "limit": format_timestamp(tally.limit)}


def _untold(task_id: str, waits: bool | None) -> DeliberationStatus:
    """The status of one without a tally."""
    if waits:
        return DeliberationStatus(task_id=task_id, status="PENDING")
    why = "never stored, or forgotten" if waits is not None else _TOO_MANY
    return DeliberationStatus(task_id=task_id, status="UNKNOWN", error_message=why)


def _of_ending(tally: Tally, ending: Ending) -> DeliberationStatus:
    """What the stored ending says, also where a tally that was lost and made again ended otherwise."""
    state = State(ending.status)
    error = ending.error if isinstance(ending, DeliberationFailed) else ""
    if state is tally.state and tally.verdict is not None:
        error = tally.verdict.error  # the ending's may have been shortened
    return DeliberationStatus(
        task_id=tally.task_id,
        status=STATUS_WORDS[state],  # type: ignore[arg-type]  # pydantic checks it against the literal
        results=ending.results,
        results_ref=ending.results_ref,
        left_out=tuple(name for name in ending.left_out if name in _SAID_BY_STATUS),
        error_message=error,
        duration_ms=ending.duration_ms,
        total_agents=ending.total_agents,
        received_count=ending.successful_responses,
        failed_count=ending.failed_responses,
        winner_id=ending.winner_id if isinstance(ending, DeliberationCompleted) else None,
        answer_from=ending.answer_from if isinstance(ending, DeliberationCompleted) else None,
        metadata=ending.metadata,
        ending_seq=tally.ending_seq,
    )
