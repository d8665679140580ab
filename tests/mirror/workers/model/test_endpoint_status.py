"""What the workers of a pool see of the endpoints, added up: those that are there, and what those that are gone had opened."""

from parley.workers.model.balancer import BreakerStatus
from parley.workers.model.breaker import BreakerState
from parley.workers.model.endpoint_status import EndpointStatus, EndpointStatuses


def counts(closed: int = 0, half_open: int = 0, opened: int = 0) -> dict[BreakerState, int]:
    return {BreakerState.CLOSED: closed, BreakerState.HALF_OPEN: half_open, BreakerState.OPEN: opened}


def test_every_endpoint_and_every_state_is_there_before_anybody_has_joined() -> None:
    assert EndpointStatuses(["a:1", "b:1"]).by_endpoint == {
        "a:1": EndpointStatus(counts(), 0),
        "b:1": EndpointStatus(counts(), 0),
    }


def test_a_worker_that_told_nothing_yet_has_all_closed() -> None:
    statuses = EndpointStatuses(["a:1"])
    statuses.add_worker(1)
    statuses.add_worker(2)
    assert statuses.by_endpoint == {"a:1": EndpointStatus(counts(closed=2), 0)}


def test_the_latest_word_of_each_worker_counts() -> None:
    statuses = EndpointStatuses(["a:1"])
    statuses.add_worker(1)
    statuses.add_worker(2)
    statuses.update(1, [BreakerStatus("a:1", BreakerState.OPEN, 1)])
    assert statuses.by_endpoint["a:1"] == EndpointStatus(counts(closed=1, opened=1), 1)
    statuses.update(1, [BreakerStatus("a:1", BreakerState.HALF_OPEN, 3)])
    statuses.update(2, [BreakerStatus("a:1", BreakerState.OPEN, 1)])
    assert statuses.by_endpoint["a:1"] == EndpointStatus(counts(half_open=1, opened=1), 4)


def test_a_worker_that_is_gone_sees_nothing_but_what_it_opened_stays_counted() -> None:
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
