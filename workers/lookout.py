"""How a pool's workers see the endpoints, from what each of them told last. For an operator; nobody decides by it."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from workers.breaker import State
from workers.switchboard import Sight


class Standing(NamedTuple):
    """How many workers have an endpoint's breaker in each state, and how often any of them opened it, those that are gone included."""

    workers: Mapping[State, int]
    openings: int


class Lookout:
    """`endpoints`: the labels (`host:port`) of all there are. Two on one host and port are counted together."""

    def __init__(self, endpoints: Iterable[str]) -> None:
        self._endpoints = tuple(endpoints)
        self._sights: dict[int, Sequence[Sight]] = {}
        self._openings: Counter[str] = Counter()

    def join(self, worker: int) -> None:
        """A new one: it has seen nothing yet, so all is well."""
        self._sights[worker] = [Sight(endpoint, State.CLOSED, 0) for endpoint in self._endpoints]

    def hear(self, worker: int, sights: Sequence[Sight]) -> None:
        """What a worker that has joined tells: one sight an endpoint, in their order."""
        for before, after in zip(self._sights[worker], sights, strict=True):
            self._openings[after.endpoint] += after.openings - before.openings
        self._sights[worker] = sights

    def lose(self, worker: int) -> None:
        self._sights.pop(worker, None)

    @property
    def standings(self) -> Mapping[str, Standing]:
        """By endpoint; every endpoint and every state is there."""
        seen = Counter((sight.endpoint, sight.state) for sights in self._sights.values() for sight in sights)
        return {
            endpoint: Standing({state: seen[endpoint, state] for state in State}, self._openings[endpoint])
            for endpoint in self._endpoints
        }
