"""While the pool is full, work waits in the stream, where other replicas can take it, and no queue grows here."""

from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.embedded import EmbeddedNats
from tests.harness import ModelServer, Running, fresh, running, until

SLOTS, DELIBERATIONS, AGENTS = 4, 100, 3


async def figures(on: Running) -> dict[str, float]:
    """What /metrics says, by name and consumer."""
    async with aiohttp.ClientSession() as http, http.get(f"{on.service.http_url}/metrics") as response:
        families = text_string_to_metric_families(await response.text())
        return {
            sample.name
            + (f" {sample.labels['consumer']}" if "consumer" in sample.labels else ""): sample.value
            for family in families
            for sample in family.samples
        }


async def test_work_without_a_free_slot_waits_in_the_stream(
    empty_nats: EmbeddedNats, model: ModelServer, tmp_path: Path
) -> None:
    await model.behave(faults={"hang": 1.0})
    nc = await connect(empty_nats.url, "test")
    async with running(empty_nats.url, model, tmp_path / "home", nc, pool="local", pool_slots=SLOTS) as on:
        names = [fresh() for _ in range(DELIBERATIONS)]
        for name in names:
            body = {"task_id": name, "task_description": "x", "num_agents": AGENTS, "timeout_seconds": 300}
            await on.publish(body)

        async def taken_in() -> bool:
            requests = await nc.jetstream().stream_info(topology.AGENT_REQUESTS)
            return requests.state.messages == DELIBERATIONS * AGENTS

        await until(taken_in, "every agent's work is in the queue")
        await model.runs(SLOTS)
        found = await figures(on)
        assert (found["parley_pool_busy"], found["parley_pool_slots"]) == (SLOTS, SLOTS)
        # The dispatcher holds one message for each slot; the rest waits at the server.
        assert found["parley_consumer_ack_pending dispatch"] == SLOTS
        assert found["parley_consumer_pending dispatch"] == DELIBERATIONS * AGENTS - SLOTS
        for durable in topology.DURABLES:
            assert (
                0
                <= found[f"parley_consumer_held {durable.name}"]
                <= found[f"parley_consumer_limit {durable.name}"]
            )
        await model.behave()
        for name in names:
            assert (await on.client.status(name)).status in {"PENDING", "IN_PROGRESS", "COMPLETED"}

        async def drained() -> bool:
            return bool((await nc.jetstream().stream_info(topology.AGENT_REQUESTS)).state.messages <= SLOTS)

        # Hanging calls hold their slots until they are cancelled.
        for name in names[: SLOTS * 2]:
            await on.client.cancel(name)
        await until(drained, "the queue is worked off")
    await close(nc)
