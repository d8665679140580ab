"""The pool in this process takes jobs, says how busy it is, and has free slots again afterwards."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from parley.broker.jetstream.embedded import EmbeddedNats
from parley.broker.jetstream.nats_client import NatsClient as Nats
from parley.broker.jetstream.provision import Wanted, provision
from parley.workers.job_message import AgentJob
from parley.workers.model import model_server
from parley.workers.model.breaker import BreakerPolicy
from parley.workers.model.call_policy import CallTimeouts, RetryPolicy
from parley.workers.model.endpoint_address import Endpoint
from parley.workers.pool.local_pool import LocalPool
from parley.workers.pool.worker_config import WorkerConfig
from parley.workers.simulator import DEFAULT_MODEL
from tests.harness import ModelServer, until
from tests.mirror.workers import work


def config(nats_url: str, model: ModelServer, *, slots: int, drain_seconds: float = 5.0) -> WorkerConfig:
    return WorkerConfig(
        nats_url=nats_url, servers=(model_server.ModelServer(model.url),), model=DEFAULT_MODEL, timeouts=CallTimeouts(),
        retry=RetryPolicy(), stream=False, slots=slots, ack_wait_seconds=30.0, drain_seconds=drain_seconds,
    )  # fmt: skip


class Replies:
    """Makes jobs that are settled to an inbox of this test instead of a consumer's."""

    def __init__(self, nc: Nats) -> None:
        self._nc = nc
        self.prefix = nc.new_inbox()
        self.heard: list[tuple[str, bytes]] = []

    def job(self, number: int) -> AgentJob:
        return AgentJob(f"{self.prefix}.{number}", work(number).encode())

    def settled(self, word: bytes) -> list[str]:
        return sorted(subject.removeprefix(f"{self.prefix}.") for subject, data in self.heard if data == word)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["Replies"]:
        async def hear(msg: object) -> None:
            self.heard.append((msg.subject, msg.data))  # type: ignore[attr-defined]  # nats-py's callback types

        subscription = await self._nc.subscribe(f"{self.prefix}.*", cb=hear)
        await self._nc.flush()
        yield self
        await subscription.unsubscribe()


@pytest.fixture
async def replies(nats: Nats) -> AsyncIterator[Replies]:
    await provision(nats.jetstream(), Wanted(ack_wait_seconds=5.0))
    async with Replies(nats).listening() as replies:
        yield replies


async def test_a_pool_that_has_not_started_says_so(nats_server: EmbeddedNats, model: ModelServer) -> None:
    pool = LocalPool(config(nats_server.url, model, slots=2))
    assert pool.unready_reason == "the pool has not started"
    async with pool:
        assert pool.unready_reason is None


async def test_a_local_pool_is_busy_until_its_jobs_are_done(
    nats_server: EmbeddedNats, model: ModelServer, replies: Replies
) -> None:
    await model.behave(latency_ms=200)
    async with LocalPool(config(nats_server.url, model, slots=3)) as pool:
        assert (pool.slots, pool.busy, pool.free_slots()) == (3, 0, 3)
        await pool.submit([replies.job(1), replies.job(2)])
        assert (pool.busy, pool.free_slots()) == (2, 1)
        await pool.submit([replies.job(3)])
        assert (pool.busy, pool.free_slots()) == (3, 0)
        assert await asyncio.wait_for(pool.wait_free_slots(), 20) >= 1  # not before there is a free slot
        await until(lambda: pool.busy == 0, "all jobs are done")
        await until(lambda: replies.settled(b"+ACK") == ["1", "2", "3"], "all jobs are acknowledged")


async def test_a_local_pool_says_how_its_worker_sees_the_endpoints(
    nats_server: EmbeddedNats, model: ModelServer, replies: Replies
) -> None:
    await model.behave(faults={"reset": 1.0})
    endpoint = Endpoint(model.url).label
    quick = dataclasses.replace(
        config(nats_server.url, model, slots=3),
        retry=RetryPolicy(attempts=2, base=30.0, cap=30.0),
        drain_seconds=0.0,
        breaker_policy=BreakerPolicy(failures=3, cooldown=0.05),
    )

    def seen(pool: LocalPool) -> tuple[int, ...]:
        status = pool.endpoint_statuses[endpoint]
        return (*status.workers.values(), status.openings)

    async with LocalPool(quick) as pool:
        assert seen(pool) == (1, 0, 0, 0)
        await pool.submit([replies.job(1), replies.job(2), replies.job(3)])
        # No job is settled yet: all three wait out their backoff. The breaker's change alone is news.
        await until(lambda: seen(pool) == (0, 0, 1, 1), "the breaker is open")
        assert pool.busy == 3


async def test_a_local_pool_that_is_closed_lets_its_jobs_finish(
    nats_server: EmbeddedNats, model: ModelServer, replies: Replies
) -> None:
    await model.behave(latency_ms=300)
    async with LocalPool(config(nats_server.url, model, slots=3)) as pool:
        await pool.submit([replies.job(1)])
    await until(lambda: replies.settled(b"+ACK") == ["1"], "the job is acknowledged")


async def test_a_local_pool_gives_back_jobs_that_do_not_finish_within_its_drain(
    nats_server: EmbeddedNats, model: ModelServer, replies: Replies
) -> None:
    await model.behave(faults={"hang": 1.0})
    async with LocalPool(config(nats_server.url, model, slots=3, drain_seconds=0.1)) as pool:
        await pool.submit([replies.job(1), replies.job(2)])
    await until(lambda: replies.settled(b"-NAK") == ["1", "2"], "both jobs were given back")
    await model.idle()
