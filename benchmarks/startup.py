"""How long `parley up` takes from nothing (nats-server, Ray, simulated model, service) until it is ready for work."""

import asyncio
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import free_port
from benchmarks.parts import plain_environment
from benchmarks.service import ready
from benchmarks.targets import Found, Target

RUNS = 3
# What a person waits without wondering.
MOST_SECONDS = 15.0
PATIENCE_SECONDS = 120.0
WORDS = b"Parley is up."


async def once() -> tuple[float, float]:
    """Seconds until /readyz answers 200, and until it says that it is up."""
    with tempfile.TemporaryDirectory(prefix="parley-scale-") as home:
        port = free_port()
        log = Path(home) / "errors"
        with log.open("wb") as errors:
            started = time.perf_counter()
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-u", "-m", "parley", "up"),
                env=plain_environment(PARLEY_HOME=home, PARLEY_HTTP_PORT=str(port)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
            )
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                said = asyncio.create_task(_said(process))
                await ready(f"http://127.0.0.1:{port}/readyz", process, log)
                return time.perf_counter() - started, await said - started
        except (TimeoutError, RuntimeError) as error:
            raise RuntimeError(f"not up: {log.read_text(errors='replace')[-1_000:]}") from error
        finally:
            await _stop(process)


async def _said(process: asyncio.subprocess.Process) -> float:
    assert process.stdout is not None
    async for line in process.stdout:
        if WORDS in line:
            return time.perf_counter()
    raise RuntimeError("it ended before it was up")


async def _stop(process: asyncio.subprocess.Process) -> None:
    """As Ctrl-C does; what it says meanwhile is read, so that it is not kept from ending."""
    if process.returncode is None:
        process.send_signal(signal.SIGINT)
    try:
        await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()


async def run(runs: int = RUNS) -> Found:
    found = []
    for number in range(runs):
        found.append(await once())
        print(
            f"  {number + 1} of {runs}: ready after {found[-1][0]:.1f} s, said so after {found[-1][1]:.1f} s",
            flush=True,
        )
    return judge(found)


def judge(found: Sequence[tuple[float, float]]) -> Found:
    """The later of both counts."""
    whole = [max(each) for each in found]
    targets = [Target(f"until it is up, median of {len(found)}", statistics.median(whole), MOST_SECONDS, "s")]
    figures = {f"start {place}, seconds": seconds for place, seconds in enumerate(whole, 1)}
    return Found("startup", "parley up with its own nats-server, Ray and simulated model", targets, figures)
