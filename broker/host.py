"""Process tuning (garbage collector, scheduling class), and child processes that end with their parent."""

import asyncio
import ctypes
import gc
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

# New objects before the garbage collector runs. With Python's 700 it runs several times for each deliberation
# and finds next to nothing: reference counting frees messages, tasks and futures. That took a seventh of the
# service's time (measured). Cyclic garbage waits a little longer: a few MiB.
GC_THRESHOLD = 10_000
# For a child to become ready, and to end after SIGTERM before it is killed.
START_TIMEOUT_SECONDS = 15.0
STOP_TIMEOUT_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>

Fact = TypeVar("Fact")


def tune_gc() -> None:
    """Exempt the objects that exist now from garbage collection, since they stay; collect new objects less often."""
    gc.collect()
    gc.freeze()
    _, middle, old = gc.get_threshold()
    gc.set_threshold(GC_THRESHOLD, middle, old)


def use_batch_scheduling() -> None:
    """Put every present and future thread into Linux's SCHED_BATCH: a thread that wakes interrupts no running one.

    A message passes five processes. Where they share a machine, the interruptions cost a fifth of the throughput and a
    third of the p99 (docs/performance.md). This needs no rights.
    """
    if sys.platform != "linux":
        return
    for thread in Path("/proc/self/task").iterdir():
        _batch(int(thread.name))


def _batch(thread: int) -> None:
    with suppress(OSError):  # the thread has just ended, or a sandbox forbids it
        os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))


@asynccontextmanager
async def child(
    command: Sequence[str],
    ready: Callable[[Process], Awaitable[Fact]],
    *,
    stdout: int = DEVNULL,
    stderr: int | None = DEVNULL,
    pass_fds: Sequence[int] = (),
) -> AsyncIterator[tuple[Process, Fact]]:
    """Run `command` until the block ends, or until this process ends. Yields the process and what `ready` returned.

    The child reads nothing from stdin and has a session of its own: Ctrl-C does not reach it, so its parent decides the
    order in which things stop. Raises what `ready` raises, or TimeoutError when that takes longer than
    START_TIMEOUT_SECONDS.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=DEVNULL,
        stdout=stdout,
        stderr=stderr,
        pass_fds=pass_fds,
        start_new_session=True,
        preexec_fn=child_setup,
    )
    try:
        async with asyncio.timeout(START_TIMEOUT_SECONDS):
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


def child_setup() -> None:
    """Runs in a child between fork and exec: batch scheduling, and an end with the parent. Linux."""
    if sys.platform == "linux":
        end_with_parent()
        _batch(0)  # a fork has one thread


def end_with_parent() -> None:
    """Runs in a child between fork and exec: the child gets SIGTERM when its parent ends, however that ends. Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
