"""A worker on a real NATS: it stores before it acknowledges, keeps jobs alive, cancels them, and gives them back."""

import asyncio
import json
import logging
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg
from nats.js.api import ConsumerInfo

from parley.broker.core.events_and_effects import CancelRequested, Requested
from parley.broker.core.messages import (
    AgentCancel,
    AgentCompleted,
    AgentFailed,
    AgentOutcome,
    AgentRequested,
    AgentRunning,
    Candidate,
    ErrorType,
)
from parley.broker.core.phase_plan import PhaseKind, Select
from parley.broker.core.reply_subjects import SERVICE_INBOX
from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.embedded import embedded_nats
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.nats_client import NatsClient as Nats
from parley.broker.jetstream.provision import Wanted, provision
from parley.broker.jetstream.tally_store import TallyStore
from parley.workers import worker as worker_module
from parley.workers.agent import Agent
from parley.workers.job_message import AgentJob
from parley.workers.model import large_answers_at_once
from parley.workers.model.call_policy import RetryPolicy
from parley.workers.model.endpoint_address import Endpoint
from parley.workers.model.endpoint_failover import FailoverClient
from parley.workers.model.model_client import ChatRequest, ModelClient
from parley.workers.model.responses import Completion
from parley.workers.recent_cancels import Cancels
from parley.workers.simulator import DEFAULT_MODEL
from parley.workers.worker import STARTS_A_ROUND, Worker
from tests.harness import ModelServer, until
from tests.mirror.broker import Accounts, accounts
from tests.mirror.workers import work
from tests.rig.proc import free_port

# Short, so that a redelivery shows at once. The worker signals three times within it.
ACK_WAIT_SECONDS = 0.75
# Long: a message that comes again within a test was given back, its time did not run out.
LONG_ACK_WAIT_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class WorkQueue:
    """A NATS with its streams. Takes work from the queue as the dispatcher does."""

    nc: Nats

    @property
    def wire(self) -> JetStream:
        return JetStream(self.nc)

    async def post(self, *requests: AgentRequested) -> None:
        for request in requests:
            await self.wire.publish(topology.AGENT_REQUESTED, request.encode())

    async def deliveries(self, count: int = 1, seconds: float = 10.0) -> list[Msg]:
        """What the queue hands out next: that many, or TimeoutError."""
        subscription = await self.nc.jetstream().pull_subscribe_bind(
            topology.DISPATCH.name, topology.DISPATCH.stream
        )
        try:
            found: list[Msg] = []
            while len(found) < count:
                found += await subscription.fetch(count - len(found), timeout=seconds)
            return found
        finally:
            await subscription.unsubscribe()

    async def jobs(self, *requests: AgentRequested) -> list[AgentJob]:
        """These requests, posted and taken from the queue."""
        await self.post(*requests)
        return [
            AgentJob(msg.reply, msg.data, (msg.headers or {}).get("traceparent"))
            for msg in await self.deliveries(len(requests))
        ]

    async def info(self) -> ConsumerInfo:
        info: ConsumerInfo = await self.nc.jetstream().consumer_info(
            topology.DISPATCH.stream, topology.DISPATCH.name
        )
        return info

    async def unsettled(self) -> int:
        return (await self.info()).num_ack_pending or 0

    async def all_settled(self) -> None:
        async def nothing_is_left() -> bool:
            info = await self.info()
            return not info.num_ack_pending and not info.num_pending

        await until(nothing_is_left, "every job is acknowledged")

    async def outcomes(self) -> list[Msg]:
        """Every stored outcome."""
        js = self.nc.jetstream()
        state = (await js.stream_info(topology.AGENT_RESPONSES)).state
        found = []
        for seq in range(max(1, state.first_seq), state.last_seq + 1):
            raw = await js.get_msg(topology.AGENT_RESPONSES, seq)
            found.append(Msg(self.nc, raw.subject or "", data=raw.data or b"", headers=raw.headers))
        return found

    async def one_outcome(self) -> Msg:
        async def stored() -> list[Msg]:
            return await self.outcomes()

        (only,) = await until(stored, "an outcome is stored")
        return only

    async def failure(self) -> AgentFailed:
        msg = await self.one_outcome()
        assert msg.subject == topology.AGENT_FAILED
        return AgentFailed.model_validate_json(msg.data)


@pytest.fixture(scope="module")
async def own_nats(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Accounts]:
    """Not the session's server: a service on it would take the work."""
    async with accounts(tmp_path_factory.mktemp("nats-worker")) as server:
        yield server


@asynccontextmanager
async def opened(url: str, ack_wait_seconds: float) -> AsyncIterator[WorkQueue]:
    nc = await connect(url, "tests-worker")
    try:
        await provision(nc.jetstream(), Wanted(ack_wait_seconds=ack_wait_seconds))
        yield WorkQueue(nc)
    finally:
        await close(nc)


@pytest.fixture
async def queue(own_nats: Accounts) -> AsyncIterator[WorkQueue]:
    async with opened(own_nats.fresh_url(), LONG_ACK_WAIT_SECONDS) as queue:
        yield queue


@pytest.fixture
async def impatient_queue(own_nats: Accounts) -> AsyncIterator[WorkQueue]:
    async with opened(own_nats.fresh_url(), ACK_WAIT_SECONDS) as queue:
        yield queue


@asynccontextmanager
async def working(
    queue: WorkQueue,
    model: ModelServer,
    *,
    ack_wait_seconds: float = LONG_ACK_WAIT_SECONDS,
    cancels: Cancels | None = None,
) -> AsyncIterator[Worker]:
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(ModelClient())
        balancer = FailoverClient(client, [Endpoint(model.url)], RetryPolicy(attempts=1))
        worker = Worker(
            queue.wire, Agent(balancer, DEFAULT_MODEL, time.time), ack_wait_seconds, cancels or Cancels()
        )
        await worker.start()
        stack.push_async_callback(worker.close)
        yield worker


async def settled(worker: Worker, count: int) -> list[str]:
    """The keys of that many finished jobs."""
    keys: list[str] = []
    while len(keys) < count:
        keys += await asyncio.wait_for(worker.finished(), 20)
    return keys


# ── the ordinary case ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_its_own_answers_are_at_hand_for_its_judges(
    queue: WorkQueue, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [work(number, task_id="t-1", select=Select.JUDGE) for number in (1, 2)]
    async with working(queue, model) as worker:
        worker.start_jobs(await queue.jobs(*asked))
        await settled(worker, 2)

        async def refuse(stream: str, seq: int) -> None:
            raise AssertionError(f"{stream} is read at {seq}")

        monkeypatch.setattr(worker.wire, "get", refuse)
        shown = tuple(Candidate(label=label, seq=seq) for label, seq in zip("AB", (1, 2), strict=True))
        judging = work(1, task_id="t-1", select=Select.JUDGE, phase=PhaseKind.JUDGE, candidates=shown)
        worker.start_jobs(await queue.jobs(judging))
        await settled(worker, 1)
    assert len(await queue.outcomes()) == 3  # a read would have given the judge's work back


async def test_an_answer_is_stored_and_the_work_acknowledged(queue: WorkQueue, model: ModelServer) -> None:
    request = work(2)
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    await queue.wire.publish(topology.AGENT_REQUESTED, request.encode(), headers={"traceparent": trace})
    (msg,) = await queue.deliveries()
    async with working(queue, model) as worker:
        worker.start_jobs([AgentJob(msg.reply, msg.data, trace)])
        assert await settled(worker, 1) == [msg.reply]
        stored = await queue.one_outcome()
        assert stored.subject == topology.AGENT_COMPLETED
        assert (stored.headers or {})["Nats-Msg-Id"] == f"{request.task_id}:agent-dev-002:1"
        assert (stored.headers or {})["traceparent"] == trace
        assert json.loads(stored.data)["proposal"]["content"].startswith("[simulated answer]")
        await queue.all_settled()
    assert (await model.seen())["latest"][-1]["traceparent"] == trace


async def test_many_jobs_run_at_once_and_each_is_reported_once(queue: WorkQueue, model: ModelServer) -> None:
    await model.behave(latency_ms=300)
    jobs = await queue.jobs(*(work(n, num_agents=20) for n in range(1, 21)))
    async with working(queue, model) as worker:
        worker.start_jobs(jobs)
        await model.runs(20)
        assert sorted(await settled(worker, 20)) == sorted(job.key for job in jobs)
        assert len(await queue.outcomes()) == 20
        await queue.all_settled()


async def test_a_failure_is_an_outcome_and_the_work_is_done(queue: WorkQueue, model: ModelServer) -> None:
    await model.behave(faults={"400": 1.0})
    async with working(queue, model) as worker:
        worker.start_jobs(await queue.jobs(work()))
        failure = await queue.failure()
        assert (failure.error_type, failure.attempt) == (ErrorType.BAD_REQUEST, 1)
        await queue.all_settled()


async def test_work_that_a_new_consumer_hands_out_again_is_settled_again(
    queue: WorkQueue, model: ModelServer
) -> None:
    """Under the same key, so that it is taken for a copy that comes late. Its slot would be taken for ever."""
    (job,) = await queue.jobs(work())
    await queue.nc.jetstream().delete_consumer(topology.DISPATCH.stream, topology.DISPATCH.name)
    async with working(queue, model) as worker:
        worker.start_jobs([job])
        assert await settled(worker, 1) == [job.key]
        await provision(queue.nc.jetstream(), Wanted(ack_wait_seconds=LONG_ACK_WAIT_SECONDS))
        (again,) = await queue.deliveries()
        assert again.reply == job.key
        worker.start_jobs([AgentJob(again.reply, again.data, None)])
        assert await settled(worker, 1) == [job.key]
        await queue.all_settled()
    assert len(await queue.outcomes()) == 1


# ── work that names its request ───────────────────────────────────────────────────────────────────────────────────


async def test_work_that_names_its_request_asks_the_same_of_the_model(
    queue: WorkQueue, model: ModelServer
) -> None:
    asked: dict[str, Any] = {
        "task_description": "Name three rivers",
        "metadata": {"ticket": "P-1"},
        "seed": 7,
    }
    whole = work(task_id="t-1", **asked)
    seq = (await queue.wire.publish(topology.REQUESTED, json.dumps({"task_id": "t-2", **asked}).encode())).seq
    named = work(task_id="t-2", request_seq=seq, task_description="")
    async with working(queue, model) as worker:
        for request in (whole, named):
            worker.start_jobs(await queue.jobs(request))
            await settled(worker, 1)
        await queue.all_settled()
    first, second = [AgentCompleted.model_validate_json(msg.data) for msg in await queue.outcomes()]
    assert first.proposal.content == second.proposal.content  # the simulated model answers by the prompt
    assert first.metadata == second.metadata == {"ticket": "P-1"}


async def test_work_whose_request_is_gone_fails_and_says_so(queue: WorkQueue, model: ModelServer) -> None:
    request = work(task_id="t-1").model_copy(update={"task_description": "", "request_seq": 77})
    async with working(queue, model) as worker:
        worker.start_jobs(await queue.jobs(request))
        failure = await queue.failure()
        assert (failure.error_type, failure.attempt) == (ErrorType.INTERNAL_ERROR, 0)
        assert failure.error == "the request of t-1, message 77 of REQUESTS, is not stored any more"
        await queue.all_settled()


async def test_a_worker_says_to_the_service_only_what_runs_here(
    queue: WorkQueue, own_nats: Accounts, model: ModelServer
) -> None:
    await model.behave(faults={"hang": 1.0})
    request = work()
    inbox = f"{SERVICE_INBOX}.test"
    answers = await queue.nc.subscribe(inbox)
    others = await queue.nc.subscribe("somewhere.else")

    async def ask(task_id: str, reply: str = inbox) -> None:
        await queue.nc.publish(topology.AGENT_RUNNING, AgentRunning(task_id=task_id).encode(), reply=reply)

    async with working(queue, model) as worker:
        worker.start_jobs(await queue.jobs(request))
        await model.runs(1)
        for body in (b"", b"nope"):
            await queue.nc.publish(topology.AGENT_RUNNING, body, reply=inbox)
        await ask("another")
        await ask(request.task_id, "somewhere.else")
        await ask(request.task_id)
        assert (await answers.next_msg(timeout=5)).data == b""
    await queue.nc.publish(inbox, b"last")
    await queue.nc.publish("somewhere.else", b"last")
    assert (await answers.next_msg(timeout=5)).data == (await others.next_msg(timeout=5)).data == b"last"


# ── stored before acknowledged ────────────────────────────────────────────────────────────────────────────────────


async def test_work_is_not_acknowledged_before_its_outcome_is_stored(
    queue: WorkQueue, model: ModelServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "STORE_RETRY_WAIT_SECONDS", 0.05)
    monkeypatch.setattr(worker_module, "TELL_AGAIN_SECONDS", 0.0)
    await queue.nc.jetstream().delete_stream(topology.AGENT_RESPONSES)
    async with working(queue, model) as worker:
        worker.start_jobs(await queue.jobs(work()))
        await until(
            lambda: caplog.text.count("not stored yet") >= 2, "storing was tried in vain, and tried again"
        )
        assert await queue.unsettled() == 1
        await provision(queue.nc.jetstream(), Wanted(ack_wait_seconds=LONG_ACK_WAIT_SECONDS))
        await queue.one_outcome()
        await queue.all_settled()


async def test_outcomes_that_cannot_be_stored_are_told_once_for_all(
    queue: WorkQueue, model: ModelServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """256 jobs wrote 500 lines a second while NATS was away."""
    monkeypatch.setattr(worker_module, "STORE_RETRY_WAIT_SECONDS", 0.05)
    before = await model.seen()
    await queue.nc.jetstream().delete_stream(topology.AGENT_RESPONSES)
    async with working(queue, model) as worker:
        worker.start_jobs(await queue.jobs(*(work(number) for number in range(1, 4))))

        async def answered() -> bool:
            return bool((await model.seen())["completed"] == before["completed"] + 3)

        await until(answered, "the model has answered")
        await asyncio.sleep(0.3)  # storing is tried in vain, several times
        assert caplog.text.count("not stored yet") == 1
        await provision(queue.nc.jetstream(), Wanted(ack_wait_seconds=LONG_ACK_WAIT_SECONDS))
        await queue.all_settled()


async def test_a_large_answer_keeps_its_place_until_it_is_stored(
    queue: WorkQueue, model: ModelServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "STORE_RETRY_WAIT_SECONDS", 0.05)
    monkeypatch.setattr(large_answers_at_once, "LARGE_BYTES", 1)
    await queue.nc.jetstream().delete_stream(topology.AGENT_RESPONSES)
    async with working(queue, model) as worker:
        worker._large = asyncio.Semaphore(1)
        worker.start_jobs(await queue.jobs(work()))
        await until(lambda: "not stored yet" in caplog.text, "storing was tried in vain")
        assert worker._large.locked()
        await provision(queue.nc.jetstream(), Wanted(ack_wait_seconds=LONG_ACK_WAIT_SECONDS))
        await queue.all_settled()
        assert not worker._large.locked()


async def test_a_refusal_for_want_of_room_is_no_bug_and_the_model_is_not_asked_again(
    queue: WorkQueue, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a limit of the stream, the server or the account: it made 24 calls of the model for three agents."""
    monkeypatch.setattr(worker_module, "STORE_RETRY_WAIT_SECONDS", 0.05)
    js, before = queue.nc.jetstream(), await model.seen()
    config = (await js.stream_info(topology.AGENT_RESPONSES)).config
    await js.update_stream(replace(config, max_bytes=1))
    async with working(queue, model) as worker:
        worker.start_jobs(await queue.jobs(work()))

        async def answered() -> bool:
            return bool((await model.seen())["completed"] == before["completed"] + 1)

        await until(answered, "the model has answered")
        await asyncio.sleep(0.3)  # storing is tried in vain, several times
        assert (await queue.unsettled(), worker.running) == (1, 1)
        await js.update_stream(config)
        assert (await queue.one_outcome()).subject == topology.AGENT_COMPLETED
        await queue.all_settled()
    assert (await model.seen())["requests"] == before["requests"] + 1


async def test_an_outcome_that_cannot_be_stored_for_long_goes_back_as_work(
    queue: WorkQueue, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "STORE_RETRY_WAIT_SECONDS", 0.05)
    monkeypatch.setattr(worker_module, "STORE_RETRY_SECONDS", 0.0)
    monkeypatch.setattr(worker_module, "BUG_RETRY_SECONDS", 0.1)
    await queue.nc.jetstream().delete_stream(topology.AGENT_RESPONSES)
    async with working(queue, model) as worker:
        worker.start_jobs(await queue.jobs(work(seconds=0.5)))
        await settled(worker, 1)
        (again,) = await queue.deliveries()
        assert again.metadata.num_delivered == 2


async def test_an_answer_while_nats_is_away_is_stored_later(tmp_path: Path, model: ModelServer) -> None:
    port = free_port()
    await model.behave(latency_ms=400)
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(AsyncExitStack())
        server = await first.enter_async_context(embedded_nats(tmp_path, port=port, with_token=False))
        queue = await stack.enter_async_context(opened(server.url, LONG_ACK_WAIT_SECONDS))
        worker = await stack.enter_async_context(working(queue, model))
        before = await model.seen()
        worker.start_jobs(await queue.jobs(work()))
        await model.runs(1)
        os.kill(server.pid, signal.SIGKILL)
        await first.aclose()
        await until(lambda: not queue.nc.is_connected, "NATS is gone")

        async def answered() -> bool:
            return bool((await model.seen())["completed"] == before["completed"] + 1)

        await until(answered, "the model has answered meanwhile")
        await stack.enter_async_context(embedded_nats(tmp_path, port=port, with_token=False))
        await until(lambda: queue.nc.is_connected, "NATS is back")
        assert (await queue.one_outcome()).subject == topology.AGENT_COMPLETED
        await queue.all_settled()
        assert (await model.seen())["requests"] == before[
            "requests"
        ] + 1  # the answer was kept, not asked for again


async def test_a_too_large_answer_becomes_a_failure_saying_so(queue: WorkQueue, model: ModelServer) -> None:
    await model.behave(
        tokens=500_000
    )  # 250,000 words at least, of some five bytes each; the broker takes 1 MiB
    async with working(queue, model) as worker:
        worker.start_jobs(await queue.jobs(work()))
        failure = await queue.failure()
        assert failure.error_type is ErrorType.MALFORMED_ANSWER
        assert "too large" in failure.error
        await queue.all_settled()


async def test_a_failure_that_does_not_fit_is_stored_with_a_shorter_error(
    queue: WorkQueue, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await model.behave(tokens=2_000)
    async with working(queue, model) as worker:
        jobs = await queue.jobs(work())
        # Neither the answer fits, nor the failure that says so in a hundred characters.
        monkeypatch.setattr(worker_module, "SHORT_ERROR_CHARACTERS", 5)
        monkeypatch.setattr(JetStream, "max_payload", 500)
        worker.start_jobs(jobs)
        failure = await queue.failure()
        assert failure.error == "the a"
        await queue.all_settled()


async def test_work_whose_failure_is_too_large_goes_back_and_holds_up_no_other(
    queue: WorkQueue, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "BUG_RETRY_SECONDS", 0.1)
    async with working(queue, model) as worker:
        (job, other) = await queue.jobs(work(metadata={"k": "v" * 1_000}), work())
        monkeypatch.setattr(JetStream, "max_payload", 1_000)
        worker.start_jobs([job])
        await settled(worker, 1)
        (again,) = await queue.deliveries()
        assert (again.data, again.metadata.num_delivered) == (job.body, 2)
        monkeypatch.undo()
        worker.start_jobs([other])
        assert (await queue.one_outcome()).subject == topology.AGENT_COMPLETED


# ── keeping it alive ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_work_past_ack_wait_is_not_redelivered(impatient_queue: WorkQueue, model: ModelServer) -> None:
    await model.behave(latency_ms=ACK_WAIT_SECONDS * 3_000)
    (job,) = await impatient_queue.jobs(work())
    async with working(impatient_queue, model, ack_wait_seconds=ACK_WAIT_SECONDS) as worker:
        worker.start_jobs([job])
        with pytest.raises(TimeoutError):
            await impatient_queue.deliveries(seconds=ACK_WAIT_SECONDS * 2.5)
        await settled(worker, 1)
        await impatient_queue.all_settled()
        assert (await impatient_queue.info()).num_redelivered == 0


async def test_work_whose_worker_sends_no_signals_is_redelivered(impatient_queue: WorkQueue) -> None:
    await impatient_queue.jobs(
        work()
    )  # taken, and never begun: what the test above would see without the signals
    (again,) = await impatient_queue.deliveries()
    assert again.metadata.num_delivered == 2


# ── cancelling ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_cancel_closes_only_the_calls_of_its_task(queue: WorkQueue, model: ModelServer) -> None:
    await model.behave(faults={"hang": 1.0})
    cancelled, other = work(1), work(1)
    async with working(queue, model) as worker:
        worker.start_jobs(await queue.jobs(cancelled, other))
        await model.runs(2)
        broadcast = AgentCancel(task_id=cancelled.task_id, reason="the user left")
        await queue.wire.broadcast(topology.AGENT_CANCEL, broadcast.encode())
        failure = await queue.failure()
        assert (failure.task_id, failure.error_type) == (cancelled.task_id, ErrorType.CANCELLED)
        assert failure.error == "the user left"
        await model.runs(1)
        assert await queue.unsettled() == 1
    await model.idle()


async def test_a_cancel_before_its_work_lets_no_call_begin(queue: WorkQueue, model: ModelServer) -> None:
    request, before, cancels = work(), (await model.seen())["requests"], Cancels()
    async with working(queue, model, cancels=cancels) as worker:
        await queue.wire.broadcast(topology.AGENT_CANCEL, AgentCancel(task_id=request.task_id).encode())
        await until(lambda: cancels.reason(request), "the worker has heard the broadcast")
        worker.start_jobs(await queue.jobs(request))
        failure = await queue.failure()
        assert (failure.task_id, failure.error_type) == (request.task_id, ErrorType.CANCELLED)
        await queue.all_settled()
    assert (await model.seen())["requests"] == before


async def test_a_cancel_missed_meanwhile_is_read_from_the_tally(queue: WorkQueue, model: ModelServer) -> None:
    await model.behave(faults={"hang": 1.0})
    ended, open_ = work(1), work(1)
    ledger, now = TallyStore(queue.wire, keep_seconds=60), time.time()
    for request in (ended, open_):
        requested = Requested(request.task_id, seq=1, at=now, deadline=now + 60, role="DEV", num_agents=3)
        await ledger.apply(request.task_id, [(requested, now)])
    async with working(queue, model, ack_wait_seconds=0.3) as worker:
        worker.start_jobs(await queue.jobs(ended, open_))
        await model.runs(2)
        await ledger.apply(ended.task_id, [(CancelRequested("the user left"), now)])
        queue.nc.stats["reconnects"] += 1
        queue.nc._note_change()
        failure = await queue.failure()
        assert (failure.task_id, failure.error_type) == (ended.task_id, ErrorType.CANCELLED)
        await model.runs(1)
    await model.idle()


# ── giving back ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_in_the_grace_jobs_finish_and_the_rest_go_back(queue: WorkQueue, model: ModelServer) -> None:
    await model.behave(latency_ms=300, script=["ok", "hang"])
    async with working(queue, model) as worker:
        worker.start_jobs(await queue.jobs(work(1), work(2)))
        await model.runs(2)
        started = time.monotonic()
        await worker.close(grace_seconds=1.0)
        assert 0.9 < time.monotonic() - started < 5
        assert (await queue.one_outcome()).subject == topology.AGENT_COMPLETED
        (again,) = await queue.deliveries()  # ack_wait is five minutes: this was given back
        assert again.metadata.num_delivered == 2
        await model.idle()


async def test_a_job_arriving_at_the_close_goes_back_at_once(queue: WorkQueue, model: ModelServer) -> None:
    await model.behave(latency_ms=300)
    first, late = await queue.jobs(work(1), work(2))
    async with working(queue, model) as worker:
        worker.start_jobs([first])
        await model.runs(1)
        closing = asyncio.create_task(worker.close(grace_seconds=60.0))
        await asyncio.sleep(0)
        worker.start_jobs([late])
        (again,) = await queue.deliveries()  # ack_wait is five minutes: this was given back
        assert (again.data, again.metadata.num_delivered) == (late.body, 2)
        await closing
        assert (await queue.one_outcome()).subject == topology.AGENT_COMPLETED


async def test_closing_ends_before_its_grace_once_all_is_done(queue: WorkQueue, model: ModelServer) -> None:
    async with working(queue, model) as worker:
        worker.start_jobs(await queue.jobs(work()))
        started = time.monotonic()
        await worker.close(grace_seconds=60.0)
        assert time.monotonic() - started < 10
        await queue.all_settled()


async def test_jobs_begun_just_before_closing_go_back_too(queue: WorkQueue, model: ModelServer) -> None:
    await model.behave(faults={"hang": 1.0})
    jobs = await queue.jobs(work(1), work(2))
    async with working(queue, model) as worker:
        worker.start_jobs(jobs)
        await worker.close()
        again = await queue.deliveries(2)
        assert [msg.metadata.num_delivered for msg in again] == [2, 2]
        assert sorted(await settled(worker, 2)) == sorted(job.key for job in jobs)


async def test_many_jobs_start_a_few_a_round_and_those_still_waiting_are_given_back_too(
    queue: WorkQueue, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands started at once would stop the event loop until open connections count as not made in time."""
    begun = 0

    async def answer(*_: object) -> AgentOutcome:
        nonlocal begun
        begun += 1
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(Agent, "answer", answer)
    jobs = [
        AgentJob(f"jobs.{number}", work(1 + number % 200).encode()) for number in range(10 * STARTS_A_ROUND)
    ]
    async with working(queue, model) as worker:
        worker.start_jobs(jobs)
        rounds = []
        while begun < 5 * STARTS_A_ROUND:
            before = begun
            await asyncio.sleep(0)
            rounds.append(begun - before)
        assert max(rounds) <= STARTS_A_ROUND
        await worker.close()
        assert sorted(await settled(worker, len(jobs))) == sorted(job.key for job in jobs)


@pytest.mark.parametrize("body", [b"not JSON", b"{}"])
async def test_work_that_cannot_be_read_is_given_back_after_a_while(
    queue: WorkQueue, model: ModelServer, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "BUG_RETRY_SECONDS", 0.3)
    (job,) = await queue.jobs(work())
    async with working(queue, model) as worker:
        started = time.monotonic()
        worker.start_jobs([AgentJob(job.key, body)])
        assert await settled(worker, 1) == [job.key]
        (again,) = await queue.deliveries()
        assert time.monotonic() - started >= 0.3
        assert again.metadata.num_delivered == 2
        assert await queue.outcomes() == []


async def test_a_bug_gives_the_work_back_and_is_logged(
    queue: WorkQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Buggy:
        """A model client with a bug in it."""

        async def complete(self, endpoint: Endpoint, request: ChatRequest, *, seconds: float) -> Completion:
            raise ZeroDivisionError

    monkeypatch.setattr(worker_module, "BUG_RETRY_SECONDS", 0.1)
    worker = Worker(queue.wire, Agent(FailoverClient(Buggy(), [Endpoint("http://nowhere")]), "m", time.time))
    await worker.start()
    worker.start_jobs(await queue.jobs(work()))
    await settled(worker, 1)
    (again,) = await queue.deliveries()
    assert again.metadata.num_delivered == 2
    assert [record.levelno for record in caplog.records if "bug" in record.message] == [logging.ERROR]
    await worker.close()
