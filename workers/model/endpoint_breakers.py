"""The breakers and pauses of a worker's endpoints: which may be called or is due for a probe, and waiting for a change.

A pause is what a server asked for when it refused a call (`Retry-After`): only that endpoint is left alone.

Reads no clock and makes no call: callers pass `now`, in seconds since the epoch.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from operator import itemgetter
from typing import NamedTuple

from parley.broker.core.agent_error_table import Signal
from parley.broker.core.messages import ErrorType
from parley.workers.model.breaker import (
    Breaker,
    BreakerPolicy,
    BreakerState,
    BreakerStatus,
    Failure,
    Permit,
)
from parley.workers.model.endpoint_address import Endpoint

log = logging.getLogger("parley.workers")

# The longest pause. Some servers name a day, and may be free much earlier: they are asked again after this.
MAX_PAUSE_SECONDS = 300.0


class Pause(NamedTuple):
    """Until when an endpoint is left alone, since the epoch, and why. The failure's `text` may be shown to any caller."""

    until: float
    failure: Failure


NO_PAUSE = Pause(0.0, Failure(ErrorType.RATE_LIMITED, ""))


class EndpointBreakers:
    """One breaker for each of `endpoints`; all agents of a worker share them."""

    def __init__(self, endpoints: Sequence[Endpoint], policy: BreakerPolicy) -> None:
        self._endpoints = endpoints
        self._breakers = {endpoint: Breaker(policy) for endpoint in endpoints}
        # The latest pause that each endpoint asked for.
        self._pauses: dict[Endpoint, Pause] = {}
        # Agents that wait for any breaker to change; resolved by the next change.
        self._waiting: set[asyncio.Future[None]] = set()
        # Called at each change.
        self._watchers: list[Callable[[], object]] = []

    def __getitem__(self, endpoint: Endpoint) -> Breaker:
        return self._breakers[endpoint]

    # ── calls ───────────────────────────────────────────────────────────────────────────────────────────────

    def admit(self, order: Iterable[Endpoint], now: float) -> tuple[Endpoint, Permit] | None:
        """The first closed endpoint without a pause, with a permit that must be passed to `end`; None if there is none."""
        for endpoint in order:
            breaker = self._breakers[endpoint]
            if self._pauses and self._paused_until(endpoint, now) > now:
                continue
            if breaker.state is BreakerState.CLOSED and (permit := breaker.admit(now)) is not None:
                return endpoint, permit
        return None

    def probes_due(self, order: Iterable[Endpoint], now: float) -> list[tuple[Endpoint, Permit]]:
        """All endpoints whose cool-down is over. The caller must probe each and pass its permit to `end`."""
        due = []
        for endpoint in order:
            breaker = self._breakers[endpoint]
            if breaker.state is BreakerState.OPEN and (permit := breaker.admit(now)) is not None:
                due.append((endpoint, permit))
        if due:
            self._changed()
        return due

    def end(
        self,
        endpoint: Endpoint,
        permit: Permit,
        signal: Signal,
        now: float,
        *,
        failure: Failure | None = None,
        task_id: str = "",
        jitter: float = 1.0,
    ) -> None:
        """Report how a call or a probe ended."""
        breaker = self._breakers[endpoint]
        before, due = breaker.state, breaker.probe_at
        breaker.end(permit, signal, now, failure=failure, task_id=task_id, jitter=jitter)
        if breaker.state is before and breaker.probe_at == due:
            return
        self._changed()
        if before is BreakerState.CLOSED:
            log.warning(
                "%s is not called for now: %s", endpoint, breaker.failure.text if breaker.failure else ""
            )
        elif breaker.state is BreakerState.CLOSED:
            log.info("%s is called again", endpoint)

    # ── pauses ──────────────────────────────────────────────────────────────────────────────────────────────

    def pause(self, endpoint: Endpoint, seconds: float, now: float, failure: Failure) -> None:
        """Leave an endpoint alone for `seconds`, at most MAX_PAUSE_SECONDS, unless it already is for longer."""
        until, before = now + min(seconds, MAX_PAUSE_SECONDS), self._paused_until(endpoint, now)
        if until <= max(now, before):
            return
        self._pauses[endpoint] = Pause(until, failure)
        if before <= now:  # once for all calls that were refused together
            log.info("%s is left alone for %.1f s: %s", endpoint, until - now, failure.text)

    def _paused_until(self, endpoint: Endpoint, now: float) -> float:
        until = self._pauses.get(endpoint, NO_PAUSE).until
        # Further away than any pause: the clock was set back, which must not make the pause longer.
        return until if until - now <= MAX_PAUSE_SECONDS else 0.0

    def first_free(self, order: Iterable[Endpoint], now: float) -> tuple[float, Pause]:
        """When the first of these may be called, and the pause that ends then. Infinity if no breaker is closed."""
        first = math.inf, NO_PAUSE
        for endpoint in order:
            if self._breakers[endpoint].state is BreakerState.CLOSED:
                at = max(now, self._paused_until(endpoint, now))
                first = min(first, (at, self._pauses.get(endpoint, NO_PAUSE)), key=itemgetter(0))
        return first

    # ── waiting ─────────────────────────────────────────────────────────────────────────────────────────────

    def probing(self, order: Iterable[Endpoint]) -> bool:
        """Whether any of these is being probed."""
        return any(self._breakers[endpoint].state is BreakerState.HALF_OPEN for endpoint in order)

    def next_probe_at(self, order: Iterable[Endpoint]) -> float:
        """When the first of these is due for a probe; infinity if none is open."""
        breakers = (self._breakers[endpoint] for endpoint in order)
        return min(
            (breaker.probe_at for breaker in breakers if breaker.state is BreakerState.OPEN), default=math.inf
        )

    async def wait_changed(self, seconds: float, sleep: Callable[[float], Awaitable[None]]) -> None:
        """Wait until any breaker changes, at most `seconds`."""
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

    # ── reporting ───────────────────────────────────────────────────────────────────────────────────────────

    def watch(self, watcher: Callable[[], object]) -> None:
        """Call `watcher` whenever a breaker changes."""
        self._watchers.append(watcher)

    @property
    def statuses(self) -> tuple[BreakerStatus, ...]:
        """One for each endpoint, in their order."""
        breakers = ((endpoint, self._breakers[endpoint]) for endpoint in self._endpoints)
        return tuple(
            BreakerStatus(endpoint.label, breaker.state, breaker.openings) for endpoint, breaker in breakers
        )
