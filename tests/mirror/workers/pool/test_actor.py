"""An actor without Ray, on a real NATS: jobs come to its inbox or as calls, once, and it says what it has."""

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
from parley.workers.job import Job, pack
from parley.workers.pool import actor as crew_module
from parley.workers.pool.actor import WorkerActor
from tests.harness import ModelServer, until
from tests.mirror.workers import work
from tests.mirror.workers.pool.test_pool import config


@pytest.fixture(autouse=True)
def ordinary_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here it has no process to itself: ours is left as it is."""
    for name in ("tune_gc", "use_batch_scheduling"):
        monkeypatch.setattr(crew_module, name, lambda: None)


class Boss:
    """Hands jobs over and hears them settled, in the place of a consumer."""

    def __init__(self, nc: Nats, crew: WorkerActor, inbox: str) -> None:
        self.nc, self.crew, self.inbox = nc, crew, inbox
        # Of no delivery there ever was: nobody but us hears them settled.
        self.prefix = f"$JS.ACK.{topology.AGENT_REQUESTS}.{topology.DISPATCH.name}.1"
        self.heard: list[tuple[str, bytes]] = []

    def job(self, number: int) -> Job:
        return Job(f"{self.prefix}.{number}.1.1.0", work(number).encode())

    async def post(self, job: Job) -> None:
        await self.nc.publish(self.inbox, pack(job) or b"")

    async def hear(self, message: Msg) -> None:
        self.heard.append((message.subject, message.data))

    async def settled(self, *jobs: Job, word: bytes = b"+ACK") -> None:
        """Wait until these are settled so; nothing else ever was."""
        await until(lambda: len(self.heard) >= len(jobs), "all is settled")
        assert sorted(self.heard) == sorted((job.reply, word) for job in jobs)


@asynccontextmanager
async def working(server: EmbeddedNats, model: ModelServer, **changes: float) -> AsyncIterator[Boss]:
    nc = await connect(server.url, "tests-crew")
    try:
        await topology.provision(nc.jetstream())
        crew = WorkerActor(dataclasses.replace(config(server.url, model, slots=8), **changes), "tests-crew-1")  # type: ignore[arg-type]
        pid, inbox = await crew.start()
        assert pid > 0
        boss = Boss(nc, crew, inbox)
        await nc.subscribe(f"{boss.prefix}.>", cb=boss.hear)
        await nc.flush()
        try:
            yield boss
        finally:
            await crew.close()
    finally:
        await close(nc)


async def test_a_job_is_taken_from_the_inbox_carried_out_and_reported(
    empty_nats: EmbeddedNats, model: ModelServer
) -> None:
    async with working(empty_nats, model) as boss:
        job = boss.job(1)
        await boss.post(job)
        await boss.settled(job)
        keys, statuses = await boss.crew.finished()
        assert keys == [job.reply]
        assert [sight.endpoint for sight in statuses] == [model.url.removeprefix("http://")]


async def test_a_job_that_comes_twice_runs_once(empty_nats: EmbeddedNats, model: ModelServer) -> None:
    await model.behave(faults={"hang": 1.0})
    before = (await model.seen())["requests"]
    async with working(empty_nats, model, drain_seconds=0.0) as boss:
        twice, last = boss.job(1), boss.job(2)
        await boss.crew.begin([twice])
        await boss.post(twice)
        await boss.post(last)

        async def both_run() -> bool:
            return bool((await model.seen())["running"] == 2)

        # The last was read after the second copy.
        await until(both_run, "two calls are at the model")
        assert (await model.seen())["requests"] - before == 2


async def test_it_says_which_jobs_never_came(empty_nats: EmbeddedNats, model: ModelServer) -> None:
    await model.behave(faults={"hang": 1.0})
    async with working(empty_nats, model, drain_seconds=0.0) as boss:
        here, nowhere = boss.job(1), boss.job(2)
        await boss.crew.begin([here])
        assert await boss.crew.missing([here.reply, nowhere.reply]) == [nowhere.reply]


async def test_a_job_that_is_settled_is_not_missing_and_does_not_run_again(
    empty_nats: EmbeddedNats, model: ModelServer
) -> None:
    before = (await model.seen())["requests"]
    async with working(empty_nats, model) as boss:
        first, last = boss.job(1), boss.job(2)
        await boss.post(first)
        await boss.settled(first)
        assert await boss.crew.missing([first.reply]) == []
        await boss.crew.finished()
        assert await boss.crew.missing([first.reply]) == []
        await boss.post(first)
        await boss.crew.begin([first])
        await boss.post(last)
        await boss.settled(first, last)
        assert (await model.seen())["requests"] - before == 2


async def test_many_settled_jobs_are_reported_at_once_and_few_after_a_moment(
    empty_nats: EmbeddedNats, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew_module, "COMPANY_SECONDS", 60.0)
    monkeypatch.setattr(crew_module, "FULL_SHARE", 2)  # four of eight
    async with working(empty_nats, model) as boss:
        jobs = [boss.job(number) for number in range(1, 5)]
        await boss.post(jobs[0])
        await boss.settled(jobs[0])
        report = asyncio.create_task(boss.crew.finished())
        for job in jobs[1:]:
            await boss.post(job)
        keys, _ = await asyncio.wait_for(report, 20)
        assert sorted(keys) == [job.reply for job in jobs]


async def test_jobs_that_nobody_counted_are_not_taken_without_end(
    empty_nats: EmbeddedNats, model: ModelServer
) -> None:
    await model.behave(faults={"hang": 1.0})
    async with working(empty_nats, model, drain_seconds=0.0) as boss:
        slots = 8
        for number in range(1, 4 * slots):
            await boss.post(boss.job(number))
        keys = [boss.job(number).reply for number in range(1, 4 * slots)]

        async def all_came() -> bool:
            await boss.nc.flush()
            return len(await boss.crew.missing(keys)) == len(keys) - crew_module.MOST_SHARE * slots

        await until(all_came, "twice as many as slots are taken, and no more")


async def test_what_was_lost_on_its_way_is_given_back_when_it_ends(
    empty_nats: EmbeddedNats, model: ModelServer
) -> None:
    async with working(empty_nats, model) as boss:
        done, lost = boss.job(1), boss.job(2)
        await boss.post(done)
        await boss.settled(done)
        boss.heard.clear()
        await boss.crew.close([done.reply, lost.reply])
        await boss.settled(lost, word=b"-NAK")


async def test_what_was_sent_before_it_is_told_to_end_is_carried_out(
    empty_nats: EmbeddedNats, model: ModelServer
) -> None:
    async with working(empty_nats, model) as boss:
        jobs = [boss.job(number) for number in range(1, 6)]
        for job in jobs:
            await boss.post(job)
        await boss.nc.flush()
        await boss.crew.close()
        await boss.settled(*jobs)


async def test_what_is_no_job_is_told_in_the_log_and_disturbs_nobody(
    empty_nats: EmbeddedNats, model: ModelServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with working(empty_nats, model) as boss:
        with caplog.at_level(logging.WARNING, "parley.workers"):
            for rubbish in (b"", b"x", b"deliberation.requested\n\nsecret prompt"):
                await boss.nc.publish(boss.inbox, rubbish)
            job = boss.job(1)
            await boss.post(job)
            await boss.settled(job)
        assert caplog.text.count("is ignored") == 3
        assert "secret" not in caplog.text
