"""How the soak counts endings, and a run of seconds with everything in it."""

import argparse
import json
import time

import pytest
from nats.aio.msg import Msg

from benchmarks.scenarios import soak
from benchmarks.scenarios.soak import LATE_SECONDS, LIMITS, SHOWN, STREAMS, Load
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.nats_client import NatsClient as Nats


class Silent(JetStream):
    """Sends nothing: only received messages count here."""

    def __init__(self) -> None:
        pass


async def hear(load: Load, task_id: str, status: str = "completed") -> None:
    await load._hear(
        Msg(Nats(), topology.COMPLETED, "", json.dumps({"task_id": task_id, "status": status}).encode())
    )


async def test_an_ending_is_counted_once_and_a_second_one_as_doubled() -> None:
    load = Load(Silent(), waiting={"t-1": time.monotonic() + 10})
    await hear(load, "t-1")
    assert (load.ended, load.waiting, load.late, load.doubled) == ({"t-1": "completed"}, {}, 0, 0)
    await hear(load, "t-1")
    assert (len(load.ended), load.doubled) == (1, 1)


async def test_an_ending_after_its_time_is_late_and_a_missing_one_is_lost() -> None:
    long_ago = time.monotonic() - LATE_SECONDS - 0.1
    load = Load(Silent(), waiting={"t-1": long_ago, "t-2": long_ago, "t-3": time.monotonic()})
    await hear(load, "t-1", "timeout")
    assert (load.late, load.lost) == (1, 1)


def test_every_stream_is_judged() -> None:
    judged = {limit.name for limit in LIMITS}
    assert set(STREAMS.values()) <= judged
    assert {stream.name for stream in topology.streams()} == set(STREAMS)
    assert judged - {"results", "tallies MiB"} <= set(SHOWN)


@pytest.mark.timeout(90)
async def test_a_run_of_seconds_ends_well_and_shows_its_samples(capsys: pytest.CaptureFixture[str]) -> None:
    assert await soak.run(argparse.Namespace(minutes=0.1, rate=10.0, pool="local"))
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    assert len(rows) > 10
    assert {line.count("|") for line in rows} == {len(SHOWN) + 3}
    assert any("cancelled" in line and "completed" in line and "failed" in line for line in lines)
    assert {"ok lost: 0", "ok late: 0", "ok doubled: 0"} <= {" ".join(line.split()) for line in lines}
