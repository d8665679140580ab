"""An event loop whose time is a number: it waits for nothing, and what is due next is now."""

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any

# Any instant will do; a small one leaves a float its digits for nanoseconds.
BEGINNING = 1_000_000.0


class Stuck(Exception):
    """Nothing is ready and nothing is scheduled: the history can neither go on nor end."""


class _Nothing:
    """Stands in for the selector: there is no I/O, so to wait is to move the clock."""

    def __init__(self, loop: "VirtualLoop") -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise Stuck
        if timeout > 0:
            self._loop.now = self._loop.next_due
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """asyncio's own loop, ready queue and timers, without a selector. `now` is seconds since the epoch, as
    `time.time` tells it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = BEGINNING
        # Tokens drawn (`tests.simulation.clock`).
        self.tokens = 0
        self._selector = _Nothing(self)
        self.errors: list[dict[str, Any]] = []
        self._fatal: BaseException | None = None
        self.set_exception_handler(lambda _, context: self._raised(context))

    def time(self) -> float:
        return self.now

    @property
    def next_due(self) -> float:
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]  # asyncio's own heap
        return max(self.now, scheduled[0].when())

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody sleeps in a select that would have to be woken."""

    def _raised(self, context: dict[str, Any]) -> None:
        if "handle" in context:
            # A callback of the simulation's own: an invariant that does not hold, or a mistake in the simulation.
            self._fatal = self._fatal or context["exception"]
            self.stop()
        else:
            self.errors.append(context)

    def run(self, history: Coroutine[Any, Any, None]) -> None:
        """Run to the end of `history`, then end every task that is left."""
        main = self.create_task(history)
        main.add_done_callback(lambda _: self.stop())
        try:
            self.run_forever()
            fatal = self._fatal or main.exception()
            if fatal is not None:
                raise fatal
        finally:
            self._end_tasks()
            self.close()

    def _end_tasks(self) -> None:
        for _ in range(20):
            left = asyncio.all_tasks(self)
            if not left:
                return
            for task in left:
                task.cancel()
            self.call_soon(self.call_soon, self.stop)
            self.run_forever()


def in_context(context: contextvars.Context, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
    return asyncio.get_running_loop().create_task(work, context=context)
