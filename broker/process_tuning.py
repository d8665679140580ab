"""What a process of Parley asks of Python and Linux: rarer garbage collection, and batch scheduling."""

import gc
import os
import sys
from contextlib import suppress
from pathlib import Path

# New objects before the garbage collector runs. With Python's 700 it runs several times for each deliberation
# and finds next to nothing: reference counting frees messages, tasks and futures. That took a seventh of the
# service's time (measured). Cyclic garbage waits a little longer: a few MiB.
GC_THRESHOLD = 10_000


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
        batch_thread(int(thread.name))


def batch_thread(thread: int) -> None:
    """Put one thread, or the calling one (0), into SCHED_BATCH. Linux."""
    with suppress(OSError):  # the thread has just ended, or a sandbox forbids it
        os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))
