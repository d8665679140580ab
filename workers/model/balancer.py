"""A worker's endpoints, each behind its breaker: which of them may be called now, and who waits for one to come back.

All agents of a worker share one. It keeps the time of whoever asks it. Probes are tasks of its own, so that no agent spends its time
on one, nor takes it along when it ends; what a probe does is theirs who send it out.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from parley.workers.model.breaker import (
    Breaker,
    BreakerPolicy,
    BreakerState,
    Failure,
    Permit,
    Signal,
    verdict,
)
from parley.workers.model.endpoint import Endpoint
from parley.workers.model.responses import ModelError

log = logging.getLogger("parley.workers")


class BreakerStatus(NamedTuple):
    """An endpoint (`host:port`) as one worker sees it. `openings`: since the worker began. Plain values: it crosses from Ray."""

    endpoint: str
    state: BreakerState
    openings: int


@dataclass(frozen=True, slots=True)
class EndpointPermit:
    """An endpoint, and the leave to call it once."""

    endpoint: Endpoint
    breaker: Breaker
    leave: Permit


class EndpointBalancer:
    def __init__(self, tolerance: BreakerPolicy | None = None) -> None:
        self._tolerance = tolerance or BreakerPolicy()
        self._breakers: dict[Endpoint, Breaker] = {}
        self._waiting: set[asyncio.Future[None]] = set()
        self._watchers: list[Callable[[], object]] = []
        self._probes: set[asyncio.Task[None]] = set()

    def breaker(self, endpoint: Endpoint) -> Breaker:
        found = self._breakers.get(endpoint)
        if found is None:
            found = self._breakers[endpoint] = Breaker(self._tolerance)
        return found

    def admit(self, order: Iterable[Endpoint], now: float) -> EndpointPermit | None:
        """The first that is closed. Its `end` has to be told."""
        for endpoint in order:
            breaker = self.breaker(endpoint)
            if breaker.state is BreakerState.CLOSED and (leave := breaker.admit(now)) is not None:
                return EndpointPermit(endpoint, breaker, leave)
        return None

    def due(self, order: Iterable[Endpoint], now: float) -> list[EndpointPermit]:
        """All whose cool-down is over, each to be probed. They are nobody else's until their `end` is told."""
        lines = []
        for endpoint in order:
            breaker = self.breaker(endpoint)
            if breaker.state is BreakerState.OPEN and (leave := breaker.admit(now)) is not None:
                lines.append(EndpointPermit(endpoint, breaker, leave))
        if lines:
            self._changed()
        return lines

    def end(
        self,
        line: EndpointPermit,
        error: ModelError | None,
        now: float,
        *,
        task_id: str = "",
        jitter: float = 1.0,
    ) -> None:
        """A call came to its end, with an answer or without."""
        if error is None:
            self._tell(line, Signal.ALIVE, now)
            return
        cause = Failure(error.error_type, error.public_text)
        self._tell(
            line, verdict(error.error_type, error.status, error.retry_after), now, cause, task_id, jitter
        )

    def end_slow(self, line: EndpointPermit, now: float, *, jitter: float) -> None:
        """A probe had its time and still waits."""
        self._tell(line, Signal.SLOW, now, jitter=jitter)

    def call_off(self, line: EndpointPermit, now: float) -> None:
        """A call was cancelled. After a probe, the cool-down begins again."""
        self._tell(line, Signal.IGNORED, now)

    def _tell(
        self,
        line: EndpointPermit,
        verdict: Signal,
        now: float,
        cause: Failure | None = None,
        task_id: str = "",
        jitter: float = 1.0,
    ) -> None:
        breaker = line.breaker
        before, due = breaker.state, breaker.probe_at
        breaker.end(line.leave, verdict, now, cause=cause, task_id=task_id, jitter=jitter)
        if breaker.state is before and breaker.probe_at == due:
            return
        self._changed()
        if before is BreakerState.CLOSED:
            log.warning(
                "%s is not called for now: %s", line.endpoint, breaker.cause.words if breaker.cause else ""
            )
        elif breaker.state is BreakerState.CLOSED:
            log.info("%s is called again", line.endpoint)

    # ── probing ───────────────────────────────────────────────────────────────────────────────────────────────────

    def send_out(self, probe: Coroutine[Any, Any, None]) -> None:
        """Let a probe run by itself, until it ends or the switchboard is closed."""
        task = asyncio.create_task(probe, name="probe")
        self._probes.add(task)
        task.add_done_callback(self._probes.discard)

    def probing(self, order: Iterable[Endpoint]) -> bool:
        return any(self.breaker(endpoint).state is BreakerState.HALF_OPEN for endpoint in order)

    async def close(self) -> None:
        """Call off the probes that are out. After it nobody asks any more."""
        probes = list(self._probes)
        for probe in probes:
            probe.cancel()
        await asyncio.gather(*probes, return_exceptions=True)

    # ── waiting ───────────────────────────────────────────────────────────────────────────────────────────────────

    def probe_at(self, order: Iterable[Endpoint]) -> float:
        """When the first of these may be probed; infinity while each has its probe out."""
        breakers = (self.breaker(endpoint) for endpoint in order)
        return min(
            (breaker.probe_at for breaker in breakers if breaker.state is BreakerState.OPEN), default=math.inf
        )

    async def news(self, seconds: float, sleep: Callable[[float], Awaitable[None]]) -> None:
        """Wait for any breaker to change, for at most that long."""
        change = asyncio.get_running_loop().create_future()
        timer = asyncio.ensure_future(sleep(seconds))
        self._waiting.add(change)
        try:
            await asyncio.wait((change, timer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._waiting.discard(change)
            timer.cancel()

    def _changed(self) -> None:
        for change in self._waiting:
            if not change.done():
                change.set_result(None)
        for watcher in self._watchers:
            watcher()

    # ── telling ───────────────────────────────────────────────────────────────────────────────────────────────────

    def watch(self, watcher: Callable[[], object]) -> None:
        """Have `watcher` called whenever a breaker changes."""
        self._watchers.append(watcher)

    def breaker_statuses(self, endpoints: Sequence[Endpoint]) -> tuple[BreakerStatus, ...]:
        breakers = ((endpoint, self.breaker(endpoint)) for endpoint in endpoints)
        return tuple(
            BreakerStatus(endpoint.label, breaker.state, breaker.openings) for endpoint, breaker in breakers
        )
