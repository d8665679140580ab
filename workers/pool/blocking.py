"""A thread for what blocks, and nobody has to wait for.

Not asyncio's own pool: that is joined at exit, and Ray may block for minutes. And one thread for the life of the process, not one a
call: what Ray starts locally ends with the *thread* that started it (Linux's PR_SET_PDEATHSIG).
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress


class BlockingThread:
    """Runs one thing after another in a daemon thread. What never returns keeps the rest from running, and no exit from ending."""

    def __init__(self, name: str) -> None:
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def _run(self) -> None:
        while True:
            self._work.get()()

    async def do(self, work: Callable[[], object]) -> None:
        """Run `work` and wait for it. Raises what it raised; cancelled, it leaves `work` to itself."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def tell(error: BaseException | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        def carry_out() -> None:
            error: BaseException | None = None
            try:
                work()
            except BaseException as raised:
                error = raised
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(tell, error)

        self._work.put(carry_out)
        await done
