"""Start a process, keep its log, stop it by its id."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from parley.broker.child_process import child_setup, end_with_parent
from tests.rig.proc import descendants
from tests.rig.waiting import until

ROOT = Path(__file__).parents[2]
STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Child:
    """`log`: holds all that the process has written."""

    process: asyncio.subprocess.Process
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def log_end(self, size: int = 2_000) -> str:
        return self.log.read_text(errors="replace")[-size:]

    async def ready(self, check: Callable[[], Awaitable[bool]], seconds: float) -> None:
        """Wait until `check()` is true. Raises RuntimeError with the end of the log if the process ends first or
        `seconds` pass."""

        async def ended_or_ready() -> bool:
            return self.process.returncode is not None or await check()

        name = self.log.stem
        try:
            await until(ended_or_ready, f"{name} is ready", seconds)
        except AssertionError as error:
            raise RuntimeError(f"{error}: {self.log_end()}") from None
        if self.process.returncode is not None:
            raise RuntimeError(f"{name} exited with {self.process.returncode}: {self.log_end()}")

    async def stop(self, sig: signal.Signals = signal.SIGTERM, seconds: float = STOP_SECONDS) -> None:
        """Send `sig` and wait. After `seconds`, kill the process and all below it."""
        if self.process.returncode is not None:
            return
        self.process.send_signal(sig)
        try:
            await asyncio.wait_for(self.process.wait(), seconds)
        except TimeoutError:
            for pid in [self.pid, *descendants(self.pid)]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            await self.process.wait()


async def started(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    *,
    folder: Path = ROOT,
    batch: bool = False,
    append: bool = False,
    own_session: bool = True,
) -> Child:
    """A process that ends when its parent ends.

    `environment` is all of it. `batch`: the process yields the processor to others, as Parley's own children do.
    `own_session`: Ctrl-C reaches only its parent, and Linux schedules it in a group of its own (autogroup). False for a
    process that is measured beside its parent.
    """
    with log.open("ab" if append else "wb") as out:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=folder,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=own_session,
            preexec_fn=child_setup if batch else end_with_parent,
        )
    return Child(process, log)


@asynccontextmanager
async def child(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    *,
    folder: Path = ROOT,
    batch: bool = False,
    own_session: bool = True,
    stop_seconds: float = STOP_SECONDS,
) -> AsyncIterator[Child]:
    """As `started`, and stopped when the block ends."""
    process = await started(command, log, environment, folder=folder, batch=batch, own_session=own_session)
    try:
        yield process
    finally:
        await process.stop(seconds=stop_seconds)


def module(*arguments: str) -> list[str]:
    """The command for `python -m …` in this environment."""
    return [sys.executable, "-m", *arguments]


async def answers(http: aiohttp.ClientSession, url: str) -> bool:
    """Whether `url` is answered with 200 now."""
    try:
        async with http.get(url) as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


async def listens(port: int) -> bool:
    """Whether a process listens on this port of loopback."""
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 1.0)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
