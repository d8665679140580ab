"""The soak's books, its looks at processes, and a run of seconds with everything in it."""

import argparse
import asyncio
import json
import os
import sys
import time

import pytest
from nats.aio.msg import Msg

from benchmarks import soak
from benchmarks.machine import descendants
from benchmarks.soak import FIGURES, LATE_SECONDS, SHOWN, STREAMS, Load, actors, open_files
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.nats_client import NatsClient as Nats


class Still(JetStream):
    """Nothing is sent: only what is heard counts here."""

    def __init__(self) -> None:
        pass


async def hear(load: Load, task_id: str, status: str = "completed") -> None:
    # Only read: nothing here sends.
    await load._hear(
        Msg(Nats(), topology.COMPLETED, "", json.dumps({"task_id": task_id, "status": status}).encode())
    )


async def test_an_ending_is_counted_once_and_a_second_one_is_told() -> None:
    load = Load(Still(), waiting={"t-1": time.monotonic() + 10})
    await hear(load, "t-1")
    assert (load.ended, load.waiting, load.late, load.doubled) == ({"t-1": "completed"}, {}, 0, 0)
    await hear(load, "t-1")
    assert (len(load.ended), load.doubled) == (1, 1)


async def test_an_ending_after_its_time_is_late_and_one_that_never_came_is_lost() -> None:
    long_ago = time.monotonic() - LATE_SECONDS - 0.1
    load = Load(Still(), waiting={"t-1": long_ago, "t-2": long_ago, "t-3": time.monotonic()})
    await hear(load, "t-1", "timeout")
    assert (load.late, load.lost) == (1, 1)


async def test_what_was_started_below_a_process_is_found_and_nobody_elses() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    await process.stdout.readline()  # the grandchild runs
    mine = set(descendants(os.getpid()))
    below = set(descendants(process.pid))
    assert len(below) == 1
    assert {process.pid, *below} <= mine
    assert os.getppid() not in mine
    assert actors(process.pid) == []
    process.stdin.close()
    await process.wait()


def test_open_files_are_counted() -> None:
    before = open_files(os.getpid())
    reading, writing = os.pipe()
    assert open_files(os.getpid()) == before + 2
    os.close(reading)
    os.close(writing)


def test_every_stream_is_judged() -> None:
    judged = {figure.name for figure in FIGURES}
    assert set(STREAMS.values()) <= judged
    assert {stream.name for stream in topology.streams()} == set(STREAMS)
    assert judged - {"results", "tallies MiB"} <= set(SHOWN)


@pytest.mark.timeout(90)
async def test_a_run_of_seconds_ends_well_and_shows_what_it_saw(capsys: pytest.CaptureFixture[str]) -> None:
    assert await soak.run(argparse.Namespace(minutes=0.1, rate=10.0, pool="local"))
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    assert len(rows) > 10
    assert {line.count("|") for line in rows} == {len(SHOWN) + 3}
    assert any("cancelled" in line and "completed" in line and "failed" in line for line in lines)
    assert {"ok lost: 0", "ok late: 0", "ok doubled: 0"} <= {" ".join(line.split()) for line in lines}
