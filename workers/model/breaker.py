"""A circuit breaker: whether one endpoint is worth a call.

    closed ──`failures` in a row──▶ open ──cool-down over──▶ half-open ──probe failed──▶ open, for longer
       ▲                                                        │
       └────────────────the server answered the probe───────────┘

Closed: calls pass. Open: no call passes. Half-open: one call, the probe, is under way.

A pure state machine: callers tell it how calls ended and what time it is. It reads no clock, draws no random
number and knows nothing of HTTP. Times are seconds since the epoch.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from parley.broker.core.agent_error_table import POLICIES, Signal
from parley.broker.core.backoff import backoff
from parley.broker.core.messages import ErrorType

# The cool-down doubles up to this many times the first. With the defaults that is 5 s: shorter than all
# retries of one agent together (up to 7.75 s), so an agent that has to wait still sees a probe.
LONGEST_COOLDOWNS = 5.0


class BreakerState(StrEnum):
    CLOSED = "closed"
    HALF_OPEN = "half_open"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """`failures`: how many in a row open a breaker. `cooldown`: how long it first stays open, in seconds.

    The default of five is that of Envoy's outlier detection. A single failure is common: a server closes an
    idle keep-alive connection first. And a load balancer with one dead replica of two fails five calls in a
    row one time in 32.
    """

    failures: int = 5
    cooldown: float = 1.0

    def pause(self, doublings: int, jitter: float) -> float:
        """Seconds to stay open. Half is jitter: workers that saw a server die together come back apart."""
        return backoff(1 + doublings, self.cooldown, LONGEST_COOLDOWNS * self.cooldown, (1 + jitter) / 2)


class Failure(NamedTuple):
    """Why a call failed. `text` may be shown to any caller."""

    error_type: ErrorType
    text: str


class Permit(NamedTuple):
    """Permission for one call. Its holder calls `Breaker.end` with it exactly once."""

    generation: int
    probe: bool


class BreakerStatus(NamedTuple):
    """An endpoint (`host:port`) as one worker has seen it since its start. Crosses to Ray."""

    endpoint: str
    state: BreakerState
    openings: int


FIRST_PERMIT = Permit(0, probe=False)


@dataclass(slots=True)
class Breaker:
    """One endpoint as one worker sees it.

    `openings`: how often it left the closed state. `opened_at`: when it last did. `probe_at`: when a probe is
    due, while open. `failure`: the latest that counted; None while closed.
    """

    policy: BreakerPolicy = BreakerPolicy()
    state: BreakerState = BreakerState.CLOSED
    openings: int = 0
    opened_at: float = 0.0
    probe_at: float = 0.0
    failure: Failure | None = None
    # Failures since the last answer.
    _failures_in_a_row: int = 0
    # Tasks whose ambiguous failure is among them.
    _ambiguous_tasks: set[str] = field(default_factory=set)
    # How often the cool-down has doubled since the breaker opened.
    _doublings: int = 0
    # The permit for calls while closed. Each closing raises its generation, and failures of calls from older
    # generations do not count: a hundred calls that time out together open the breaker once.
    _permit: Permit = FIRST_PERMIT

    def admit(self, now: float) -> Permit | None:
        """A permit to call, or None. Once the cool-down of an open breaker is over, it is for the probe."""
        if self.state is BreakerState.CLOSED:
            return self._permit
        # Further away than any cool-down: the clock was set back, which must not keep the breaker open.
        cooling = 0 < self.probe_at - now <= self.policy.cooldown * LONGEST_COOLDOWNS
        if self.state is BreakerState.HALF_OPEN or cooling:
            return None
        self.state = BreakerState.HALF_OPEN
        return Permit(self._permit.generation, probe=True)

    def end(
        self,
        permit: Permit,
        signal: Signal,
        now: float,
        *,
        failure: Failure | None = None,
        task_id: str = "",
        jitter: float = 1.0,
    ) -> None:
        """Report how a call ended. An ambiguous failure counts once a task: one bad request opens nothing."""
        if permit.probe:
            self._end_probe(signal, now, failure, jitter)
        elif signal is Signal.ALIVE:
            self._reset_count()
            if self.state is BreakerState.OPEN:
                # An earlier call. The server may be draining, so its answer closes nothing: probe at once.
                self.probe_at = now
        elif self.state is BreakerState.CLOSED and permit == self._permit and self._counts(signal, task_id):
            self._failures_in_a_row += 1
            if self._failures_in_a_row >= self.policy.failures:
                self.failure = failure
                self.openings += 1
                self.opened_at = now
                self._doublings = 0
                self._open(now, jitter)

    def _counts(self, signal: Signal, task_id: str) -> bool:
        if signal is Signal.AMBIGUOUS and task_id not in self._ambiguous_tasks:
            self._ambiguous_tasks.add(task_id)
            return True
        return signal is Signal.DEAD

    def _end_probe(self, signal: Signal, now: float, failure: Failure | None, jitter: float) -> None:
        """A probe's request is never the cause of a failure, so an ambiguous end is a failed probe."""
        if signal is Signal.SLOW:
            # The server accepted the connection and did not refuse: it is busy. But if the breaker opened
            # because the server was silent, more silence proves nothing.
            silent = self.failure is not None and POLICIES[self.failure.error_type].timeout
            signal = Signal.DEAD if silent else Signal.ALIVE
        match signal:
            case Signal.ALIVE:
                self.state = BreakerState.CLOSED
                self.failure = None
                self._permit = Permit(self._permit.generation + 1, probe=False)
            case Signal.IGNORED:
                # As long as before: a probe at once might be cancelled again and again.
                self._open(now, jitter)
            case _:
                self.failure = failure or self.failure
                self._doublings += 1
                self._open(now, jitter)

    def _open(self, now: float, jitter: float) -> None:
        self.state = BreakerState.OPEN
        self.probe_at = now + self.policy.pause(self._doublings, jitter)
        self._reset_count()

    def _reset_count(self) -> None:
        self._failures_in_a_row = 0
        self._ambiguous_tasks.clear()
