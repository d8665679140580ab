"""Small runs of two scenarios: they work, and no deliberation is lost."""

import pytest

from benchmarks.report import Result
from benchmarks.scenarios import backlog, choice_overhead, in_flight


def value(found: Result, name: str) -> float:
    (only,) = [target.value for target in found.targets if target.name == name]
    return only


@pytest.mark.ray
async def test_many_in_flight_all_end_once_in_both_rounds() -> None:
    # Memory and growth are not judged: a service that has just started still grows.
    found = await in_flight.run(30, model_seconds=3.0, settle_seconds=0.0)
    assert value(found, "completed, fewest of both") == 30
    assert value(found, "ended twice") == 0
    assert value(found, "in flight at once") == 30
    assert found.figures["lines in the service's log"] == 0


async def test_judges_are_measured_beside_bare_calls() -> None:
    found = await choice_overhead.run(1, alone=3, crowd=8)
    assert value(found, "added to two bare rounds") > 0
    assert value(found, "calls/s, of those of select: none") > 0


@pytest.mark.ray
async def test_a_queue_that_waits_for_the_service_is_worked_off() -> None:
    found = await backlog.run(200)
    assert value(found, "completed") == 200
