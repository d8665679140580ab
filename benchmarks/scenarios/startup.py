"""How long `parley up` takes from nothing (nats-server, Ray, simulated model, service) until it is ready for work."""

import signal
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from benchmarks.report import Result, Target
from tests.rig.child import answers, module, started
from tests.rig.proc import free_port
from tests.rig.service import plain_environment
from tests.rig.waiting import until

RUNS = 3
# A user waits this long without asking why.
MOST_SECONDS = 15.0
PATIENCE_SECONDS = 120.0
READY_LINE = "Parley is up."


async def once() -> float:
    """Seconds until /readyz answers 200 and the ready line is printed, whichever is later."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="parley-startup-") as home:
        began = time.perf_counter()
        environment = plain_environment(
            PARLEY_HOME=home,
            PARLEY_HTTP_PORT=str(port),
            PARLEY_GATEWAY_PORT="0",
            PARLEY_GATEWAY_GRPC_PORT="0",
            PYTHONUNBUFFERED="1",
        )
        process = await started(module("parley", "up"), Path(home) / "up.log", environment)
        try:
            async with aiohttp.ClientSession() as http:
                url = f"http://127.0.0.1:{port}/readyz"
                await process.ready(lambda: answers(http, url), PATIENCE_SECONDS)
            await until(lambda: READY_LINE in process.log.read_text(errors="replace"), READY_LINE)
            return time.perf_counter() - began
        finally:
            await process.stop(signal.SIGINT, PATIENCE_SECONDS)


async def run(runs: int = RUNS) -> Result:
    found = []
    for number in range(runs):
        found.append(await once())
        print(f"  {number + 1} of {runs}: up after {found[-1]:.1f} s", flush=True)
    return judge(found)


def judge(found: Sequence[float]) -> Result:
    name = f"until it is up, median of {len(found)}"
    targets = [Target(name, statistics.median(found), MOST_SECONDS, "s")]
    figures = {f"start {place}, seconds": seconds for place, seconds in enumerate(found, 1)}
    return Result("startup", "parley up with its own nats-server, Ray and simulated model", targets, figures)
