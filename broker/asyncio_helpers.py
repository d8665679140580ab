"""What asyncio lacks: background loops that survive errors, a cancellation that is not swallowed, a `gather` that is
cheap for one item, a counted capacity, a semaphore for weights, and turns for work that keeps the event loop busy."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

from parley.broker.core.errors import ParleyError

log = logging.getLogger("parley")

# A background loop that failed starts again after this long.
RESTART_SECONDS = 1.0
# A loop that ran for longer than this had no error meanwhile: the same one is told again.
TELL_AGAIN_SECONDS = 60.0

# How often a task that ignores its cancellation is cancelled again.
CANCEL_AGAIN_SECONDS = 0.05

# A piece of work that keeps the event loop busy for longer is followed by a pause.
LONG_SECONDS = 0.005
# What waits for several of this length waits in vain. An honest piece of work takes a few milliseconds.
VERY_LONG_SECONDS = 0.05

Result = TypeVar("Result")


class BackgroundLoop:
    """Runs `loop` in a task until it returns or `cancel` is called.

    An error does not end it: the error is logged, with a traceback if it is a bug, and the loop starts again. One that
    comes at each start is logged once.
    """

    def __init__(self, loop: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        self._loop = loop
        self._name = name
        # When it began (monotonic), and the error that was logged last.
        self._began = 0.0
        self._told = ""
        # The next start, after an error.
        self._timer: asyncio.TimerHandle | None = None
        self._start()

    def _start(self) -> None:
        self._began = time.monotonic()
        self._task = asyncio.create_task(self._loop(), name=self._name)
        self._task.add_done_callback(self._on_end)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, ParleyError):
            if str(error) != self._told or time.monotonic() - self._began > TELL_AGAIN_SECONDS:
                log.warning("%s starts again: %s", self._name, error)
            self._told = str(error)
        else:
            log.error("%s failed through a bug and starts again", self._name, exc_info=error)
        self._timer = asyncio.get_running_loop().call_later(RESTART_SECONDS, self._start)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._task.cancel()


async def cancel_all(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel `tasks` and wait until they have ended. It repeats the cancellation until then. What they raise is dropped.

    Python 3.11's `wait_for` swallows one that meets a result, and nats-py swallows one that meets a failed attempt to
    connect; what works in a loop then goes on for ever (seen: a test that hung).
    """
    every = set(tasks)
    left = {task for task in every if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_SECONDS)
    for task in every:
        if not task.cancelled():
            task.exception()  # else asyncio logs that nobody looked at it


async def gather(works: Iterable[Awaitable[Result]]) -> list[Result]:
    """As `asyncio.gather`, without a task for a single item, and with one for the second of two.

    Most batches are one message, and a task for it cost a tenth of its handling. Of two, the first is awaited to its end
    also if the second has failed by then.
    """
    waiting = list(works)
    if len(waiting) == 1:
        return [await waiting[0]]
    if len(waiting) != 2:
        return await asyncio.gather(*waiting)
    second = asyncio.ensure_future(waiting[1])
    try:
        return [await waiting[0], await second]
    except asyncio.CancelledError:
        second.cancel()
        await asyncio.wait([second])
        raise
    finally:
        second.add_done_callback(_heard)


def _heard(future: asyncio.Future[Any]) -> None:
    """Nobody waits for its error any more: asyncio is not to report that."""
    if not future.cancelled():
        future.exception()


class Capacity:
    """Counts how much of `total` is taken. `total` may change; below what is taken, nothing is free."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.taken = 0
        # Set when more may be free than before.
        self._freed = asyncio.Event()

    @property
    def free(self) -> int:
        return max(0, self.total - self.taken)

    async def wait_free(self) -> int:
        """Return how much is free, once there is some."""
        while not self.free:
            self._freed.clear()
            await self._freed.wait()
        return self.free

    def take(self, count: int) -> None:
        self.taken += count

    def give(self, count: int) -> None:
        self.taken -= count
        self._freed.set()

    def resize(self, total: int) -> None:
        self.total = total
        self._freed.set()


class WeightedSemaphore:
    """Weights of at most `limit` together; a heavier holder is let in alone. First come, first served."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # The weight of all holders together.
        self.held = 0
        # Held by the first in the queue until there is room for it.
        self._turn = asyncio.Lock()
        # Set when a holder leaves.
        self._released = asyncio.Event()

    def holding(self, weight: int) -> "Holding":
        """Hold `weight` for as long as the block lasts, once there is room."""
        return Holding(self, weight)

    async def take(self, weight: int) -> None:
        """Return once there is room. `give` gives it back."""
        if self._turn.locked() or not self._has_room(weight):
            async with self._turn:
                while not self._has_room(weight):
                    self._released.clear()
                    await self._released.wait()
        self.held += weight

    def give(self, weight: int) -> None:
        self.held -= weight
        self._released.set()

    def _has_room(self, weight: int) -> bool:
        return not self.held or self.held + weight <= self._limit


class Holding:
    """A weight that is held inside a block. A class of its own: a generator costs five times as much."""

    __slots__ = ("_semaphore", "_weight")

    def __init__(self, semaphore: WeightedSemaphore, weight: int) -> None:
        self._semaphore = semaphore
        self._weight = weight

    async def __aenter__(self) -> None:
        await self._semaphore.take(self._weight)

    async def __aexit__(self, *error: object) -> None:
        self._semaphore.give(self._weight)


class Turns:
    """Lets pieces of work that keep the event loop busy begin one a round of the loop.

    After a long piece (`LONG_SECONDS`) the next one waits as long again, so that other work has half of the time.
    """

    def __init__(self) -> None:
        # Held from the start of a piece until the next one may begin. First come, first served.
        self._turn = asyncio.Lock()
        # How long the last piece took.
        self._took = 0.0

    async def wait(self, seconds: float) -> bool:
        """Wait for the caller's turn: True when it is, and the caller begins at once, without awaiting anything. False
        if it is not within `seconds` because the pieces before it are very long."""
        turn = asyncio.ensure_future(self._turn.acquire())
        try:
            while not turn.done():
                await asyncio.wait((turn,), timeout=seconds)
                if not turn.done() and self._took >= VERY_LONG_SECONDS:
                    return False
        finally:
            turn.cancel()
        loop = asyncio.get_running_loop()
        loop.call_soon(self._end, loop.time())
        return True

    def _end(self, began: float) -> None:
        """The round is over in which the piece ran."""
        loop = asyncio.get_running_loop()
        self._took = loop.time() - began
        if self._took < LONG_SECONDS:
            self._turn.release()
        else:
            loop.call_later(self._took, self._turn.release)
