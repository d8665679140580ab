"""An actor without Ray, on a real NATS: it takes jobs from its inbox and as calls, and runs each once."""

import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from nats.aio.msg import Msg

from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.embedded import EmbeddedNats
from parley.broker.jetstream.nats_client import NatsClient as Nats
from parley.broker.jetstream.provision import provision
from parley.workers.job_message import AgentJob, pack
from parley.workers.pool import worker_process as actor_module
from parley.workers.pool.worker_process import WorkerActor
from tests.harness import ModelServer, until
from tests.mirror.workers import work
from tests.mirror.workers.pool.test_local_pool import config


@pytest.fixture(autouse=True)
def ordinary_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The actor runs in the process of the tests, which stays as it is."""
    for name in ("tune_gc", "use_batch_scheduling"):
        monkeypatch.setattr(actor_module, name, lambda: None)


class Driver:
    """Sends jobs and hears them settled, in the place of pool and consumer."""

    def __init__(self, nc: Nats, actor: WorkerActor, inbox: str) -> None:
        self.nc, self.actor, self.inbox = nc, actor, inbox
        # Of no delivery that exists: only this test hears them settled.
        self.prefix = f"$JS.ACK.{topology.AGENT_REQUESTS}.{topology.DISPATCH.name}.1"
        self.heard: list[tuple[str, bytes]] = []

    def job(self, number: int) -> AgentJob:
        return AgentJob(f"{self.prefix}.{number}.1.1.0", work(number).encode())

    async def post(self, job: AgentJob) -> None:
        await self.nc.publish(self.inbox, pack(job) or b"")

    async def hear(self, message: Msg) -> None:
        self.heard.append((message.subject, message.data))

    async def settled(self, *jobs: AgentJob, word: bytes = b"+ACK") -> None:
        """Wait until these are settled so; nothing else ever was."""
        await until(lambda: len(self.heard) >= len(jobs), "all is settled")
        assert sorted(self.heard) == sorted((job.key, word) for job in jobs)


@asynccontextmanager
async def working(server: EmbeddedNats, model: ModelServer, **changes: float) -> AsyncIterator[Driver]:
    nc = await connect(server.url, "tests-actor")
    try:
        await provision(nc.jetstream())
        changed = dataclasses.replace(config(server.url, model, slots=8), **changes)  # type: ignore[arg-type]  # floats
        actor = WorkerActor(changed, "tests-actor-1")
        inbox = await actor.start()
        driver = Driver(nc, actor, inbox)
        await nc.subscribe(f"{driver.prefix}.>", cb=driver.hear)
        await nc.flush()
        try:
            yield driver
        finally:
            await actor.close()
    finally:
        await close(nc)


async def test_an_inbox_job_is_done_and_reported(empty_nats: EmbeddedNats, model: ModelServer) -> None:
    async with working(empty_nats, model) as driver:
        job = driver.job(1)
        await driver.post(job)
        await driver.settled(job)
        keys, statuses = await driver.actor.finished()
        assert keys == [job.key]
        assert [status.endpoint for status in statuses] == [model.url.removeprefix("http://")]


async def test_a_job_that_comes_twice_runs_once(empty_nats: EmbeddedNats, model: ModelServer) -> None:
    await model.behave(faults={"hang": 1.0})
    before = (await model.seen())["requests"]
    async with working(empty_nats, model, drain_seconds=0.0) as driver:
        twice, last = driver.job(1), driver.job(2)
        await driver.actor.start_jobs([twice])
        await driver.post(twice)
        await driver.post(last)
        # The last was read after the second copy.
        await model.runs(2)
        assert (await model.seen())["requests"] - before == 2


async def test_it_says_which_jobs_never_arrived(empty_nats: EmbeddedNats, model: ModelServer) -> None:
    await model.behave(faults={"hang": 1.0})
    async with working(empty_nats, model, drain_seconds=0.0) as driver:
        here, nowhere = driver.job(1), driver.job(2)
        await driver.actor.start_jobs([here])
        assert await driver.actor.missing([here.key, nowhere.key]) == [nowhere.key]


async def test_a_settled_job_is_found_and_runs_once(empty_nats: EmbeddedNats, model: ModelServer) -> None:
    before = (await model.seen())["requests"]
    async with working(empty_nats, model) as driver:
        first, last = driver.job(1), driver.job(2)
        await driver.post(first)
        await driver.settled(first)
        assert await driver.actor.missing([first.key]) == []
        await driver.actor.finished()
        assert await driver.actor.missing([first.key]) == []
        await driver.post(first)
        await driver.actor.start_jobs([first])
        await driver.post(last)
        await until(lambda: (last.key, b"+ACK") in driver.heard, "the last is settled")
        # Each copy of the first is acknowledged again: the first acknowledgement may have met no consumer.
        assert set(driver.heard) == {(job.key, b"+ACK") for job in (first, last)}
        assert (await model.seen())["requests"] - before == 2


async def test_many_settled_jobs_are_reported_at_once_and_few_after_a_moment(
    empty_nats: EmbeddedNats, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor_module, "LINGER_SECONDS", 60.0)
    monkeypatch.setattr(actor_module, "BATCH_SHARE", 2)  # four of eight
    async with working(empty_nats, model) as driver:
        jobs = [driver.job(number) for number in range(1, 5)]
        await driver.post(jobs[0])
        await driver.settled(jobs[0])
        report = asyncio.create_task(driver.actor.finished())
        for job in jobs[1:]:
            await driver.post(job)
        keys, _ = await asyncio.wait_for(report, 20)
        assert sorted(keys) == [job.key for job in jobs]


async def test_jobs_past_twice_the_slots_are_not_taken(empty_nats: EmbeddedNats, model: ModelServer) -> None:
    await model.behave(faults={"hang": 1.0})
    async with working(empty_nats, model, drain_seconds=0.0) as driver:
        slots = 8
        for number in range(1, 4 * slots):
            await driver.post(driver.job(number))
        keys = [driver.job(number).key for number in range(1, 4 * slots)]

        async def all_came() -> bool:
            await driver.nc.flush()
            return len(await driver.actor.missing(keys)) == len(keys) - actor_module.MAX_LOAD * slots

        await until(all_came, "twice as many as slots are taken, and no more")


async def test_a_lost_job_goes_back_at_the_close(empty_nats: EmbeddedNats, model: ModelServer) -> None:
    async with working(empty_nats, model) as driver:
        done, lost = driver.job(1), driver.job(2)
        await driver.post(done)
        await driver.settled(done)
        driver.heard.clear()
        await driver.actor.close([done.key, lost.key])
        await driver.settled(lost, word=b"-NAK")


async def test_jobs_sent_before_the_close_are_done(empty_nats: EmbeddedNats, model: ModelServer) -> None:
    async with working(empty_nats, model) as driver:
        jobs = [driver.job(number) for number in range(1, 6)]
        for job in jobs:
            await driver.post(job)
        await driver.nc.flush()
        await driver.actor.close()
        await driver.settled(*jobs)


async def test_a_message_that_is_no_job_is_logged_and_ignored(
    empty_nats: EmbeddedNats, model: ModelServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with working(empty_nats, model) as driver:
        with caplog.at_level(logging.WARNING, "parley.workers"):
            for rubbish in (b"", b"x", b"deliberation.requested\n\nsecret prompt"):
                await driver.nc.publish(driver.inbox, rubbish)
            job = driver.job(1)
            await driver.post(job)
            await driver.settled(job)
        assert caplog.text.count("is ignored") == 3
        assert "secret" not in caplog.text
