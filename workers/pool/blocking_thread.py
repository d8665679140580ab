"""A thread for blocking calls that the event loop may stop waiting for.

Not asyncio's own thread pool: the interpreter joins that at exit, and Ray may block for minutes. One thread for the
life of the process, because what Ray starts locally ends with the *thread* that started it (Linux's
PR_SET_PDEATHSIG).
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

T = TypeVar("T")


class BlockingThread:
    """Runs one call after another in a daemon thread. One that never returns blocks those behind it, not the exit."""

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name=name, daemon=True).start()

    def _serve(self) -> None:
        while True:
            self._calls.get()()

    async def run(self, call: Callable[[], T]) -> T:
        """What `call` returns or raises. When cancelled, `call` goes on."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def finish(settle: Callable[[], None]) -> None:
            if not done.done():
                settle()

        def run_here() -> None:
            try:
                settle = partial(done.set_result, call())
            except BaseException as raised:
                settle = partial(done.set_exception, raised)
            with suppress(RuntimeError):  # the loop is closed by now
                loop.call_soon_threadsafe(finish, settle)

        self._calls.put(run_here)
        return await done
