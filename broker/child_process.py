"""Child processes: started, waited for until they are ready, and ended with their parent."""

import asyncio
import ctypes
import os
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from parley.broker.process_tuning import batch_thread

# For a child to become ready, and to end after SIGTERM before it is killed.
START_TIMEOUT_SECONDS = 15.0
STOP_TIMEOUT_SECONDS = 10.0
# Paths, the language, and how Python, Go and their libraries run.
CHILD_VARIABLES = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LANGUAGE|LC_.*|TZ|TMPDIR|XDG_.*|LD_LIBRARY_PATH|VIRTUAL_ENV|PYTHON[A-Z]*|COVERAGE_.*"
    r"|GOMAXPROCS|GOMEMLIMIT|GOGC|GODEBUG"
)
_PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>

Fact = TypeVar("Fact")


@asynccontextmanager
async def child(
    command: Sequence[str],
    ready: Callable[[Process], Awaitable[Fact]],
    *,
    stdout: int = DEVNULL,
    stderr: int | None = DEVNULL,
    pass_fds: Sequence[int] = (),
    start_timeout_seconds: float | None = None,
) -> AsyncIterator[tuple[Process, Fact]]:
    """Run `command` until the block ends, or until this process ends. Yields the process and what `ready` returned.

    The child gets the variables of `CHILD_VARIABLES` and no other: what is secret here is not the child's. It reads
    nothing from stdin and has a session of its own: Ctrl-C does not reach it, so its parent decides the
    order in which things stop. Raises what `ready` raises, or TimeoutError when that takes longer than
    `start_timeout_seconds`; None is START_TIMEOUT_SECONDS.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=DEVNULL,
        stdout=stdout,
        stderr=stderr,
        pass_fds=pass_fds,
        env=child_environment(),
        start_new_session=True,
        preexec_fn=child_setup,
    )
    try:
        async with asyncio.timeout(start_timeout_seconds or START_TIMEOUT_SECONDS):
            fact = await ready(process)
        yield process, fact
    finally:
        await stop(process)


async def stop(process: Process) -> None:
    """Send SIGTERM, wait STOP_TIMEOUT_SECONDS, then kill."""
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_TIMEOUT_SECONDS)
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def child_environment() -> dict[str, str]:
    """This process's variables, as far as a child needs them."""
    return {name: value for name, value in os.environ.items() if CHILD_VARIABLES.fullmatch(name)}


def child_setup() -> None:
    """Runs in a child between fork and exec: batch scheduling, and an end with the parent. Linux."""
    if sys.platform == "linux":
        end_with_parent()
        batch_thread(0)  # a fork has one thread


def end_with_parent() -> None:
    """Runs in a child between fork and exec: the child gets SIGTERM when its parent ends, however that ends. Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
