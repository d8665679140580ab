"""How a pool's workers see the endpoints, from what each of them told last. For an operator; nobody decides by it."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from parley.workers.model.balancer import BreakerStatus
from parley.workers.model.breaker import BreakerState


class EndpointStatus(NamedTuple):
    """How many workers have an endpoint's breaker in each state, and how often any of them opened it, those that are gone included."""

    workers: Mapping[BreakerState, int]
    openings: int


class EndpointStatuses:
    """`endpoints`: the labels (`host:port`) of all there are. Two on one host and port are counted together."""

    def __init__(self, endpoints: Iterable[str]) -> None:
        self._endpoints = tuple(endpoints)
        self._sights: dict[int, Sequence[BreakerStatus]] = {}
        self._openings: Counter[str] = Counter()

    def add_worker(self, worker: int) -> None:
        """A new one: it has seen nothing yet, so all is well."""
        self._sights[worker] = [
            BreakerStatus(endpoint, BreakerState.CLOSED, 0) for endpoint in self._endpoints
        ]

    def update(self, worker: int, statuses: Sequence[BreakerStatus]) -> None:
        """What a worker that has joined tells: one sight an endpoint, in their order."""
        for before, after in zip(self._sights[worker], statuses, strict=True):
            self._openings[after.endpoint] += after.openings - before.openings
        self._sights[worker] = statuses

    def remove_worker(self, worker: int) -> None:
        self._sights.pop(worker, None)

    @property
    def by_endpoint(self) -> Mapping[str, EndpointStatus]:
        """By endpoint; every endpoint and every state is there."""
        seen = Counter(
            (sight.endpoint, sight.state) for statuses in self._sights.values() for sight in statuses
        )
        return {
            endpoint: EndpointStatus(
                {state: seen[endpoint, state] for state in BreakerState}, self._openings[endpoint]
            )
            for endpoint in self._endpoints
        }
