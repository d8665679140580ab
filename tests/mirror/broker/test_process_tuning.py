"""Process tuning, each in a process of its own, since it cannot be undone."""

import subprocess
import sys

import pytest

linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux's scheduler")


def told(script: str) -> list[str]:
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()


@linux
def test_every_present_and_future_thread_gets_batch_scheduling() -> None:
    script = """
import os, threading
from parley.broker.process_tuning import use_batch_scheduling
before, go = threading.Event(), threading.Event()
policies = []
def look():
    before.set()
    go.wait()
    policies.append(os.sched_getscheduler(0))
there = threading.Thread(target=look)
there.start()
before.wait()
use_batch_scheduling()
later = threading.Thread(target=look)
later.start()
go.set()
there.join()
later.join()
print(os.sched_getscheduler(0), *policies, os.SCHED_BATCH)
"""
    main, *threads, batch = told(script)
    assert [main, *threads] == [batch] * 3


@linux
def test_a_child_has_batch_scheduling_from_its_start() -> None:
    script = """
import os, subprocess, sys
from parley.broker.child_process import child_setup
ask = "import os; print(os.sched_getscheduler(0) == os.SCHED_BATCH)"
subprocess.run([sys.executable, "-c", ask], preexec_fn=child_setup, check=True)
print(os.sched_getscheduler(0) == os.SCHED_BATCH)
"""
    assert told(script) == ["True", "False"]


def test_where_it_is_forbidden_nothing_happens() -> None:
    script = """
import os
def forbidden(*_):
    raise PermissionError(1, "Operation not permitted")
os.sched_setscheduler = forbidden
from parley.broker.process_tuning import use_batch_scheduling
use_batch_scheduling()
print("on")
"""
    assert told(script) == ["on"]


def test_the_garbage_collector_runs_rarely_and_skips_what_exists_already() -> None:
    script = """
import gc
from parley.broker.process_tuning import GC_THRESHOLD, tune_gc
tune_gc()
print(gc.get_threshold()[0] == GC_THRESHOLD, gc.get_freeze_count() > 1000, gc.isenabled())
"""
    assert told(script) == ["True", "True", "True"]


# ── children ──────────────────────────────────────────────────────────────────────────────────────────────────────
