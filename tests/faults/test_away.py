"""What one case of the table cannot show: what is seen from outside while a part is away, and that a cancel outlives it."""

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
# Exit code of a service that cannot go on by itself.
NO_SERVICE = 3

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


async def ask(spyglass: Nats, **fields: object) -> str:
    name = fresh("away")
    body = {"task_id": name, "task_description": "x", "timeout_seconds": 120, **fields}
    await JetStream(spyglass).publish(topology.REQUESTED, json.dumps(body).encode())
    return name


async def ending_of(spyglass: Nats, name: str, seconds: float = 60.0) -> dict[str, object]:
    async def found() -> dict[str, object]:
        for subject in (topology.COMPLETED, topology.FAILED):
            for message in await stored(spyglass, topology.DELIBERATIONS, subject):
                body: dict[str, object] = json.loads(message.data)
                if body["task_id"] == name:
                    return body
        return {}

    return await until(found, f"an ending of {name}", seconds)


async def test_a_cancel_outlives_the_part_that_carries_it_out_and_closes_the_calls(
    ships: Fleet, spyglass: Nats
) -> None:
    await ships.ready()
    await ships.steer.behave(faults={"hang": 1.0})
    name = await ask(spyglass)

    async def called() -> bool:
        return bool((await ships.steer.seen())["running"] == 3)

    await until(called, "three calls are at the model server")
    carriers = [ships.parts["aggregate-1"], ships.parts["aggregate-2"]]
    for process in carriers:
        process.stay_down()
        process.kill()
    await JetStream(spyglass).publish(
        topology.CANCEL, json.dumps({"task_id": name, "reason": "enough"}).encode()
    )
    assert await called()
    for process in carriers:
        process.come_back()
    ending = await ending_of(spyglass, name)
    assert (ending["status"], ending["error"]) == ("cancelled", "cancelled: enough")
    await ships.steer.idle()  # it saw the connections close


async def test_without_rays_head_readiness_falls_the_dispatchers_leave_and_work_goes_on_when_it_is_back(
    ships: Fleet, spyglass: Nats, full: bool
) -> None:
    if not full:
        pytest.skip("takes half a minute: only in `make faults`")
    await ships.ready()
    await ships.steer.behave(latency_ms=300)
    dispatchers = [ships.parts["dispatch-1"], ships.parts["dispatch-2"]]
    exits = [len(process.exits) for process in dispatchers]
    ships.head.stay_down()
    ships.head.kill()
    gone = time.monotonic()

    async def unready() -> bool:
        return not any([await process.works() for process in dispatchers])

    await until(unready, "no dispatcher is ready", 10.0)
    name = await ask(spyglass)
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
    ships.head.come_back()
    assert (await ending_of(spyglass, name))["status"] == "completed"
    await ships.ready()
