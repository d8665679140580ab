"""Medians over the runs of a sweep, and what follows from them. Pure."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.points import AGENTS, FANS, fanned

FIGURES = ("deliberations_per_second", "calls_per_second", "p50_ms", "p99_ms", "cpu_ms_per_call")
Row = Mapping[str, Any]


def medians(runs: Sequence[Row]) -> list[dict[str, Any]]:
    """One row for each system and point, in the order they were first measured. `runs`: how many had it. A figure that was not
    known in any run is None."""
    found: dict[tuple[str, int, int], list[Row]] = {}
    for run in runs:
        for row in run["points"]:
            found.setdefault((row["system"], row["concurrency"], row["agents"]), []).append(row)
    return [
        {
            "system": system,
            "concurrency": concurrency,
            "agents": agents,
            "runs": len(rows),
            **{figure: _median([row[figure] for row in rows]) for figure in FIGURES},
        }
        for (system, concurrency, agents), rows in found.items()
    ]


def _median(values: Sequence[float | None]) -> float | None:
    """Of what is known; None if nothing is."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


def added_p99_ms(runs: Sequence[Row]) -> dict[str, float] | None:
    """Open-loop load at half of Parley's saturation: p99 through Parley, on the bare loop, and the median of their differences, in
    milliseconds. None if no run has both."""
    both = [run["open"] for run in runs if {"parley", "bare"} <= set(run["open"])]
    if not both:
        return None
    return {
        "rate": median(run["parley"]["rate"] for run in both),
        "parley_p99_ms": median(run["parley"]["p99_ms"] for run in both),
        "bare_p99_ms": median(run["bare"]["p99_ms"] for run in both),
        "added_p99_ms": median(run["parley"]["p99_ms"] - run["bare"]["p99_ms"] for run in both),
    }


def agent_costs(runs: Sequence[Row]) -> dict[str, dict[str, float]]:
    """By system: what one agent costs in a deliberation of the most agents, over what it costs in one of three. `time`: seconds an
    agent at saturation (one over calls a second); `cpu`: CPU time of all processes. Medians of the runs' ratios."""
    most = fanned(FANS[-1])
    few = fanned(AGENTS)
    ratios: dict[str, list[tuple[float, float]]] = {}
    for run in runs:
        rows = {(row["system"], row["concurrency"], row["agents"]): row for row in run["points"]}
        for system in dict.fromkeys(row["system"] for row in run["points"]):
            much, little = rows.get((system, most.concurrency, most.agents)), rows.get((system, few.concurrency, few.agents))
            if much is not None and little is not None:
                time = little["calls_per_second"] / much["calls_per_second"]
                ratios.setdefault(system, []).append((time, much["cpu_ms_per_call"] / little["cpu_ms_per_call"]))
    return {
        system: {"time": median(time for time, _ in pairs), "cpu": median(cpu for _, cpu in pairs)}
        for system, pairs in ratios.items()
    }
