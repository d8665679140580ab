"""The peers by name, why one is skipped, and what their clients share."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from importlib import import_module
from pathlib import Path

from benchmarks.systems import System
from tests.rig.child import Child, child

PEERS: Mapping[str, str] = {
    "celery": "celery_chord",
    "taskiq": "taskiq_nats",
    "dramatiq": "dramatiq_group",
    "actor": "actor_each",
}
INSTALL_LIBRARIES = "uv sync --frozen --group bench"
INSTALL_REDIS = "apt-get install redis-server"
START_SECONDS = 30.0
# No point of a sweep has more deliberations at a time.
MOST_THREADS = 192


def running(name: str, model_url: str) -> AbstractAsyncContextManager[System]:
    """The peer until the block ends. Raises ModuleNotFoundError or FileNotFoundError for what is not installed."""
    module = import_module(f"benchmarks.peers.{PEERS[name]}")
    peer: AbstractAsyncContextManager[System] = module.running(model_url)
    return peer


def skipped_line(peer: str, error: Exception) -> str:
    """Why the peer is not measured, and what to install, in one line."""
    match error:
        case FileNotFoundError():
            reason, remedy = str(error), INSTALL_REDIS
        case ModuleNotFoundError():
            reason, remedy = f"{error.name} is not installed", INSTALL_LIBRARIES
        case _:
            text = " ".join(f"{type(error).__name__}: {error}".split())[:230]
            reason, remedy = f"it did not start ({text})", INSTALL_LIBRARIES
    return f"{peer} is skipped: {reason}; try: {remedy}"


@asynccontextmanager
async def worker(command: Sequence[str], log: Path, **environment: str) -> AsyncIterator[Child]:
    """A worker process of a peer. `environment`: variables besides ours."""
    async with child(command, log, {**os.environ, **environment}, batch=True) as process:
        yield process


async def answering(system: System, process: Child) -> None:
    """Wait for a first deliberation. Raises RuntimeError with the end of the worker's log if none is answered."""
    first = asyncio.ensure_future(system.deliberate(1))
    ended = asyncio.ensure_future(process.process.wait())
    done, late = await asyncio.wait(
        {first, ended}, timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED
    )
    for task in late:
        task.cancel()
    if ended in done:
        raise RuntimeError(f"its worker exited with {ended.result()}: {process.log_end(300)}")
    if first not in done:
        raise RuntimeError(f"no answer within {START_SECONDS:g} s: {process.log_end(300)}")
    first.result()


class Threaded:
    """A client that blocks: each deliberation has a thread while it lasts. `ask`: asks that many agents, returns the
    answers."""

    def __init__(self, ask: Callable[[int], list[str]], threads: ThreadPoolExecutor) -> None:
        self._ask = ask
        self._threads = threads

    async def deliberate(self, agents: int) -> None:
        answers = await asyncio.get_running_loop().run_in_executor(self._threads, self._ask, agents)
        assert len(answers) == agents, answers
        assert all(answers), answers


@contextmanager
def threaded(ask: Callable[[int], list[str]]) -> Iterator[Threaded]:
    threads = ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="peer")
    try:
        yield Threaded(ask, threads)
    finally:
        threads.shutdown(cancel_futures=True)  # each waits a limited time for its answers
