"""What a process of ours asks of Python and of the machine: all of it is there for this service, and none of it is in anybody's way."""

import ctypes
import gc
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

# New objects before the collector looks at them. Python's own 700 has it look several times for each deliberation, and each time find
# nearly nothing: messages, tasks and futures are freed as they are let go of. A seventh of the service's time went there (measured).
# What cycles there are wait a little longer: a few MiB.
YOUNG = 10_000
_PR_SET_PDEATHSIG = 1


def tune_gc() -> None:
    """Leave alone whatever exists by now, which is here to stay, and have the cycle collector look at what is new less often."""
    gc.collect()
    gc.freeze()
    _, middle, old = gc.get_threshold()
    gc.set_threshold(YOUNG, middle, old)


def use_batch_scheduling() -> None:
    """Take the processor when it is free, and not from who is at work: Linux's SCHED_BATCH, for every thread there is and will be.

    A message passes five processes. Each that wakes would interrupt another in the middle of its own, and on a machine they share that
    cost a fifth of the throughput and a third of the p99 (docs/performance.md). It asks for no rights.
    """
    if sys.platform != "linux":
        return
    for thread in Path("/proc/self/task").iterdir():
        _batch(int(thread.name))


def _batch(thread: int) -> None:
    with suppress(OSError):  # it has just ended, or a sandbox does not let us
        os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))


def child_setup() -> None:
    """Called in a child between fork and exec: it gives way, and ends with us. Linux only."""
    if sys.platform == "linux":
        end_with_parent()
        _batch(0)  # the one thread that a fork leaves


def end_with_parent() -> None:
    """Called in a child between fork and exec: whatever kills us, even SIGKILL, ends the child as well. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
