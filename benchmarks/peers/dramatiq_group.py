"""Dramatiq: a group of one message an agent on Redis. The client takes the results one after the other.

The client does the join: if it dies, the answers are not combined. Workers: two processes of 32 threads each (64
groups of three at a time: 503 to 629 agent calls/s; with 96 threads 423, gevent 2 x 96 529). Workers poll Redis, by
default with pauses up to a second: 100 ms for one group, at the median. Here pauses go up to 10 ms (63 ms). The
client has a thread for each group.
"""

import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.peers.common import answering, threaded, worker
from benchmarks.question import QUESTION
from benchmarks.systems import System
from tests.rig.child import module
from tests.rig.redis_server import redis_server

PROCESSES = 2
THREADS = 32
POLL_MS = 10
LONGEST_SECONDS = 30.0
# Each waiting thread holds one. redis-py allows a hundred by default.
CONNECTIONS = 1024
TASKS = "benchmarks.peers.dramatiq_tasks"


def broker_of(redis_url: str) -> Any:
    """A broker with results, the same on both sides."""
    from dramatiq.brokers.redis import RedisBroker
    from dramatiq.results import Results
    from dramatiq.results.backends.redis import RedisBackend

    broker = RedisBroker(url=f"{redis_url}/0?max_connections={CONNECTIONS}")
    broker.add_middleware(Results(backend=RedisBackend(url=f"{redis_url}/1?max_connections={CONNECTIONS}")))
    return broker


@asynccontextmanager
async def running(model_url: str) -> AsyncIterator[System]:
    from dramatiq import Message, group, set_broker

    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="parley-bench-")))
        redis_url = await stack.enter_async_context(redis_server(folder))
        broker = broker_of(redis_url)
        set_broker(broker)  # a message looks for its results there
        stack.callback(broker.close)

        def ask(agents: int) -> list[str]:
            messages = [
                Message(queue_name="default", actor_name="ask", args=(QUESTION,), kwargs={}, options={})
                for _ in range(agents)
            ]
            asked = group(messages, broker=broker).run()
            return list(asked.get_results(block=True, timeout=round(1000 * LONGEST_SECONDS)))

        process = await stack.enter_async_context(
            worker(
                module("dramatiq", TASKS, "--processes", str(PROCESSES), "--threads", str(THREADS)),
                folder / "worker.log",
                BENCH_REDIS_URL=redis_url,
                BENCH_MODEL_URL=model_url,
                dramatiq_worker_timeout=str(POLL_MS),
            )
        )
        system = stack.enter_context(threaded(ask))
        await answering(system, process)
        yield system
