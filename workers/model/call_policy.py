"""How a call to a model server is bounded and repeated. Pure values, in seconds; the settings make them."""

from dataclasses import dataclass

from parley.broker.core.backoff import backoff

# Time for a probe's token once a connection is open. A server under full load takes longer and is not dead.
PROBE_TOKEN_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class CallTimeouts:
    """Seconds. `first_byte` applies to streamed calls only. `total` None: as long as the deadline allows."""

    connect: float = 5.0
    first_byte: float = 30.0
    total: float | None = None

    @property
    def probe(self) -> float:
        """The limit of a whole probe, connection included."""
        return self.connect + PROBE_TOKEN_SECONDS


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """At most `attempts` calls.

    The pause between two is fully jittered: up to `base` seconds, doubled each time, at most `cap`.
    """

    attempts: int = 6
    base: float = 0.25
    cap: float = 10.0

    def pause(self, attempt: int, jitter: float) -> float:
        """Seconds before the next call, after call `attempt` (from 1) failed. `jitter`: from 0 to 1."""
        return backoff(attempt, self.base, self.cap, jitter)
