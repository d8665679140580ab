"""Medians over runs, and the figures that follow from them."""

from typing import Any

import pytest

from benchmarks.scenarios.curves import agent_costs, arrivals, medians


def row(system: str, concurrency: int, agents: int, calls: float, cpu: float | None = 1.0) -> dict[str, Any]:
    return {
        "system": system, "concurrency": concurrency, "agents": agents, "calls_per_second": calls,
        "deliberations_per_second": calls / agents, "p50_ms": 1000 / calls, "p99_ms": 2000 / calls,
        "cpu_ms_per_call": cpu,
    }  # fmt: skip


def run(*rows: dict[str, Any], **opened: tuple[float, float]) -> dict[str, Any]:
    return {
        "points": list(rows),
        "open": [{"share": 0.5, **{name: _open(*figures) for name, figures in opened.items()}}]
        if opened
        else [],
    }


def _open(rate: float, p99_ms: float) -> dict[str, float]:
    return {"rate": rate, "p50_ms": p99_ms / 2, "p99_ms": p99_ms, "cpu_ms_per_call": 2.0}


def test_each_system_and_point_has_its_median() -> None:
    found = medians([run(row("parley", 1, 3, calls), row("bare", 1, 3, 2 * calls)) for calls in (10, 90, 20)])
    assert [(each["system"], each["calls_per_second"], each["p50_ms"]) for each in found] == [
        ("parley", 20, 50),
        ("bare", 40, 25),
    ]


def test_a_point_that_a_run_left_out_has_the_median_of_the_others() -> None:
    (found,) = medians([run(row("actor", 4, 3, 1.0)), run(), run(row("actor", 4, 3, 2.0))])
    assert (found["calls_per_second"], found["runs"]) == (1.5, 2)


def test_an_unknown_figure_has_no_median() -> None:
    (found,) = medians([run(row("actor", 1, 3, 1.6, cpu=None))])
    assert (found["calls_per_second"], found["cpu_ms_per_call"]) == (1.6, None)


def test_the_added_latency_is_the_median_of_the_differences_within_a_run() -> None:
    (found,) = arrivals(
        [
            run(parley=(100, 90), bare=(100, 60)),  # +30
            run(parley=(110, 200), bare=(110, 180)),  # +20: both slow
            run(parley=(120, 100), bare=(120, 60)),  # +40
            run(),
        ]
    )
    wanted = {
        "share": 0.5, "rate": 110, "parley_p99_ms": 100, "bare_p99_ms": 60, "added_p99_ms": 30,
        "cpu_ms_per_call": 2.0,
    }  # fmt: skip
    assert {name: found[name] for name in wanted} == wanted


def test_without_an_open_loop_there_are_no_arrivals() -> None:
    assert arrivals([run()]) == []


def test_the_cost_of_an_agent_is_a_ratio_within_a_run() -> None:
    runs = [
        run(row("parley", 64, 3, 600, cpu=3.0), row("parley", 3, 64, 1200, cpu=1.5), row("actor", 1, 3, 1.6)),
        run(row("parley", 64, 3, 300, cpu=4.0), row("parley", 3, 64, 500, cpu=2.4)),
    ]
    costs = agent_costs(runs)
    assert list(costs) == ["parley"]
    assert costs["parley"] == {"time": pytest.approx(0.55), "cpu": pytest.approx(0.55)}
