"""What the curves came to, beside what was aimed at."""

from typing import Any

import pytest

from benchmarks.aims import judge
from benchmarks.targets import Target


def row(system: str, concurrency: int, calls_per_second: float, p50_ms: float = 0.0) -> dict[str, Any]:
    return {
        "system": system,
        "concurrency": concurrency,
        "agents": 3,
        "calls_per_second": calls_per_second,
        "p50_ms": p50_ms,
    }


def swept(*runs: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    found = {
        "runs": [{"points": points} for points in runs],
        "skipped": [],
        "arrivals": [],
        "cost_of_an_agent": {},
    }
    return {**found, **more}


def target(found: dict[str, Any], words: str) -> Target:
    (only,) = [each for each in judge(found).targets if words in each.name]
    return only


RUNS = (
    [row("parley", 1, 50, 58.0), row("parley", 128, 2_000), row("bare", 128, 4_000), row("celery", 128, 200)],
    [row("parley", 1, 50, 61.0), row("parley", 128, 1_000), row("bare", 128, 4_000), row("celery", 128, 200)],
    [row("parley", 1, 50, 59.0), row("parley", 128, 1_800), row("bare", 128, 3_000), row("celery", 128, 300)],
)


def test_ratios_are_medians_of_the_runs_own_and_not_ratios_of_medians() -> None:
    found = swept(*RUNS)
    assert target(found, "agent calls/s").value == 1_800
    assert target(found, "bare loop's").value == 0.5
    assert target(found, "Celery").value == 6
    assert not target(found, "Celery").met
    assert target(found, "one at a time").value == pytest.approx(9.0)
    assert judge(found).figures == {"lowest agent calls/s": 1_000, "highest agent calls/s": 2_000}


def test_a_peer_that_was_not_there_is_no_target_and_is_told() -> None:
    found = swept(
        [each for each in RUNS[0] if each["system"] != "celery"],
        skipped=["celery is left out: no redis-server"],
    )
    assert not [each for each in judge(found).targets if "Celery" in each.name]
    assert "no redis-server" in judge(found).how


def test_arrivals_at_half_of_saturation_and_the_cost_of_an_agent_are_taken_where_they_were_measured() -> None:
    found = swept(
        RUNS[0],
        arrivals=[{"share": 0.25, "added_p99_ms": 3.0}, {"share": 0.5, "added_p99_ms": 120.0}],
        cost_of_an_agent={"parley": {"time": 0.9, "cpu": 0.7}, "bare": {"time": 1.1, "cpu": 1.0}},
    )
    assert (target(found, "half of saturation").value, target(found, "half of saturation").met) == (
        120.0,
        False,
    )
    assert target(found, "an agent of 64").value == 0.9
    assert len(judge(swept(RUNS[0])).targets) == len(judge(found).targets) - 2


def test_a_run_in_which_a_system_failed_is_left_out_of_its_ratio() -> None:
    assert target(swept(RUNS[0], RUNS[2][:2]), "bare loop's").value == 0.5
