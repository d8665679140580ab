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


class BlockingThread:
    """Runs one call after another in a daemon thread. One that never returns blocks those behind it, not the exit."""

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name=name, daemon=True).start()

    def _serve(self) -> None:
        while True:
            self._calls.get()()

    async def run(self, call: Callable[[], object]) -> None:
        """Run `call` and wait for it. Raises what it raised. When cancelled, `call` goes on."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def finish(error: BaseException | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        def run_here() -> None:
            error: BaseException | None = None
            try:
                call()
            except BaseException as raised:
                error = raised
            with suppress(RuntimeError):  # the loop is closed by now
                loop.call_soon_threadsafe(finish, error)

        self._calls.put(run_here)
        await done
