"""Messages that end each process that begins them are given up after a few, and everything beside them ends."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from nats.js.errors import NotFoundError

from parley.broker.core.headers_and_ids import own_name
from parley.broker.core.messages import decode_ending
from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import connect
from parley.broker.jetstream.embedded import EmbeddedNats
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.scan import scan
from tests.faults.deadly import WORD
from tests.faults.processes import Process
from tests.rig.child import module
from tests.rig.proc import free_port
from tests.rig.service import plain_environment
from tests.rig.waiting import until

HONEST = 10
# Each of the four ends five processes by itself, and may end another before it is known.
MAX_ENDED = 4 * 7


async def ask(wire: JetStream, task_id: str, **fields: Any) -> int:
    body = {"task_id": task_id, "task_description": "x", "timeout_seconds": 2, "num_agents": 2, **fields}
    return (await wire.publish(topology.REQUESTED, json.dumps(body).encode())).seq


async def endings(wire: JetStream) -> dict[str, list[str]]:
    """The status of each ending, by task_id."""
    found: dict[str, list[str]] = {}
    for subject in (topology.COMPLETED, topology.FAILED):
        async for message in scan(wire, topology.DELIBERATIONS, subject):
            ending = decode_ending(message.data)
            found.setdefault(ending.task_id, []).append(ending.status)
    return found


async def in_hand(wire: JetStream, durable: topology.Durable) -> int:
    info = await wire.js.consumer_info(durable.stream, durable.name)
    return (info.num_ack_pending or 0) + (info.num_pending or 0)


@pytest.fixture
async def wire(empty_nats: EmbeddedNats) -> AsyncIterator[JetStream]:
    nc = await connect(empty_nats.url, "test")
    yield JetStream(nc)
    await nc.close()


@pytest.fixture
async def process(empty_nats: EmbeddedNats, tmp_path: Path, wire: JetStream) -> AsyncIterator[Process]:
    settings = {
        "NATS_URL": empty_nats.url, "VLLM_MODEL": "m", "PARLEY_HTTP_PORT": str(free_port()), "PARLEY_HOME": str(tmp_path / "home"),
    }  # fmt: skip

    async def ready() -> bool:
        try:
            return not await in_hand(wire, topology.AGGREGATE)
        except NotFoundError:
            return False

    environment = plain_environment(**settings)
    made = Process(
        "service", module("tests.faults.deadly"), folder=tmp_path, environment=environment, ready=ready
    )
    await made.start()
    await made.ready()
    yield made
    await made.stop()


@pytest.mark.timeout(300)
async def test_a_message_that_ends_its_process_is_counted_as_one_that_raises(
    process: Process, wire: JetStream
) -> None:
    await ask(wire, "late", metadata={"ending": WORD[::-1]})

    async def taken_in() -> bool:
        return not await in_hand(wire, topology.INTAKE)

    await until(taken_in, "only its deadline is deadly")
    seq = await ask(wire, "x", task_description=WORD)
    await wire.publish(topology.CANCEL, json.dumps({"task_id": "x", "reason": WORD}).encode())
    await wire.publish(topology.AGENT_COMPLETED, json.dumps({"task_id": "x", "words": WORD}).encode())
    honest = [f"honest-{number}" for number in range(HONEST)]
    for name in honest:
        await ask(wire, name)

    async def all_given_up() -> bool:
        letters = await wire.js.stream_info(topology.DEAD_LETTERS)
        nothing_left = [
            not await in_hand(wire, durable) for durable in topology.DURABLES if durable.name != "dispatch"
        ]
        return letters.state.messages == 4 and all(nothing_left)

    await until(all_given_up, "the four are in DEAD_LETTERS, and everything else is settled", 200)
    expected = {own_name(seq): ["failed"], "late": ["timeout"], **{name: ["timeout"] for name in honest}}
    assert await endings(wire) == expected
    print(f"{len(process.exits)} processes ended")
    assert len(process.exits) <= MAX_ENDED
    ended = len(process.exits)
    await asyncio.sleep(1)
    assert len(process.exits) == ended
