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


def arrivals(runs: Sequence[Row]) -> list[dict[str, float]]:
    """Open-loop load, one row for each share of Parley's saturation: how many arrived each second, p50 and p99 through Parley and of the
    bare loop, the median of their p99s' differences (milliseconds), and CPU time of a call through Parley (milliseconds)."""
    shares: dict[float, list[Row]] = {}
    for run in runs:
        for row in run["open"]:
            shares.setdefault(row["share"], []).append(row)
    return [
        {
            "share": share,
            "rate": median(row["parley"]["rate"] for row in rows),
            "parley_p50_ms": median(row["parley"]["p50_ms"] for row in rows),
            "parley_p99_ms": median(row["parley"]["p99_ms"] for row in rows),
            "bare_p50_ms": median(row["bare"]["p50_ms"] for row in rows),
            "bare_p99_ms": median(row["bare"]["p99_ms"] for row in rows),
            "added_p99_ms": median(row["parley"]["p99_ms"] - row["bare"]["p99_ms"] for row in rows),
            "cpu_ms_per_call": median(row["parley"]["cpu_ms_per_call"] for row in rows),
        }
        for share, rows in sorted(shares.items())
    ]


def agent_costs(runs: Sequence[Row]) -> dict[str, dict[str, float]]:
    """By system: what one agent costs in a deliberation of the most agents, over what it costs in one of three. `time`: seconds an
    agent at saturation (one over calls a second); `cpu`: CPU time of all processes. Medians of the runs' ratios."""
    most = fanned(FANS[-1])
    few = fanned(AGENTS)
    ratios: dict[str, list[tuple[float, float]]] = {}
    for run in runs:
        rows = {(row["system"], row["concurrency"], row["agents"]): row for row in run["points"]}
        for system in dict.fromkeys(row["system"] for row in run["points"]):
            much, little = (
                rows.get((system, most.concurrency, most.agents)),
                rows.get((system, few.concurrency, few.agents)),
            )
            if much is not None and little is not None:
                time = little["calls_per_second"] / much["calls_per_second"]
                ratios.setdefault(system, []).append(
                    (time, much["cpu_ms_per_call"] / little["cpu_ms_per_call"])
                )
    return {
        system: {"time": median(time for time, _ in pairs), "cpu": median(cpu for _, cpu in pairs)}
        for system, pairs in ratios.items()
    }
