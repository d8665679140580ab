"""The scenarios of `make scale` on a small scale: that they run, and lose nothing."""

import pytest

from benchmarks import backlog, flight
from benchmarks.targets import Found


def value(found: Found, name: str) -> float:
    (only,) = [target.value for target in found.targets if target.name == name]
    return only


@pytest.mark.ray
async def test_many_in_flight_all_end_once_in_both_rounds() -> None:
    # Memory and growth are not judged: a service that has just started still grows.
    found = await flight.run(30, model_seconds=3.0, settle_seconds=0.0)
    assert value(found, "completed, fewest of both") == 30
    assert value(found, "ended twice") == 0
    assert value(found, "in flight at once") == 30
    assert found.figures["lines in the service's log"] == 0


@pytest.mark.ray
async def test_a_queue_that_waited_for_the_service_is_drained() -> None:
    found = await backlog.run(200)
    assert value(found, "completed") == 200
