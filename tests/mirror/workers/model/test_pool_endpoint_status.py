"""How all workers of a pool see the endpoints, and the openings of those that are gone."""

from parley.workers.model.breaker import BreakerState, BreakerStatus
from parley.workers.model.pool_endpoint_status import EndpointStatus, EndpointStatuses


def counts(closed: int = 0, half_open: int = 0, opened: int = 0) -> dict[BreakerState, int]:
    return {BreakerState.CLOSED: closed, BreakerState.HALF_OPEN: half_open, BreakerState.OPEN: opened}


def test_every_endpoint_and_every_state_is_there_before_the_first_worker() -> None:
    assert EndpointStatuses(["a:1", "b:1"]).by_endpoint == {
        "a:1": EndpointStatus(counts(), 0),
        "b:1": EndpointStatus(counts(), 0),
    }


def test_a_new_worker_has_all_breakers_closed() -> None:
    statuses = EndpointStatuses(["a:1"])
    statuses.add_worker(1)
    statuses.add_worker(2)
    assert statuses.by_endpoint == {"a:1": EndpointStatus(counts(closed=2), 0)}


def test_the_latest_report_of_each_worker_counts() -> None:
    statuses = EndpointStatuses(["a:1"])
    statuses.add_worker(1)
    statuses.add_worker(2)
    statuses.update(1, [BreakerStatus("a:1", BreakerState.OPEN, 1)])
    assert statuses.by_endpoint["a:1"] == EndpointStatus(counts(closed=1, opened=1), 1)
    statuses.update(1, [BreakerStatus("a:1", BreakerState.HALF_OPEN, 3)])
    statuses.update(2, [BreakerStatus("a:1", BreakerState.OPEN, 1)])
    assert statuses.by_endpoint["a:1"] == EndpointStatus(counts(half_open=1, opened=1), 4)


def test_a_removed_worker_counts_no_more_but_its_openings_do() -> None:
    statuses = EndpointStatuses(["a:1"])
    statuses.add_worker(1)
    statuses.update(1, [BreakerStatus("a:1", BreakerState.OPEN, 2)])
    statuses.remove_worker(1)
    assert statuses.by_endpoint["a:1"] == EndpointStatus(counts(), 2)
    statuses.add_worker(1)
    statuses.update(1, [BreakerStatus("a:1", BreakerState.OPEN, 1)])
    assert statuses.by_endpoint["a:1"] == EndpointStatus(counts(opened=1), 3)


def test_two_endpoints_on_one_host_and_port_are_counted_together() -> None:
    statuses = EndpointStatuses(["a:1", "a:1"])
    statuses.add_worker(1)
    statuses.update(
        1, [BreakerStatus("a:1", BreakerState.OPEN, 1), BreakerStatus("a:1", BreakerState.CLOSED, 0)]
    )
    assert statuses.by_endpoint == {"a:1": EndpointStatus(counts(closed=1, opened=1), 1)}
