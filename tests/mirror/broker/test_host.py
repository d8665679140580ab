"""Process tuning, each in a process of its own, since it cannot be undone; and children: start, ready, stop."""

import asyncio
import os
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE, Process

import pytest

from parley.broker import host
from tests import present

linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux's scheduler")


def told(script: str) -> list[str]:
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()


@linux
def test_every_present_and_future_thread_gets_batch_scheduling() -> None:
    script = """
import os, threading
from parley.broker.host import use_batch_scheduling
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
from parley.broker.host import child_setup
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
from parley.broker.host import use_batch_scheduling
use_batch_scheduling()
print("on")
"""
    assert told(script) == ["on"]


def test_the_garbage_collector_runs_rarely_and_skips_what_exists_already() -> None:
    script = """
import gc
from parley.broker.host import GC_THRESHOLD, tune_gc
tune_gc()
print(gc.get_threshold()[0] == GC_THRESHOLD, gc.get_freeze_count() > 1000, gc.isenabled())
"""
    assert told(script) == ["True", "True", "True"]


# ── children ──────────────────────────────────────────────────────────────────────────────────────────────────────


def python(script: str) -> tuple[str, ...]:
    return (sys.executable, "-c", script)


async def first_line(process: Process) -> str:
    return (await present(process.stdout).readline()).decode().strip()


async def test_a_child_is_ready_when_its_fact_is_known_and_ends_with_the_block() -> None:
    says = "import os, sys, time; print(len(sys.stdin.read()), os.getsid(0), flush=True); time.sleep(60)"
    async with host.child(python(says), first_line, stdout=PIPE) as (process, line):
        assert line == f"0 {process.pid}"  # nothing on stdin, and a session of its own
        assert process.returncode is None
    assert process.returncode == -signal.SIGTERM


async def test_a_child_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "STOP_TIMEOUT_SECONDS", 0.2)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    waits = "print('deaf', flush=True); time.sleep(60)"
    async with host.child(python(f"{deaf}; {waits}"), first_line, stdout=PIPE) as (process, _):
        pass
    assert process.returncode == -signal.SIGKILL


async def test_a_child_that_is_never_ready_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "START_TIMEOUT_SECONDS", 0.1)
    started: list[Process] = []

    async def never(process: Process) -> None:
        started.append(process)
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        async with host.child(python("import time; time.sleep(60)"), never):
            raise AssertionError("it was never ready")
    assert started[0].returncode is not None


async def test_a_child_that_ended_by_itself_needs_no_stopping() -> None:
    async with host.child(python("print('on')"), first_line, stdout=PIPE) as (process, line):
        assert line == "on"
        await process.wait()
    assert process.returncode == 0


async def test_a_child_of_a_block_that_fails_is_stopped() -> None:
    with pytest.raises(KeyError):
        async with host.child(
            python("import time; print(1, flush=True); time.sleep(60)"), first_line, stdout=PIPE
        ) as (process, _):
            raise KeyError
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
