"""Celery: a chord of one task an agent on Redis (broker and result backend), whose callback returns all answers.

Workers: two processes of 32 threads each. Tried beside each other on two cores that others used too, 64 chords of three at a time,
in agent calls/s: 2 x 32 threads 156 to 170, prefork of 24 processes 122 to 149, of 12 to 16 processes 115 to 128, gevent 2 x 100
104 to 114 and 1 x 200 93. Acknowledgement is Celery's default, early: a task whose worker dies is lost. A client waits in a thread of
its own for each chord, for Celery's has no asyncio and a backend of its own in every thread; it takes two thirds of a core, most
of it to publish.
"""

import gc
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from benchmarks.peers.child import answering, child, module
from benchmarks.peers.redis_server import redis_server
from benchmarks.peers.threads import threaded
from benchmarks.question import QUESTION
from benchmarks.systems import System

WORKERS = 2
THREADS = 32
LONGEST_SECONDS = 30.0
APP = "benchmarks.peers.celery_tasks"
# Talk among workers, for monitoring; it would only cost.
QUIET = ["--without-gossip", "--without-mingle", "--without-heartbeat"]


@asynccontextmanager
async def running(model_url: str) -> AsyncIterator[System]:
    from celery import Celery, chord

    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="parley-bench-")))
        redis_url = await stack.enter_async_context(redis_server(folder))
        environment = {"BENCH_REDIS_URL": redis_url, "BENCH_MODEL_URL": model_url}
        app = Celery("client", broker=f"{redis_url}/0", backend=f"{redis_url}/1")
        stack.callback(app.close)

        def ask(agents: int) -> list[str]:
            header = [app.signature("bench.ask", args=(QUESTION,)) for _ in range(agents)]
            result = chord(header, app=app)(app.signature("bench.combine"))
            return list(result.get(timeout=LONGEST_SECONDS))

        workers = [
            await stack.enter_async_context(
                child(
                    module(
                        "celery",
                        "-A",
                        APP,
                        "worker",
                        "-l",
                        "WARNING",
                        "-P",
                        "threads",
                        *_named(number),
                        *QUIET,
                    ),
                    log=folder / f"worker-{number}.log",
                    environment=environment,
                )
            )
            for number in range(WORKERS)
        ]
        # Results lie in cycles, and each unsubscribes in Redis when it is collected: before Redis is gone, or each of them waits for it.
        stack.callback(gc.collect)
        system = stack.enter_context(threaded(ask))
        await answering(system, workers[0])
        yield system


def _named(number: int) -> list[str]:
    return ["-c", str(THREADS), "-n", f"bench-{number}@%h"]
