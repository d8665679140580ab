"""Deliberations and agent calls a second, p50 and p99, at concurrency 1 and at saturation, next to a plain asyncio loop.

The plain loop makes the same calls with the same HTTP client and nothing durable around them: what is between the two is what
the queue costs. Both run in one go, in turn, so that a machine whose speed drifts drifts for both. Service, Ray, nats-server,
simulated model and load share the machine.
"""

import argparse
import json
import os
import platform
import statistics
from collections.abc import Callable
from typing import Any

import uvloop

from benchmarks import systems
from benchmarks.load import Measured, measure
from benchmarks.service import Serving, serving
from benchmarks.systems import Parley
from parley.client import Client, connect


async def parley(client: Client, *, concurrency: int, count: int, agents: int) -> Measured:
    system = Parley(client)
    return await measure(
        lambda: system.deliberate(agents), concurrency=concurrency, count=count, agents=agents
    )


async def bare(model_url: str, *, concurrency: int, count: int, agents: int) -> Measured:
    async with systems.bare(model_url, connections=concurrency * agents) as system:
        return await measure(
            lambda: system.deliberate(agents), concurrency=concurrency, count=count, agents=agents
        )


async def run(options: argparse.Namespace) -> dict[str, Any]:
    serve = serving(pool=options.pool, latency_ms=options.latency_ms, sync_always=options.sync_always)
    async with serve as service, connect(service.nats_url) as client:
        idle = service.resident_mib()
        rows = [await _pair(service, client, options) for _ in range(options.runs)]
    return {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "pool": options.pool,
        "latency_ms": options.latency_ms,
        "agents": options.agents,
        "service_idle_mib": idle,
        "runs": rows,
    }


async def _pair(service: Serving, client: Client, options: argparse.Namespace) -> dict[str, Any]:
    alone: dict[str, Any] = {"concurrency": 1, "count": options.alone, "agents": options.agents}
    busy: dict[str, Any] = {
        "concurrency": options.concurrency,
        "count": options.count,
        "agents": options.agents,
    }
    return {
        "bare_alone": (await bare(service.model_url, **alone)).as_dict(),
        "parley_alone": (await parley(client, **alone)).as_dict(),
        "bare_busy": (await bare(service.model_url, **busy)).as_dict(),
        "parley_busy": (await parley(client, **busy)).as_dict(),
    }


def report(found: dict[str, Any]) -> str:
    """Medians over the runs, as text."""
    runs = found["runs"]

    def median(side: str, figure: str) -> float:
        return float(statistics.median(run[side][figure] for run in runs))

    what = f"pool {found['pool']}, model {found['latency_ms']:g} ms, {found['agents']} agents, medians of {len(runs)} runs"
    lines = [
        f"{found['machine']}; {what}",
        "",
        f"{'':<34}{'deliberations/s':>16}{'agent calls/s':>15}{'p50 ms':>9}{'p99 ms':>9}",
    ]
    names = {
        "bare_alone": "plain asyncio loop, one at a time",
        "parley_alone": "Parley, one at a time",
        "bare_busy": "plain asyncio loop, {concurrency:g} at a time",
        "parley_busy": "Parley, {concurrency:g} at a time",
    }
    lines += [
        _row(name.format(concurrency=median(side, "concurrency")), side, median)
        for side, name in names.items()
    ]
    added = statistics.median(run["parley_alone"]["p50_ms"] - found["latency_ms"] for run in runs)
    over = statistics.median(run["parley_alone"]["p50_ms"] - run["bare_alone"]["p50_ms"] for run in runs)
    ratio = statistics.median(
        run["parley_busy"]["calls_per_second"] / run["bare_busy"]["calls_per_second"] for run in runs
    )
    lines += [
        "",
        f"added at one at a time: {added:.1f} ms over the model's own latency, {over:.1f} ms over the plain loop (p50)",
        f"throughput against the plain loop: {ratio:.2f}",
        f"the service's own process, idle: {found['service_idle_mib']:.0f} MiB",
    ]
    return "\n".join(lines)


def _row(name: str, side: str, median: Callable[[str, str], float]) -> str:
    rates = f"{median(side, 'deliberations_per_second'):>16.1f}{median(side, 'calls_per_second'):>15.1f}"
    return f"{name:<34}{rates}{median(side, 'p50_ms'):>9.1f}{median(side, 'p99_ms'):>9.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n")[0])
    parser.add_argument("--pool", choices=("ray", "local"), default="ray")
    parser.add_argument("--latency-ms", type=float, default=50.0, help="of the simulated model")
    parser.add_argument("--agents", type=int, default=3)
    parser.add_argument("--alone", type=int, default=100, help="deliberations counted at concurrency 1")
    parser.add_argument("--count", type=int, default=1500, help="deliberations counted at saturation")
    parser.add_argument("--concurrency", type=int, default=128, help="deliberations at a time at saturation")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--sync-always", action="store_true", help="have NATS sync each write to the disk before it answers"
    )
    parser.add_argument("--json", action="store_true", help="every figure of every run")
    options = parser.parse_args()
    found = uvloop.run(run(options))
    print(json.dumps(found, indent=2) if options.json else report(found))


if __name__ == "__main__":
    main()
