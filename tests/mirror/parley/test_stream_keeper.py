"""What vanishes while the service runs is made again within ten seconds, and what is still known ends."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from parley import stream_keeper
from parley.app import service
from parley.broker.core.errors import BrokerUnavailable
from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.embedded import EmbeddedNats, embedded_nats
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.provision import Wanted, provision
from parley.settings import load
from parley.stream_keeper import StreamKeeper
from tests import present
from tests.harness import ModelServer, Running, fresh, running, until

# Within this long all works again.
WORKING_SECONDS = 10.0


@pytest.fixture
async def own_service(empty_nats: EmbeddedNats, model: ModelServer, tmp_path: Path) -> AsyncIterator[Running]:
    nc = await connect(empty_nats.url, "tests")
    async with running(empty_nats.url, model, tmp_path, nc, pool="local") as started:
        yield started
    await close(nc)


async def test_any_consumer_or_stream_that_is_deleted_is_made_again(own_service: Running) -> None:
    js = own_service.wire.js
    await own_service.client.deliberate("x", agents=1)
    for durable in topology.DURABLES:
        await js.delete_consumer(durable.stream, durable.name)
    began = time.monotonic()
    assert (await own_service.client.deliberate("x", agents=1, timeout_seconds=60)).status == "completed"
    assert time.monotonic() - began < WORKING_SECONDS
    for stream in topology.streams():
        await js.delete_stream(stream.name or "")
    await until_told(own_service, missing=True)  # it tells meanwhile
    began = time.monotonic()
    await until_told(own_service, missing=False)
    assert time.monotonic() - began < WORKING_SECONDS
    assert (await own_service.client.deliberate("x", agents=1, timeout_seconds=60)).status == "completed"


@pytest.mark.parametrize("lost", ["AGENT_REQUESTS", "AGENT_RESPONSES", "DELIBERATIONS", "REQUESTS"])
async def test_what_the_bucket_still_knows_ends(own_service: Running, model: ModelServer, lost: str) -> None:
    await model.behave(latency_ms=60_000)
    name = fresh()
    await own_service.publish(
        {"task_id": name, "task_description": "x", "num_agents": 2, "timeout_seconds": 8}
    )
    await model.runs(2)
    await own_service.wire.js.delete_stream(lost)
    await until_told(own_service, missing=True)
    await until_told(own_service, missing=False)
    ending = await own_service.ending_of(name, 20)
    assert ending["status"] == "timeout"
    await model.behave()
    assert (await own_service.client.deliberate("x", agents=1, timeout_seconds=60)).status == "completed"


async def test_a_nats_that_is_back_with_an_empty_store_works_again(
    model: ModelServer, tmp_path: Path
) -> None:
    async with embedded_nats(tmp_path / "one", with_token=False) as first:
        port = int(first.url.rpartition(":")[2])
        settings = load(nats_url=first.url, vllm_url=model.url, http_port=0, home=tmp_path, pool="local")
        started = service(settings)
        async with asyncio.timeout(30):
            serving = await started.__aenter__()
    try:
        async with embedded_nats(tmp_path / "two", port=port, with_token=False):
            await serving.wire.nc.wait_connected()
            began = time.monotonic()
            nc = await connect(first.url, "client")
            name = fresh()
            body = json.dumps({"task_id": name, "task_description": "x", "num_agents": 1}).encode()

            async def accepted() -> bool:
                try:
                    await JetStream(nc).publish(topology.REQUESTED, body)
                except Exception:  # no stream yet
                    return False
                return True

            await until(accepted, "a request is stored", WORKING_SECONDS)
            wire = JetStream(nc)

            async def ended() -> bool:
                return await wire.get_last(topology.DELIBERATIONS, topology.COMPLETED) is not None

            await until(ended, "it has its ending", WORKING_SECONDS)
            assert time.monotonic() - began < WORKING_SECONDS
            await close(nc)
    finally:
        await started.__aexit__(None, None, None)


async def test_a_process_that_cannot_make_what_is_missing_leaves(
    empty_nats: EmbeddedNats, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stream_keeper, "GIVE_UP_SECONDS", 0.0)
    nc = await connect(empty_nats.url, "test")
    await provision(nc.jetstream())
    keeper = StreamKeeper(JetStream(nc), Wanted(replicas=3))
    await keeper.look()
    reasons = [keeper.fatal_reason]
    await nc.jetstream().delete_stream("AGENT_REQUESTS")
    await keeper.look()
    before, reason = *reasons, present(keeper.fatal_reason)
    assert before is None
    assert reason.startswith("missing in NATS and not to be made: stream AGENT_REQUESTS, consumer ")
    assert "PARLEY_REPLICAS=3" in reason
    told = caplog.messages
    await keeper.look()
    assert caplog.messages == told  # however often it looks
    await close(nc)


async def test_a_stream_that_another_process_made_anew_is_noticed(empty_nats: EmbeddedNats) -> None:
    nc = await connect(empty_nats.url, "test")
    js = nc.jetstream()
    await provision(js)
    noticed: list[str] = []

    async def on_loss() -> None:
        noticed.append("lost")
        if len(noticed) == 1:
            raise BrokerUnavailable("nats://x", "away again")

    keeper = StreamKeeper(JetStream(nc), Wanted(), on_loss=on_loss)
    await keeper.look()
    await keeper.look()
    assert noticed == []
    await js.delete_stream("DELIBERATIONS")
    await provision(js)
    with pytest.raises(BrokerUnavailable):
        await keeper.look()
    await keeper.look()  # what could not be followed up is found again
    await keeper.look()
    assert noticed == ["lost", "lost"]
    await close(nc)


async def until_told(running: Running, *, missing: bool) -> None:
    """Until /readyz says that streams are missing, or no longer does."""

    async def answers() -> bool:
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"{running.service.http_url}/readyz") as response,
        ):
            return ("streams" in (await response.text())) is missing

    await until(answers, f"/readyz says that streams are missing: {missing}", WORKING_SECONDS)
