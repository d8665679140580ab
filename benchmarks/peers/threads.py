"""A client that blocks, driven from asyncio: each deliberation in a thread of its own while it lasts."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

# No point has more deliberations at a time (`benchmarks.points`). Threads are made as they are needed, and kept.
MOST = 192


class Threaded:
    """`ask`: asks that many agents, waits, and returns the answers."""

    def __init__(self, ask: Callable[[int], list[str]], threads: ThreadPoolExecutor) -> None:
        self._ask = ask
        self._threads = threads

    async def deliberate(self, agents: int) -> None:
        answers = await asyncio.get_running_loop().run_in_executor(self._threads, self._ask, agents)
        assert len(answers) == agents, answers
        assert all(answers), answers


@contextmanager
def threaded(ask: Callable[[int], list[str]]) -> Iterator[Threaded]:
    threads = ThreadPoolExecutor(MOST, thread_name_prefix="peer")
    try:
        yield Threaded(ask, threads)
    finally:
        threads.shutdown(cancel_futures=True)  # each waits only so long for its answers
