"""Carries jobs out, one asyncio task each. A job's outcome is stored first, and the job is acknowledged after that.

A job is an `agent.requested` message that the dispatcher took from the work queue. Any connection may settle it
through the reply subject of its delivery, so the worker does: in-progress signals while the model thinks, `+ACK` once
the outcome is in AGENT_RESPONSES, `-NAK` to give the job back to the queue. The same worker runs in the service's own
process and in a Ray actor.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cachetools import LRUCache
from nats.aio.msg import Msg

from parley.broker.asyncio_helpers import BackgroundLoop
from parley.broker.core.endings import SHORT_ERROR_CHARACTERS
from parley.broker.core.errors import BrokerUnavailable, InvalidMessage, PayloadTooLarge, StoreFull
from parley.broker.core.headers_and_ids import outcome_msg_id
from parley.broker.core.messages import (
    AgentCancel,
    AgentCompleted,
    AgentFailed,
    AgentOutcome,
    AgentRequested,
    AgentRunning,
    ErrorType,
    decode,
)
from parley.broker.core.phase_plan import COMPARING, PhaseKind
from parley.broker.core.reply_subjects import SERVICE_INBOX
from parley.broker.core.timestamps import parse_timestamp
from parley.broker.jetstream import topology
from parley.broker.jetstream.acks_and_pulls import ACK, IN_PROGRESS, nak
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.tally_store import TallyStore
from parley.workers.agent import Agent
from parley.workers.candidate_reader import AnswersUnreadable, CandidateReader
from parley.workers.job_message import AgentJob
from parley.workers.model.breaker import BreakerStatus
from parley.workers.model.large_answers_at_once import AT_ONCE, LargeAnswer
from parley.workers.recent_cancels import Cancels, stops
from parley.workers.request_reader import RequestGone, RequestReader

log = logging.getLogger("parley.workers")

Read = TypeVar("Read")

# While NATS is away, a worker tries again to store an answer until this long after the deadline. Then the job goes
# back.
STORE_RETRY_SECONDS = 60.0
STORE_RETRY_WAIT_SECONDS = 0.5
# Before it is logged again that this does not work.
TELL_AGAIN_SECONDS = 60.0
# Between two tries to read the tallies after a reconnect.
CATCH_UP_SECONDS = 1.0
# A job that fails through a bug of ours is delivered again after this, not at once.
BUG_RETRY_SECONDS = 2.0
# Keys of settled jobs that are remembered, so that a copy that arrives late does not run again. Some MiB.
REMEMBERED = 8_192
# Jobs that start in one round of the event loop. Fifteen thousand at once stopped the loop for 7 s, and connections
# that were open by then counted as not made in time (measured).
STARTS_A_ROUND = 32


@dataclass(slots=True)
class _Running:
    # The job's body until it is decoded, and the request from then on: not both, as thousands wait at a time.
    body: bytes
    request: AgentRequested | None = None
    # The model call, once it has begun.
    call: asyncio.Task[AgentOutcome] | None = None

    @property
    def task_id(self) -> str:
        return self.request.task_id if self.request is not None else ""


@dataclass(slots=True)
class Worker:
    """Runs any number of jobs at once; the pool bounds how many. Call `start` before and `close` after."""

    wire: JetStream
    agent: Agent
    ack_wait_seconds: float = topology.ACK_WAIT_SECONDS
    # Cancels heard lately, for jobs that arrive after them.
    _cancels: Cancels = field(default_factory=Cancels)
    # By key: every job that is here and not settled.
    _running: dict[str, _Running] = field(default_factory=dict)
    # One task for each job that runs or is being given back.
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    # What settled each job of lately, by key.
    _settled: LRUCache[str, bytes] = field(default_factory=lambda: LRUCache(REMEMBERED))
    # Keys of jobs settled since the last call of `finished`.
    _finished: list[str] = field(default_factory=list)
    # How many finished jobs end the linger of `finished`.
    _batch_size: int = 1
    # A job is settled, or a breaker has changed: `finished` has something to report.
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    # As many jobs are finished as `_batch_size` says.
    _batch_full: asyncio.Event = field(default_factory=asyncio.Event)
    # Set by `close`: jobs that arrive now are given back.
    _closing: bool = False
    # Bounds the jobs that start in one round of the event loop.
    _starts: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(STARTS_A_ROUND))
    # Places for jobs with a large answer.
    _large: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    # Sends the in-progress signals.
    _keepalive_loop: BackgroundLoop | None = None
    # Reconnects after which the tallies were asked.
    _reconnects: int = 0
    # Stops what ended while NATS was away.
    _reconnect_loop: BackgroundLoop | None = None
    # What was logged of NATS being away, and when, by the loop's clock.
    _told: dict[str, float] = field(default_factory=dict)
    # Requests that jobs refer to, and answers that judges compare.
    _requests: RequestReader = field(init=False)
    _candidates: CandidateReader = field(init=False)

    def __post_init__(self) -> None:
        self._requests = RequestReader(self.wire)
        self._candidates = CandidateReader(self.wire)

    async def start(self) -> None:
        await self.wire.nc.subscribe(topology.AGENT_CANCEL, cb=self._cancel)
        await self.wire.nc.subscribe(topology.AGENT_RUNNING, cb=self._say_running)
        self.agent.balancer.breakers.watch(self._changed.set)
        self._keepalive_loop = BackgroundLoop(self._keep_alive, "keep-alive")
        self._reconnects = self.wire.nc.reconnects
        self._reconnect_loop = BackgroundLoop(self._catch_up, "catch-up")

    def use(self, agent: Agent) -> Collection["asyncio.Task[None]"]:
        """Have this agent answer what comes from now on. Returns the tasks of what runs, with the one before."""
        self.agent = agent
        agent.balancer.breakers.watch(self._changed.set)
        self._changed.set()
        return tuple(self._tasks)

    def start_jobs(self, jobs: Iterable[AgentJob]) -> None:
        """Start these jobs and return at once.

        A job that runs is left alone: it may arrive twice. One that was settled lately is reported as finished again, and
        acknowledged again if it was: a consumer that was deleted and made again hands it out under the same key, and may
        have missed the first time. Once the worker closes, jobs are given back.
        """
        for job in jobs:
            if job.key in self._running:
                continue
            if job.key in self._settled:
                self._spawn(self._settle_again(job.key))
            elif self._closing:
                self._spawn(self._settle(job.key, nak(0)))
            else:
                self._running[job.key] = _Running(job.body)
                self._spawn(self._carry_out(job.key, job.traceparent))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def running(self) -> int:
        return len(self._running)

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Those of these jobs that never arrived here."""
        return [key for key in keys if key not in self._running and key not in self._settled]

    async def give_back(self, keys: Iterable[str]) -> None:
        """Give these jobs, which never arrived here, back to the queue."""
        for key in keys:
            await self._settle(key, nak(0))

    async def finished(self, batch_size: int = 1, linger_seconds: float = 0.0) -> list[str]:
        """Wait for a settled job, and then up to `linger_seconds` for `batch_size` of them. Returns their keys.

        Returns an empty list when only a breaker has changed: the caller passes `breaker_statuses` on, too.
        """
        await self._changed.wait()
        if len(self._finished) < batch_size and linger_seconds:
            self._batch_size = batch_size
            self._batch_full.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(linger_seconds):
                    await self._batch_full.wait()
        self._changed.clear()
        done, self._finished = self._finished, []
        return done

    @property
    def breaker_statuses(self) -> tuple[BreakerStatus, ...]:
        """How this worker sees each endpoint."""
        return self.agent.balancer.breakers.statuses

    async def close(self, grace_seconds: float = 0.0) -> None:
        """Let running jobs finish for up to `grace_seconds`. Then give the others back to the queue."""
        self._closing = True
        if self._tasks and grace_seconds > 0:
            await asyncio.wait(self._tasks, timeout=grace_seconds)
        # A task cancelled before its first step runs no `finally`, and its job would not go back.
        await asyncio.sleep(0)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for watch in (self._keepalive_loop, self._reconnect_loop):
            if watch is not None:
                watch.cancel()

    # ── one job ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _carry_out(self, key: str, traceparent: str | None) -> None:
        settle = ACK
        try:
            with LargeAnswer(self._large):
                await self._outcome_of(self._running[key], traceparent)
        except InvalidMessage as error:
            # The dispatcher validates each job: only a version mismatch between it and the worker leads here.
            log.error("job cannot be read, given back: %s", error)
            settle = nak(BUG_RETRY_SECONDS)
        except BrokerUnavailable as error:
            log.error("outcome of a job could not be stored, given back: %s", error)
            settle = nak(0)
        except asyncio.CancelledError:
            settle = nak(0)
            raise
        except Exception:
            log.exception("job failed through a bug, given back")
            settle = nak(BUG_RETRY_SECONDS)
        finally:
            self._running.pop(key, None)
            await self._settle(key, settle)
            self._settled[key] = settle
            self._report(key)

    async def _settle_again(self, key: str) -> None:
        if self._settled.get(key) == ACK:
            await self._settle(key, ACK)
        self._report(key)

    def _report(self, key: str) -> None:
        """Have `finished` return it."""
        self._finished.append(key)
        self._changed.set()
        if len(self._finished) >= self._batch_size:
            self._batch_full.set()

    async def _outcome_of(self, running: _Running, traceparent: str | None) -> None:
        await self._starts.acquire()
        asyncio.get_running_loop().call_soon(self._starts.release)
        request = running.request = decode(AgentRequested, running.body)
        running.body = b""
        started = self.agent.now()
        try:
            request = await self._completed(request)
            work = await self._work(request, traceparent)
        except (RequestGone, AnswersUnreadable) as error:
            outcome: AgentOutcome = self.agent.failed(
                request, started, 0, ErrorType.INTERNAL_ERROR, str(error)
            )
            await self._store(request, outcome, traceparent)
            return
        running.request = request
        running.call = asyncio.create_task(work)
        if self._cancels.reason(request) is not None:
            running.call.cancel()  # the broadcast came before the job
        try:
            outcome = await running.call
        except asyncio.CancelledError:
            reason = self._cancels.reason(request)
            if reason is None:
                running.call.cancel()
                raise
            outcome = self.agent.failed(request, started, 1, ErrorType.CANCELLED, reason)
        await self._store(request, outcome, traceparent)

    async def _completed(self, request: AgentRequested) -> AgentRequested:
        """The request with what it left out. Raises RequestGone, BrokerUnavailable."""
        if request.request_seq is None:
            return request
        return await self._read_again(request, self._requests.complete, "a request is not read yet")

    async def _read_again(
        self, request: AgentRequested, read: Callable[[AgentRequested], Awaitable[Read]], what: str
    ) -> Read:
        """What `read` returns. Tries again while NATS is away, until the deadline. Raises BrokerUnavailable."""
        while True:
            try:
                return await read(request)
            except BrokerUnavailable as error:
                if self.agent.now() >= parse_timestamp(request.deadline):
                    raise
                self._tell(what, error)
                await asyncio.sleep(STORE_RETRY_WAIT_SECONDS)

    async def _work(
        self, request: AgentRequested, traceparent: str | None
    ) -> Coroutine[Any, Any, AgentOutcome]:
        """The call that the request asks for, not begun. Raises AnswersUnreadable, BrokerUnavailable."""
        if request.phase is PhaseKind.ANSWER:
            return self.agent.answer(request, traceparent)
        answers = await self._read_again(
            request, self._candidates.read, "answers to compare are not read yet"
        )
        match request.phase:
            case PhaseKind.REVISE:
                return self.agent.revise(request, answers, traceparent)
            case PhaseKind.EDIT:
                return self.agent.edit(request, answers, traceparent)
        return self.agent.judge(request, answers, traceparent)

    async def _store(self, request: AgentRequested, outcome: AgentOutcome, traceparent: str | None) -> None:
        """Publish the outcome; try again while NATS is away. Raises BrokerUnavailable after `STORE_RETRY_SECONDS`."""
        headers: Mapping[str, str] = {"traceparent": traceparent} if traceparent else {}
        give_up = max(parse_timestamp(request.deadline), self.agent.now()) + STORE_RETRY_SECONDS
        while True:
            done = isinstance(outcome, AgentCompleted)
            subject = topology.AGENT_COMPLETED if done else topology.AGENT_FAILED
            msg_id = outcome_msg_id(outcome.task_id, outcome.agent_id, outcome.round, outcome.phase)
            try:
                body = outcome.encode()
                ack = await self.wire.publish(subject, body, msg_id=msg_id, headers=headers)
                if isinstance(outcome, AgentCompleted) and _is_shown(request) and not ack.duplicate:
                    self._candidates.keep(ack.seq, outcome, len(body))
                return
            except PayloadTooLarge as error:
                if isinstance(outcome, AgentFailed):
                    if len(outcome.error) <= SHORT_ERROR_CHARACTERS:
                        raise  # no smaller outcome can be made: another try would make the same failure
                    outcome = outcome.model_copy(update={"error": outcome.error[:SHORT_ERROR_CHARACTERS]})
                    continue
                outcome = self.agent.failed(
                    request,
                    self.agent.now(),
                    outcome.attempt,
                    ErrorType.MALFORMED_ANSWER,
                    f"the answer is too large: {error}",
                )
            except BrokerUnavailable as error:
                if self.agent.now() >= give_up:
                    raise
                if not isinstance(error, StoreFull):  # logged once
                    self._tell("an outcome is not stored yet", error)
                await asyncio.sleep(STORE_RETRY_WAIT_SECONDS)

    async def _settle(self, key: str, acknowledgement: bytes) -> None:
        try:
            await self.wire.nc.publish(key, acknowledgement)
        # NATS is away: the server redelivers the job after ack_wait, and a second outcome changes nothing.
        except Exception as error:
            log.warning("could not settle a job: %s", error)

    def _tell(self, what: str, error: BrokerUnavailable) -> None:
        """Log it once for all jobs that meet it, and again now and then: each tries twice a second."""
        now = asyncio.get_running_loop().time()
        if not self.wire.connected:
            return  # the connection has said so
        if now - self._told.get(what, -TELL_AGAIN_SECONDS) >= TELL_AGAIN_SECONDS:
            self._told[what] = now
            log.warning("%s: %s", what, error)

    # ── all jobs ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _keep_alive(self) -> None:
        """Tell the server three times within `ack_wait` that the jobs are in progress."""
        while True:
            await asyncio.sleep(self.ack_wait_seconds / 3)
            for key in list(self._running):
                try:
                    await self.wire.nc.publish(key, IN_PROGRESS)
                except Exception as error:
                    log.warning("in-progress signal not sent: %s", error)
                    break

    async def _cancel(self, message: Msg) -> None:
        self._stop(self._cancels.hear(message.data))

    def _stop(self, cancel: AgentCancel | None) -> None:
        if cancel is None:
            return
        for running in list(self._running.values()):
            if running.call is not None and running.request is not None and stops(cancel, running.request):
                running.call.cancel()

    async def _say_running(self, question: Msg) -> None:
        """Answer, to the service only, if a call of this deliberation runs here."""
        if not question.reply.startswith(f"{SERVICE_INBOX}."):
            return
        with suppress(InvalidMessage):
            task_id = decode(AgentRunning, question.data).task_id
            if any(running.call and running.task_id == task_id for running in self._running.values()):
                await self.wire.nc.publish(question.reply)

    async def _catch_up(self) -> None:
        """Ask the tallies after each reconnect which calls are wanted: cancels broadcast meanwhile were not heard."""
        while True:
            self._reconnects = await self.wire.nc.wait_reconnected(self._reconnects)
            self._told.clear()  # another absence is told again
            # The store may have come back empty.
            self._requests.forget()
            self._candidates.forget()
            while not await self._stop_ended():  # noqa: ASYNC110  # JetStream has no event for being ready
                await asyncio.sleep(CATCH_UP_SECONDS)

    async def _stop_ended(self) -> bool:
        """Stop the calls whose deliberation has ended. False when the tallies could not be read."""
        store = TallyStore(self.wire, keep_seconds=0)
        try:
            for task_id in {
                running.task_id for running in self._running.values() if running.call is not None
            }:
                tally = await store.read(task_id)
                if tally is not None and tally.ended:
                    cancel = AgentCancel(task_id=task_id, reason="ended while NATS was away")
                    self._stop(self._cancels.note(cancel))
        except BrokerUnavailable as error:  # connected, but JetStream is not ready
            self._tell("not known yet which calls are still wanted", error)
            return False
        return True


def _is_shown(request: AgentRequested) -> bool:
    """Whether others may be shown this work's answer."""
    return request.is_compared and request.phase not in COMPARING
