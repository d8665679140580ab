"""Many in flight: what is counted, and the verdict."""

import asyncio
import json
from collections import Counter

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from benchmarks.flight import MOST_MIB, Round, Sample, judge


def ending(name: str, status: str = "completed", *, degraded: bool = False) -> Msg:
    return Msg(
        _client=Client(), data=json.dumps({"task_id": name, "status": status, "degraded": degraded}).encode()
    )


async def test_why_agents_failed_is_counted_by_cause_whatever_the_address() -> None:
    found = Round("first", 3)
    for port in (8001, 8002):
        agent = {
            "agent_id": "a",
            "error_type": "connection_failed",
            "error": f"cannot connect to http://127.0.0.1:{port}/v1: no",
        }
        body = {"task_id": f"first-{port}", "status": "completed", "degraded": True, "failed_agents": [agent]}
        await found.hear(Msg(_client=Client(), data=json.dumps(body).encode()))
    assert found.errors == {"connection_failed: cannot connect to …/v1: no": 2}


def flown(name: str, *, completed: int = 3, most: int = 3, mib: float = 500.0) -> Round:
    samples = [
        Sample(1.0, most, 9, {"service": mib}, {"load": 60.0}),
        Sample(2.0, 0, 0, {"service": 100.0}, {"load": 60.0}),
    ]
    return Round(name, 3, statuses=Counter(completed=completed), samples=samples)


async def test_a_round_hears_its_own_endings_and_each_once() -> None:
    found = Round("first", 3)
    for each in (ending("other-1"), ending("first-0"), ending("first-0"), ending("first-1", "timeout")):
        await found.hear(each)
    with pytest.raises(TimeoutError):
        await found.all_ended(0.01)
    await found.hear(ending("first-2", degraded=True))
    async with asyncio.timeout(1):
        await found.all_ended(1.0)
    assert (found.statuses, found.doubled) == ({"completed": 1, "timeout": 1, "degraded": 1}, 1)


def test_all_is_well() -> None:
    found = judge(
        3,
        [flown("first"), flown("second", mib=600.0)],
        {"service": 90.0},
        [{"service": 100.0}, {"service": 104.0}],
    )
    assert found.met
    assert found.figures["second round, peak MiB"] == 600.0
    assert found.figures["at the peak, load MiB"] == 60.0


@pytest.mark.parametrize(
    ("second", "after", "missed"),
    [
        (flown("second", completed=2), 100.0, "completed, fewest of both"),
        (flown("second", most=2), 100.0, "in flight at once"),
        (flown("second", mib=MOST_MIB + 1), 100.0, "peak memory"),
        (flown("second"), 111.0, "memory after the second over after the first"),
    ],
)
def test_what_is_missed_is_named(second: Round, after: float, missed: str) -> None:
    found = judge(3, [flown("first"), second], {"service": 90.0}, [{"service": 100.0}, {"service": after}])
    assert [target.name for target in found.targets if not target.met] == [missed]
