"""How far two cores go. Each scenario starts what it needs and stops it. The pool is Ray."""

import argparse
import os
from collections.abc import Awaitable, Callable, Sequence

import uvloop

from benchmarks.report import Result, add_json, finish
from benchmarks.scenarios import backlog, full_server, in_flight, startup

# The function, and what `--count` is by default.
SCENARIOS: dict[str, tuple[Callable[[int], Awaitable[Result]], int]] = {
    "in-flight": (in_flight.run, in_flight.COUNT),
    "backlog": (backlog.run, backlog.COUNT),
    "startup": (startup.run, startup.RUNS),
    "full-server": (full_server.run, full_server.PAIRS),
}


async def run(names: Sequence[str], count: int | None = None) -> list[Result]:
    results = []
    for name in names:
        scenario, default = SCENARIOS[name]
        print(f"{name} (load average {os.getloadavg()[0]:.1f})", flush=True)
        results.append(await scenario(count or default))
    return results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scenario", nargs="?", choices=(*SCENARIOS, "all"), default="all")
    parser.add_argument(
        "--count", type=int, help="deliberations, starts, or pairs of runs; only for one scenario"
    )
    add_json(parser)


def main(options: argparse.Namespace) -> int:
    if options.count is not None and (options.count < 1 or options.scenario == "all"):
        raise SystemExit("--count: at least 1, and for one scenario")
    names = list(SCENARIOS) if options.scenario == "all" else [options.scenario]
    return finish(uvloop.run(run(names, options.count)), options.json)
