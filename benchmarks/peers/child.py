"""A process that a peer needs: started, watched, and ended by its id."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import descendants
from benchmarks.systems import System
from parley.broker.host import child_setup

START_SECONDS = 30.0
STOP_SECONDS = 10.0
ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True, slots=True)
class Child:
    process: asyncio.subprocess.Process
    log: Path

    def last_words(self) -> str:
        return " ".join(self.log.read_text(errors="replace").split())[-300:]


@asynccontextmanager
async def child(
    command: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Child]:
    """Run it until the block ends. What it says goes to `log`."""
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,  # Ctrl-C is ours to handle: workers go first, what they talk to goes last
            preexec_fn=child_setup,
        )
    try:
        yield Child(process, log)
    finally:
        await _stop(process)


def module(*arguments: str) -> list[str]:
    """The command for `python -m …` in this environment."""
    return [sys.executable, "-m", *arguments]


async def answering(system: System, worker: Child) -> None:
    """Wait for a first deliberation, however long the worker takes to come up. Raises RuntimeError if it never does."""
    first = asyncio.ensure_future(system.deliberate(1))
    ended = asyncio.ensure_future(worker.process.wait())
    done, late = await asyncio.wait(
        {first, ended}, timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED
    )
    for task in late:
        task.cancel()
    if ended in done:
        raise RuntimeError(f"its worker exited with {ended.result()}: {worker.last_words()}")
    if first not in done:
        raise RuntimeError(f"no answer within {START_SECONDS:g} s: {worker.last_words()}")
    first.result()


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    below = descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), STOP_SECONDS)
    except TimeoutError:
        for pid in [process.pid, *below]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await process.wait()
