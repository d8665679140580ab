"""Children: start, ready, stop."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process

import pytest

from parley.broker import child_process
from tests import present


def python(script: str) -> tuple[str, ...]:
    return (sys.executable, "-c", script)


async def first_line(process: Process) -> str:
    return (await present(process.stdout).readline()).decode().strip()


async def test_a_child_is_ready_when_its_fact_is_known_and_ends_with_the_block() -> None:
    says = "import os, sys, time; print(len(sys.stdin.read()), os.getsid(0), flush=True); time.sleep(60)"
    async with child_process.child(python(says), first_line, stdout=PIPE) as (process, line):
        assert line == f"0 {process.pid}"  # nothing on stdin, and a session of its own
        assert process.returncode is None
    assert process.returncode == -signal.SIGTERM


async def test_a_child_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_process, "STOP_TIMEOUT_SECONDS", 0.2)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    waits = "print('deaf', flush=True); time.sleep(60)"
    async with child_process.child(python(f"{deaf}; {waits}"), first_line, stdout=PIPE) as (process, _):
        pass
    assert process.returncode == -signal.SIGKILL


async def test_a_child_that_is_never_ready_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_process, "START_TIMEOUT_SECONDS", 0.1)
    started: list[Process] = []

    async def never(process: Process) -> None:
        started.append(process)
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        async with child_process.child(python("import time; time.sleep(60)"), never):
            raise AssertionError("it was never ready")
    assert started[0].returncode is not None


async def test_a_child_that_ended_by_itself_needs_no_stopping() -> None:
    async with child_process.child(python("print('on')"), first_line, stdout=PIPE) as (process, line):
        assert line == "on"
        await process.wait()
    assert process.returncode == 0


async def test_a_child_of_a_block_that_fails_is_stopped() -> None:
    with pytest.raises(KeyError):
        async with child_process.child(
            python("import time; print(1, flush=True); time.sleep(60)"), first_line, stdout=PIPE
        ) as (process, _):
            raise KeyError
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


async def test_a_child_gets_the_variables_it_needs_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ("VLLM_API_KEY", "NATS_URL", "PARLEY_NATS_URL", "PARLEY_VLLM_URL", "RAY_AUTH_TOKEN", "HF_TOKEN")
    for name in secrets:
        monkeypatch.setenv(name, "hush")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    says = "import json, os; print(json.dumps(dict(os.environ)), flush=True)"
    async with child_process.child(python(says), first_line, stdout=PIPE) as (_, line):
        found = json.loads(line)
    assert found["PATH"] == os.environ["PATH"]
    assert found["LC_ALL"] == "C.UTF-8"
    assert "hush" not in found.values()
