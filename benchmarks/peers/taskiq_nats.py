"""Taskiq on NATS JetStream (pulled), one task an agent; the client gathers the results.

Results are in Redis (taskiq-redis): with taskiq-nats' object store the client makes one consumer for each result, and
nats-server refuses ("maximum consumers limit reached") at 64 deliberations of three at a time. The client asks for a
result every 20 ms: with the default, 200 ms, one deliberation alone takes 204 ms instead of 67, and saturation is no
quicker. Messages are pulled one at a time: taskiq-nats waits until a batch is full. Workers: two processes. The client
does the join: if it dies, the answers are not combined.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.peers.common import answering, worker
from benchmarks.question import QUESTION
from benchmarks.systems import System
from parley.broker.jetstream.embedded import embedded_nats
from tests.rig.child import module
from tests.rig.redis_server import redis_server

PROCESSES = 2
# Calls at a time in one process.
CALLS = 200
POLL_SECONDS = 0.02
LONGEST_SECONDS = 30.0
BROKER = "benchmarks.peers.taskiq_tasks:broker"


def broker_of(nats_url: str, redis_url: str) -> Any:
    """A broker with results, the same on both sides."""
    from nats.js.api import ConsumerConfig
    from taskiq_nats import PullBasedJetStreamBroker
    from taskiq_redis import RedisAsyncResultBackend

    # By default only a thousand messages may wait for their acknowledgement.
    consumer = ConsumerConfig(durable_name="taskiq_durable", max_ack_pending=10_000)
    return PullBasedJetStreamBroker(nats_url, consumer_config=consumer).with_result_backend(
        RedisAsyncResultBackend(redis_url)
    )


class Taskiq:
    def __init__(self, broker: Any) -> None:
        from taskiq.kicker import AsyncKicker

        self._kicker = AsyncKicker("ask", broker, {})

    async def deliberate(self, agents: int) -> None:
        tasks = await asyncio.gather(*(self._kicker.kiq(QUESTION) for _ in range(agents)))
        waits = (task.wait_result(check_interval=POLL_SECONDS, timeout=LONGEST_SECONDS) for task in tasks)
        results = await asyncio.gather(*waits)
        assert all(not result.is_err and result.return_value for result in results), results


@asynccontextmanager
async def running(model_url: str) -> AsyncIterator[System]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="parley-bench-")))
        redis_url = await stack.enter_async_context(redis_server(folder))
        nats = await stack.enter_async_context(embedded_nats(folder / "nats"))
        broker = broker_of(nats.url, redis_url)
        await broker.startup()
        stack.push_async_callback(broker.shutdown)
        command = module(
            "taskiq", "worker", BROKER, "--workers", str(PROCESSES), "--max-async-tasks", str(CALLS)
        )
        addresses = {"BENCH_REDIS_URL": redis_url, "BENCH_NATS_URL": nats.url, "BENCH_MODEL_URL": model_url}
        process = await stack.enter_async_context(worker(command, folder / "worker.log", **addresses))
        system = Taskiq(broker)
        await answering(system, process)
        yield system
