"""What the table does not show: a cancel that waits for a killed process, and readiness while Ray is away."""

import json
import time

import pytest

from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.nats_client import NatsClient as Nats
from tests.faults.fleet import Fleet
from tests.faults.load import stored
from tests.harness import fresh, until

# "The service reconnects or exits for its supervisor within 30 s."
LEAVE_SECONDS = 30.0
# Exit code of a service that needs its supervisor to start it again.
NO_SERVICE = 3

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


async def ask(observer: Nats, **fields: object) -> str:
    name = fresh("away")
    body = {"task_id": name, "task_description": "x", "timeout_seconds": 120, **fields}
    await JetStream(observer).publish(topology.REQUESTED, json.dumps(body).encode())
    return name


async def ending_of(observer: Nats, name: str, seconds: float = 60.0) -> dict[str, object]:
    async def found() -> dict[str, object]:
        for subject in (topology.COMPLETED, topology.FAILED):
            for message in await stored(observer, topology.DELIBERATIONS, subject):
                body: dict[str, object] = json.loads(message.data)
                if body["task_id"] == name:
                    return body
        return {}

    return await until(found, f"an ending of {name}", seconds)


async def test_a_cancel_outlives_aggregators_and_closes_calls(running_fleet: Fleet, observer: Nats) -> None:
    await running_fleet.ready()
    await running_fleet.steer.behave(faults={"hang": 1.0})
    name = await ask(observer)
    await running_fleet.steer.runs(3)
    carriers = [running_fleet.parts["aggregate-1"], running_fleet.parts["aggregate-2"]]
    for process in carriers:
        process.stay_down()
        process.kill()
    await JetStream(observer).publish(
        topology.CANCEL, json.dumps({"task_id": name, "reason": "enough"}).encode()
    )
    assert (await running_fleet.steer.seen())["running"] == 3
    for process in carriers:
        process.come_back()
    ending = await ending_of(observer, name)
    assert (ending["status"], ending["error"]) == ("cancelled", "cancelled: enough")
    await running_fleet.steer.idle()  # the model server saw the connections close


async def test_without_rays_head_dispatchers_become_unready_and_exit_and_work_goes_on_when_it_is_back(
    running_fleet: Fleet, observer: Nats, full: bool
) -> None:
    if not full:
        pytest.skip("takes half a minute: only in `make faults`")
    await running_fleet.ready()
    await running_fleet.steer.behave(latency_ms=300)
    dispatchers = [running_fleet.parts["dispatch-1"], running_fleet.parts["dispatch-2"]]
    exits = [len(process.exits) for process in dispatchers]
    running_fleet.head.stay_down()
    running_fleet.head.kill()
    gone = time.monotonic()

    async def unready() -> bool:
        return not any([await process.works() for process in dispatchers])

    await until(unready, "no dispatcher is ready", 10.0)
    name = await ask(observer)
    await until(
        lambda: all(len(process.exits) > before for process, before in zip(dispatchers, exits, strict=True)),
        "both dispatchers have left",
        LEAVE_SECONDS,
    )
    assert time.monotonic() - gone < LEAVE_SECONDS
    assert [process.exits[before] for process, before in zip(dispatchers, exits, strict=True)] == [
        NO_SERVICE,
        NO_SERVICE,
    ]
    running_fleet.head.come_back()
    assert (await ending_of(observer, name))["status"] == "completed"
    await running_fleet.ready()
