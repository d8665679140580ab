"""Kill the process that decides endings while agents work. Another one takes over, and the ending comes once.

A message is acknowledged only after its effects. What a killed process had in hand is therefore delivered again.
"""

from pathlib import Path

import pytest

from parley.app import service
from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.embedded import EmbeddedNats
from parley.client import connect as connect_client
from parley.handlers.routes import Part
from parley.settings import load
from tests.harness import ACK_WAIT_SECONDS, ModelServer, Running, fresh, until
from tests.rig.child import child, module
from tests.rig.service import plain_environment


@pytest.mark.slow
async def test_the_ending_comes_once_although_the_aggregator_was_killed(
    empty_nats: EmbeddedNats, model: ModelServer, tmp_path: Path
) -> None:
    await model.behave(latency_ms=1_000)
    settings = load(
        nats_url=empty_nats.url,
        vllm_url=model.url,
        http_port=0,
        home=tmp_path,
        pool="local",
        ack_wait_seconds=ACK_WAIT_SECONDS,
    )
    environment = plain_environment(
        NATS_URL=empty_nats.url,
        VLLM_URL=model.url,
        PARLEY_HTTP_PORT="0",
        PARLEY_GATEWAY_PORT="0",
        PARLEY_GATEWAY_GRPC_PORT="0",
        PARLEY_ACK_WAIT_SECONDS=str(ACK_WAIT_SECONDS),
    )
    aggregator = module("parley", "serve", "--parts", "aggregate")
    nats = await connect(empty_nats.url, "tour")
    async with (
        service(settings, {Part.INTAKE, Part.DISPATCH}) as rest,
        connect_client(empty_nats.url) as client,
    ):
        on = Running(rest, settings, client, nats, model)
        names = [fresh() for _ in range(20)]
        async with child(aggregator, tmp_path / "first.log", environment) as first:
            for name in names:
                await on.publish({"task_id": name, "task_description": "x"})

            async def some_ended() -> bool:
                tallies = await client.tallies()
                return any(tally.ended for tally in tallies)

            await until(some_ended, "the first deliberation has ended")
            first.process.kill()
            await first.process.wait()
        async with child(aggregator, tmp_path / "second.log", environment):
            endings = [await on.ending_of(name) for name in names]
        assert {ending["status"] for ending in endings} == {"completed"}
        assert [len(await on.endings_of(name)) for name in names] == [1] * len(names)
    await close(nats)
