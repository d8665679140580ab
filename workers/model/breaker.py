"""Whether an endpoint is worth a call: closed (yes), open (no), half-open (one call is out to see).

    closed ──`failures` in a row──▶ open ──cool-down over, somebody asks──▶ half-open ──the probe failed──▶ open, for longer
       ▲                                                                       │
       └────────────────────────────the probe found somebody───────────────────┘

A pure machine: it is told how calls ended and what time it is. It reads no clock, throws no dice, calls nobody and knows nothing of
HTTP. Instants are seconds since the epoch, whoever gives them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum, auto
from typing import NamedTuple

from parley.broker.core.messages import ErrorType

# The cool-down doubles up to this many times the first. With the defaults 5 s: shorter than what an agent's own retries
# take together (up to 7.75 s), so that whoever has to wait lives to see a probe.
LONGEST_COOLDOWNS = 5.0


class BreakerState(StrEnum):
    CLOSED = "closed"
    HALF_OPEN = "half_open"
    OPEN = "open"


class Signal(StrEnum):
    """What the end of a call says of the endpoint, whatever it says of the call."""

    ALIVE = auto()  # somebody answered, if only to refuse
    DEAD = auto()  # nobody did
    AMBIGUOUS = auto()  # the request itself may be the cause
    SLOW = auto()  # a probe still waited when its time was up
    IGNORED = auto()  # the call was called off, or cut short


SIGNALS: Mapping[ErrorType, Signal] = {
    ErrorType.CONNECTION_FAILED: Signal.DEAD,
    ErrorType.CONNECTION_LOST: Signal.DEAD,
    ErrorType.FIRST_BYTE_TIMEOUT: Signal.DEAD,
    ErrorType.SERVER_ERROR: Signal.AMBIGUOUS,
    ErrorType.TOTAL_TIMEOUT: Signal.AMBIGUOUS,  # a server that hangs, or an answer that is long
    ErrorType.RATE_LIMITED: Signal.ALIVE,
    ErrorType.CONTEXT_TOO_LONG: Signal.ALIVE,
    ErrorType.BAD_REQUEST: Signal.ALIVE,
    ErrorType.UNAUTHORIZED: Signal.ALIVE,
    ErrorType.MODEL_NOT_FOUND: Signal.ALIVE,
    ErrorType.EMPTY_ANSWER: Signal.ALIVE,
    ErrorType.MALFORMED_ANSWER: Signal.ALIVE,
    ErrorType.DEADLINE_EXCEEDED: Signal.IGNORED,  # how much time a call was given is its caller's choice
    ErrorType.CANCELLED: Signal.IGNORED,
    ErrorType.INTERNAL_ERROR: Signal.IGNORED,
}
# What a gateway says when nobody stands behind it. 500 may be one request's own doing, and vLLM sheds load as 503.
GATEWAY = frozenset({502, 504})
# An endpoint that was opened for its silence is not closed by more of it.
SILENCE = frozenset({ErrorType.FIRST_BYTE_TIMEOUT, ErrorType.TOTAL_TIMEOUT})


def verdict(error_type: ErrorType, status: int | None = None, retry_after: float | None = None) -> Signal:
    """What an error says of its endpoint. `status`: of the HTTP response, if there was one; `retry_after`: what it asked for."""
    if error_type is ErrorType.SERVER_ERROR:
        if retry_after is not None:
            return Signal.ALIVE  # "come back later" is the word of a living server
        if status in GATEWAY:
            return Signal.DEAD
    return SIGNALS[error_type]


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """What a breaker bears. `cooldown`: the first pause of an open one, in seconds.

    Five in a row, as Envoy's outlier detection has it: a keep-alive connection that the server closed first costs a call now
    and then, and a balancer with one dead replica of two must fail five calls running (one time in 32) to be taken for dead.
    """

    failures: int = 5
    cooldown: float = 1.0

    def pause(self, doublings: int, jitter: float) -> float:
        """Seconds to stay open. Half of it is jitter: workers that saw a server die together must not come back together."""
        # The cap is reached at 2³ times; 2.0 ** 2000 would overflow.
        whole = self.cooldown * min(LONGEST_COOLDOWNS, 2.0 ** min(doublings, 16))
        return whole * (1 + jitter) / 2


class Failure(NamedTuple):
    error_type: ErrorType
    words: str


class Permit(NamedTuple):
    """To make one call. Whoever has it tells its `end`, exactly once."""

    generation: int
    probe: bool


FIRST = Permit(0, probe=False)


@dataclass(slots=True)
class Breaker:
    """One endpoint as one worker knows it. `cause`: the latest failure that counted, None while closed; `opened_at`: when it was last closed."""

    tolerance: BreakerPolicy = BreakerPolicy()
    state: BreakerState = BreakerState.CLOSED
    openings: int = 0
    opened_at: float = 0.0
    probe_at: float = 0.0
    cause: Failure | None = None
    _streak: int = 0
    _doubted: set[str] = field(default_factory=set)
    _doublings: int = 0
    # Calls of an earlier generation tell of what is known already: a hundred that time out together are one event.
    _leave: Permit = FIRST

    def admit(self, now: float) -> Permit | None:
        """Leave to call, or None. Open and past its cool-down, the one who asks first is the probe."""
        if self.state is BreakerState.CLOSED:
            return self._leave
        # Further off than any cool-down: the clock was set back, and that is not to keep it open.
        cooling = 0 < self.probe_at - now <= self.tolerance.cooldown * LONGEST_COOLDOWNS
        if self.state is BreakerState.HALF_OPEN or cooling:
            return None
        self.state = BreakerState.HALF_OPEN
        return Permit(self._leave.generation, probe=True)

    def end(
        self,
        leave: Permit,
        verdict: Signal,
        now: float,
        *,
        cause: Failure | None = None,
        task_id: str = "",
        jitter: float = 1.0,
    ) -> None:
        """How a call ended that had `leave`. What is in doubt counts once a task: one poisonous deliberation opens nothing."""
        if leave.probe:
            self._end_probe(verdict, now, cause, jitter)
        elif verdict is Signal.ALIVE:
            self._streak = 0
            self._doubted.clear()
            if self.state is BreakerState.OPEN:
                # A call from before. It may be the last of a server that drains, so it closes nothing: ask at once.
                self.probe_at = now
        elif (
            self.state is BreakerState.CLOSED
            and leave.generation == self._leave.generation
            and self._counts(verdict, task_id)
        ):
            self._streak += 1
            if self._streak >= self.tolerance.failures:
                self.cause = cause
                self.openings += 1
                self.opened_at = now
                self._doublings = 0
                self._open(now, jitter)

    def _counts(self, verdict: Signal, task_id: str) -> bool:
        if verdict is Signal.AMBIGUOUS and task_id not in self._doubted:
            self._doubted.add(task_id)
            return True
        return verdict is Signal.DEAD

    def _end_probe(self, verdict: Signal, now: float, cause: Failure | None, jitter: float) -> None:
        """Nothing that a probe asks for can be its own fault, so a doubtful end is a failed one."""
        if verdict is Signal.SLOW:
            # Connected and not refused: it is busy, unless silence is just what it was opened for.
            silent = self.cause is not None and self.cause.error_type in SILENCE
            verdict = Signal.DEAD if silent else Signal.ALIVE
        match verdict:
            case Signal.ALIVE:
                self.state = BreakerState.CLOSED
                self.cause = None
                self._leave = Permit(self._leave.generation + 1, probe=False)
            case Signal.IGNORED:
                self._open(now, jitter)  # as before, or it would be cut short again and again
            case _:
                self.cause = cause or self.cause
                self._doublings += 1
                self._open(now, jitter)

    def _open(self, now: float, jitter: float) -> None:
        self.state = BreakerState.OPEN
        self.probe_at = now + self.tolerance.pause(self._doublings, jitter)
        self._streak = 0
        self._doubted.clear()
