"""In how many workers of a pool each endpoint's breaker is open. For operators and readiness."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from parley.workers.model.breaker import BreakerState, BreakerStatus


class EndpointStatus(NamedTuple):
    """One endpoint.

    `workers`: how many have its breaker in each state. `openings`: by all workers there have been.
    """

    workers: Mapping[BreakerState, int]
    openings: int


class EndpointStatuses:
    """`endpoints`: the labels (`host:port`) of all. Those with the same label are counted together."""

    def __init__(self, endpoints: Iterable[str]) -> None:
        self._endpoints = tuple(endpoints)
        # The latest report of each worker: one status an endpoint, in their order.
        self._reports: dict[int, Sequence[BreakerStatus]] = {}
        # By endpoint, over all workers there have been.
        self._openings: Counter[str] = Counter()

    def set_endpoints(self, endpoints: Iterable[str]) -> None:
        """From now on there are these. Workers report them as soon as they know."""
        self._endpoints = tuple(endpoints)

    def add_worker(self, worker: int) -> None:
        """Count a new worker. All its breakers are closed."""
        self._reports[worker] = [
            BreakerStatus(endpoint, BreakerState.CLOSED, 0) for endpoint in self._endpoints
        ]

    def update(self, worker: int, statuses: Sequence[BreakerStatus]) -> None:
        """A report of a worker that was added: one status an endpoint, in the order of its endpoints."""
        before = _openings(self._reports[worker])
        for endpoint, openings in _openings(statuses).items():
            # Fewer than before: its servers were set anew, and their breakers with them.
            self._openings[endpoint] += openings - (before[endpoint] if before[endpoint] <= openings else 0)
        self._reports[worker] = statuses

    def remove_worker(self, worker: int) -> None:
        """Forget a worker, but not its openings."""
        self._reports.pop(worker, None)

    @property
    def by_endpoint(self) -> Mapping[str, EndpointStatus]:
        """By label. Contains every endpoint and every state."""
        workers = Counter(
            (status.endpoint, status.state) for report in self._reports.values() for status in report
        )
        return {
            endpoint: EndpointStatus(
                {state: workers[endpoint, state] for state in BreakerState}, self._openings[endpoint]
            )
            for endpoint in self._endpoints
        }


def _openings(statuses: Iterable[BreakerStatus]) -> Counter[str]:
    found: Counter[str] = Counter()
    for status in statuses:
        found[status.endpoint] += status.openings
    return found
