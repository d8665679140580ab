"""How far it goes on two cores: many in flight, a long queue, a start, a model server that is full. `make scale`.

Each scenario starts what it needs and stops it. Ray is the pool everywhere. Ends with 1 when a target is missed.
"""

import argparse
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from benchmarks import backlog, busy, flight, startup
from benchmarks.targets import Found, table

# What `--count` is for each, and how many there are without it.
SCENARIOS: dict[str, tuple[Callable[[int], Awaitable[Found]], int]] = {
    "flight": (flight.run, flight.COUNT),
    "backlog": (backlog.run, backlog.COUNT),
    "startup": (startup.run, startup.RUNS),
    "busy": (busy.run, busy.PAIRS),
}


async def run(names: list[str], count: int | None) -> list[Found]:
    found = []
    for name in names:
        scenario, usual = SCENARIOS[name]
        print(f"{name} (load average {os.getloadavg()[0]:.1f})", flush=True)
        found.append(await scenario(count or usual))
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.split("\n")[0])
    parser.add_argument("scenario", nargs="?", choices=(*SCENARIOS, "all"), default="all")
    parser.add_argument(
        "--count", type=int, help="deliberations (flight, backlog), starts, or pairs of runs (busy)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    options = parser.parse_args(argv)
    if options.count is not None and (options.count < 1 or options.scenario == "all"):
        parser.error("--count: at least 1, and for one scenario")
    names = list(SCENARIOS) if options.scenario == "all" else [options.scenario]
    found = uvloop.run(run(names, options.count))
    print("\n" + table(found))
    if options.json is not None:
        options.json.write_text(json.dumps([each.as_dict() for each in found], indent=1) + "\n")
    return 0 if all(each.met for each in found) else 1


if __name__ == "__main__":
    sys.exit(main())
