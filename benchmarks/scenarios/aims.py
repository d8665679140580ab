"""Every target of docs/performance.md in one run: curves, scale, a real vLLM. What this machine cannot run is left
out."""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.peers.common import PEERS
from benchmarks.report import Result, Target, finish
from benchmarks.scenarios import curves, live, scale
from benchmarks.scenarios.full_server import PAIRS
from benchmarks.sweep import AGENTS, BARE, CONCURRENCIES, FANS, LATENCY_MS, PARLEY
from tests.rig.vllm.install import Unavailable

MOST = CONCURRENCIES[-1]
CELERY = "celery"
# docs/performance.md says which of these are met.
CALLS_PER_SECOND = 1_200.0
OVER_BARE = 0.4
OVER_CELERY = 10.0
ALONE_MS = 10.0
HALF_MS = 100.0
AGENT_COST = 1.2

Row = Mapping[str, Any]


def judge(found: Mapping[str, Any]) -> Result:
    """`found`: as `curves` writes it. Ratios are medians of the ratios within a run."""
    runs = found["runs"]
    rates = [_rate(run, PARLEY, MOST) for run in runs]
    targets = [
        Target(f"agent calls/s, {MOST} × {AGENTS}", _median(rates), CALLS_PER_SECOND, at_least=True),
        Target("… over the bare loop's", _ratio(runs, BARE), OVER_BARE, at_least=True),
    ]
    if any(_rate(run, CELERY, MOST) for run in runs):
        targets.append(Target("… over the Celery chord's", _ratio(runs, CELERY), OVER_CELERY, at_least=True))
    alone = _median([row["p50_ms"] for run in runs if (row := _row(run, PARLEY, 1))])
    targets.append(Target("p50 of one at a time, over the model's own", alone - LATENCY_MS, ALONE_MS, "ms"))
    half = next((row for row in found["arrivals"] if row["share"] == 0.5), None)
    if half is not None:
        name = "p99 at half of saturation, over the bare loop's"
        targets.append(Target(name, half["added_p99_ms"], HALF_MS, "ms"))
    cost = found["cost_of_an_agent"].get(PARLEY)
    if cost is not None:
        targets.append(Target(f"an agent of {FANS[-1]} over one of {AGENTS}", cost["time"], AGENT_COST))
    figures = {"lowest agent calls/s": min(rates), "highest agent calls/s": max(rates)}
    skipped = "; ".join(found["skipped"]) or "no peer was skipped"
    how = f"medians of {len(runs)} runs, model {LATENCY_MS:g} ms; {skipped}"
    return Result("curves", how, targets, figures)


def _row(run: Row, system: str, concurrency: int) -> Row | None:
    wanted = (system, concurrency, AGENTS)
    rows = [row for row in run["points"] if (row["system"], row["concurrency"], row["agents"]) == wanted]
    return rows[0] if rows else None


def _rate(run: Row, system: str, concurrency: int) -> float:
    row = _row(run, system, concurrency)
    return 0.0 if row is None else float(row["calls_per_second"])


def _ratio(runs: Sequence[Row], other: str) -> float:
    return _median([_rate(run, PARLEY, MOST) / rate for run in runs if (rate := _rate(run, other, MOST))])


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else 0.0


async def run(runs: int, folder: Path, *, quick: bool) -> list[Result]:
    found = [judge(await curves.run(runs, folder / "curves.json", list(PEERS), quick=quick))]
    if quick:
        return found
    found += await scale.run(list(scale.SCENARIOS))
    try:
        found.append(await live.run_anywhere(None, PAIRS))
    except Unavailable as reason:
        print(f"live: left out, {reason}", flush=True)
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=5, help="of the curves")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="for curves.json and aims.json"
    )
    parser.add_argument("--quick", action="store_true", help="short curves and nothing else: to try it out")


def main(options: argparse.Namespace) -> int:
    found = uvloop.run(run(options.runs, options.out, quick=options.quick))
    told = {"machine": curves.machine(), "aims": [each.as_dict() for each in found]}
    (options.out / "aims.json").write_text(json.dumps(told, indent=1) + "\n")
    return finish(found, None)
