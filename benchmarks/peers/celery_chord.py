"""Celery: a chord of one task an agent on Redis (broker and result backend), whose callback returns all answers.

Workers: two processes of 32 threads each, the best of what was tried (64 chords of three at a time, in agent
calls/s): 2 x 32 threads 156 to 170, prefork of 24 processes 122 to 149, of 12 to 16 processes 115 to 128, gevent 2 x
100 104 to 114 and 1 x 200 93. Acknowledgement is Celery's default, early: a task whose worker dies is lost. The
client has a thread for each chord, since Celery has no asyncio and one backend a thread; it takes two thirds of a
core, mostly to publish.
"""

import gc
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from benchmarks.peers.common import answering, threaded, worker
from benchmarks.question import QUESTION
from benchmarks.systems import System
from tests.rig.child import module
from tests.rig.redis_server import redis_server

WORKERS = 2
THREADS = 32
LONGEST_SECONDS = 30.0
APP = "benchmarks.peers.celery_tasks"
# Without messages among workers, which serve monitoring only.
QUIET = ["--without-gossip", "--without-mingle", "--without-heartbeat"]


@asynccontextmanager
async def running(model_url: str) -> AsyncIterator[System]:
    from celery import Celery, chord

    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="parley-bench-")))
        redis_url = await stack.enter_async_context(redis_server(folder))
        app = Celery("client", broker=f"{redis_url}/0", backend=f"{redis_url}/1")
        stack.callback(app.close)

        def ask(agents: int) -> list[str]:
            header = [app.signature("bench.ask", args=(QUESTION,)) for _ in range(agents)]
            result = chord(header, app=app)(app.signature("bench.combine"))
            return list(result.get(timeout=LONGEST_SECONDS))

        workers = [
            await stack.enter_async_context(
                worker(
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
                    folder / f"worker-{number}.log",
                    BENCH_REDIS_URL=redis_url,
                    BENCH_MODEL_URL=model_url,
                )
            )
            for number in range(WORKERS)
        ]
        # Results are in reference cycles and unsubscribe in Redis when they are collected. After Redis has stopped,
        # each would wait for it.
        stack.callback(gc.collect)
        system = stack.enter_context(threaded(ask))
        await answering(system, workers[0])
        yield system


def _named(number: int) -> list[str]:
    return ["-c", str(THREADS), "-n", f"bench-{number}@%h"]
