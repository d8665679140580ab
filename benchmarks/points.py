"""Which points of the curves are measured, and with how many deliberations each. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field

AGENTS = 3
CONCURRENCIES = (1, 4, 16, 64, 128)
FANS = (1, 3, 8, 16, 64)
# Calls kept in flight while the number of agents varies.
IN_FLIGHT = 192
# What one point may take in one run at most.
LONGEST_SECONDS = 20.0


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """`concurrency` deliberations at a time, of `agents` each."""

    concurrency: int
    agents: int

    @property
    def calls(self) -> int:
        """In flight at a time."""
        return self.concurrency * self.agents

    def __str__(self) -> str:
        return f"{self.concurrency} at a time, {self.agents} agents"


def fanned(agents: int) -> Point:
    """The point with so many agents on the curve against their number."""
    return Point(max(1, IN_FLIGHT // agents), agents)


def points(*, quick: bool = False) -> list[Point]:
    """Of both curves, each once. `quick`: the ends and one between."""
    concurrencies = CONCURRENCIES[::2] if quick else CONCURRENCIES
    fans = FANS[::2] if quick else FANS
    found = [Point(concurrency, AGENTS) for concurrency in concurrencies] + [
        fanned(agents) for agents in fans
    ]
    return list(dict.fromkeys([*found, fanned(AGENTS)]))


@dataclass(slots=True)
class Pace:
    """How fast one system has been: decides what it can be asked for next."""

    calls_per_second: float = 0.0  # the best of any point
    _rates: dict[Point, float] = field(default_factory=dict)

    def learn(self, point: Point, deliberations_per_second: float) -> None:
        self._rates[point] = deliberations_per_second
        self.calls_per_second = max(self.calls_per_second, deliberations_per_second * point.agents)

    def knows(self, point: Point) -> bool:
        return point in self._rates

    def affords(self, point: Point) -> bool:
        """Whether the least that a point needs, once round to warm up and once to count, is done in time."""
        if self.calls_per_second == 0.0:
            return True
        return 2 * point.calls / self.calls_per_second <= LONGEST_SECONDS

    def count(self, point: Point, seconds: float) -> int:
        """How many deliberations take about so long; never fewer than go at a time."""
        return max(point.concurrency, round(self._rates[point] * seconds))


def rotated(names: Sequence[str], run: int) -> list[str]:
    """Each run begins with another, so that none is always first."""
    turn = run % len(names)
    return [*names[turn:], *names[:turn]]
