"""Carries jobs out: one asyncio task a job, each ending in a stored outcome and only then in an acknowledgement.

A job is an `agent.requested` message that the dispatcher took from the work queue. Any connection may settle it through its
reply subject, so the one who does the work does: in-progress signals while the model thinks, `+ACK` once the outcome is in
AGENT_RESPONSES, `-NAK` when it has to be done elsewhere. The same worker runs in the service's own process and in a Ray actor.
"""

import asyncio
import json
import logging
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from nats.aio.msg import Msg

from parley.broker.core.errors import BrokerUnavailable, InvalidMessage, PayloadTooLarge
from parley.broker.core.messages import (
    AgentCancel,
    AgentCompleted,
    AgentFailed,
    AgentOutcome,
    AgentRequested,
    ErrorType,
    decode,
)
from parley.broker.core.timestamps import parse_timestamp
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.tally_store import TallyStore
from parley.workers.agent import Agent
from parley.workers.job import Job
from parley.workers.model.breaker import BreakerStatus
from parley.workers.recent_cancels import Cancels

log = logging.getLogger("parley.workers")

# NATS may be away while the answer is in hand; the work is not thrown away for that. After this the job goes back.
STORE_RETRY_SECONDS = 60.0
STORE_RETRY_WAIT_SECONDS = 0.5
# How often a worker looks whether NATS went and came back.
CATCH_UP_SECONDS = 1.0
# A job that failed through a bug of ours is not to spin.
BUG_RETRY_SECONDS = 2.0
# Jobs settled lately: one that comes once more, late, is not run again. Some MiB.
REMEMBERED = 8_192
# Jobs that begin in one round of the event loop. Thousands at once held it up for 7 s, and connections that were open long ago then counted
# as not made in time (measured with 15,000).
STARTS_A_ROUND = 32


@dataclass(slots=True)
class _Running:
    task_id: str
    call: asyncio.Task[AgentOutcome] | None = None


@dataclass(slots=True)
class Worker:
    """Runs any number of jobs at once; whoever hands them over counts them. `start` before, `close` after."""

    wire: JetStream
    agent: Agent
    ack_wait_seconds: float = topology.ACK_WAIT_SECONDS
    _cancels: Cancels = field(default_factory=Cancels)
    _running: dict[str, _Running] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _settled: dict[str, None] = field(default_factory=dict)
    _finished: list[str] = field(default_factory=list)
    _enough: int = 1
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _plenty: asyncio.Event = field(default_factory=asyncio.Event)
    _closing: bool = False
    _starts: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(STARTS_A_ROUND))
    _heart: asyncio.Task[None] | None = None
    _ear: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.wire.nc.subscribe(topology.AGENT_CANCEL, cb=self._cancel)
        self.agent.balancer.breakers.watch(self._news.set)
        self._heart = asyncio.create_task(self._keep_alive(), name="keep-alive")
        self._ear = asyncio.create_task(self._catch_up(), name="catch-up")

    def begin(self, jobs: Iterable[Job]) -> None:
        """Start these jobs and return at once. One that runs or was settled lately is left alone: it may have been handed over twice. Once this
        closes, jobs go back to the queue."""
        for job in jobs:
            if job.reply in self._running or job.reply in self._settled:
                continue
            if self._closing:
                self._do(self._settle(job.reply, nak(0)))
                continue
            self._running[job.reply] = _Running(task_id="")
            self._do(self._carry_out(job))

    def _do(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def running(self) -> int:
        return len(self._running)

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Of these jobs those that never came."""
        return [key for key in keys if key not in self._running and key not in self._settled]

    async def give_back(self, keys: Iterable[str]) -> None:
        """Have somebody else do these jobs, which are not here."""
        for key in keys:
            await self._settle(key, nak(0))

    async def finished(self, enough: int = 1, patience_seconds: float = 0.0) -> list[str]:
        """Wait until at least one job is settled, and then for `enough`, or up to `patience_seconds`; the keys of all that are.

        None at all when a breaker changed meanwhile: whoever waits here passes `statuses` on too.
        """
        await self._news.wait()
        if len(self._finished) < enough and patience_seconds:
            self._enough = enough
            self._plenty.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(patience_seconds):
                    await self._plenty.wait()
        self._news.clear()
        done, self._finished = self._finished, []
        return done

    @property
    def breaker_statuses(self) -> tuple[BreakerStatus, ...]:
        """How this worker sees each endpoint."""
        return self.agent.balancer.breakers.statuses

    async def close(self, grace_seconds: float = 0.0) -> None:
        """Let running jobs finish for up to `grace_seconds`, then give the rest back to the queue."""
        self._closing = True
        if self._tasks and grace_seconds > 0:
            await asyncio.wait(self._tasks, timeout=grace_seconds)
        await asyncio.sleep(
            0
        )  # a task cancelled before its first step would not run its `finally`: its job would not go back
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for watch in (self._heart, self._ear):
            if watch is not None:
                watch.cancel()

    # ── one job ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _carry_out(self, job: Job) -> None:
        settle = b"+ACK"
        try:
            await self._outcome_of(job)
        except InvalidMessage as error:
            # The dispatcher validates before it hands over: only a version mismatch between the two gets here.
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
            self._running.pop(job.reply, None)
            await self._settle(job.reply, settle)
            self._settled[job.reply] = None
            if len(self._settled) > REMEMBERED:
                del self._settled[next(iter(self._settled))]
            self._finished.append(job.reply)
            self._news.set()
            if len(self._finished) >= self._enough:
                self._plenty.set()

    async def _outcome_of(self, job: Job) -> None:
        await self._starts.acquire()
        asyncio.get_running_loop().call_soon(self._starts.release)
        request = decode(AgentRequested, job.body)
        running = self._running[job.reply]
        running.task_id = request.task_id
        started = self.agent.now()
        running.call = asyncio.create_task(self.agent.answer(request, job.traceparent))
        if self._cancels.reason(request.task_id) is not None:
            running.call.cancel()  # the broadcast came before the work
        try:
            outcome = await running.call
        except asyncio.CancelledError:
            reason = self._cancels.reason(request.task_id)
            if reason is None:
                running.call.cancel()
                raise
            outcome = self.agent.failed(request, started, 1, ErrorType.CANCELLED, reason)
        await self._store(request, outcome, job.traceparent)

    async def _store(self, request: AgentRequested, outcome: AgentOutcome, traceparent: str | None) -> None:
        """Publish the outcome, through an absence of NATS if need be. Raises BrokerUnavailable when that lasts too long."""
        headers: Mapping[str, str] = {"traceparent": traceparent} if traceparent else {}
        give_up = max(parse_timestamp(request.deadline), self.agent.now()) + STORE_RETRY_SECONDS
        while True:
            done = isinstance(outcome, AgentCompleted)
            subject = topology.AGENT_COMPLETED if done else topology.AGENT_FAILED
            msg_id = f"{outcome.task_id}:{outcome.agent_id}:{outcome.round}"
            try:
                await self.wire.publish(subject, outcome.encode(), msg_id=msg_id, headers=headers)
                return
            except PayloadTooLarge as error:
                if isinstance(outcome, AgentFailed):
                    raise  # nothing smaller can be said: without this the same failure was made again for ever
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
                log.warning("outcome of %s not stored yet: %s", msg_id, error)
                await asyncio.sleep(STORE_RETRY_WAIT_SECONDS)

    async def _settle(self, key: str, word: bytes) -> None:
        try:
            await self.wire.nc.publish(key, word)
        except Exception as error:  # NATS is gone: the server redelivers after ack_wait, and the fold ignores a second outcome
            log.warning("could not settle a job: %s", error)

    # ── all jobs ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _keep_alive(self) -> None:
        """Tell the server that the jobs are being worked on, three times within `ack_wait`."""
        while True:
            await asyncio.sleep(self.ack_wait_seconds / 3)
            for reply in list(self._running):
                try:
                    await self.wire.nc.publish(reply, b"+WPI")
                except Exception as error:
                    log.warning("in-progress signal not sent: %s", error)
                    break

    async def _cancel(self, message: Msg) -> None:
        self._stop(self._cancels.hear(message.data))

    def _stop(self, cancel: AgentCancel | None) -> None:
        for running in list(self._running.values()):
            if cancel is not None and running.task_id == cancel.task_id and running.call is not None:
                running.call.cancel()

    async def _catch_up(self) -> None:
        """A broadcast that went out while we were away was not heard: after each reconnect the tallies are asked what is still wanted."""
        connects = self.wire.nc.stats["reconnects"]
        while True:
            await asyncio.sleep(CATCH_UP_SECONDS)
            now = self.wire.nc.stats["reconnects"]
            if now == connects or not self.wire.connected:
                continue
            try:
                await self._stop_what_has_ended()
                connects = now
            except BrokerUnavailable as error:  # back, but not ready: asked again
                log.warning("not known yet which calls are still wanted: %s", error)
            except Exception:  # whatever it was, it must not end the watch
                log.exception("which calls are still wanted is not known through a bug")
                connects = now

    async def _stop_what_has_ended(self) -> None:
        ledger = TallyStore(self.wire, keep_seconds=0)
        for task_id in {running.task_id for running in self._running.values() if running.call is not None}:
            tally = await ledger.read(task_id)
            if tally is not None and tally.ended:
                self._stop(
                    self._cancels.note(AgentCancel(task_id=task_id, reason="ended while NATS was away"))
                )


def nak(delay_seconds: float) -> bytes:
    """The word that gives a message back, to be delivered again after a delay."""
    if not delay_seconds:
        return b"-NAK"
    return b"-NAK " + json.dumps({"delay": int(delay_seconds * 1e9)}).encode()
