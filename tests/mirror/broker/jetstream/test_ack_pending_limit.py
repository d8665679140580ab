"""Consumers fit themselves to an account or a server that allows fewer unacknowledged messages."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from nats.js import JetStreamContext
from nats.js.errors import APIError

from parley.broker.jetstream import topology
from parley.broker.jetstream.ack_pending_limit import add_consumer, is_fitted
from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.provision import DEFAULT, Extent, provision, review
from tests.mirror.broker import limited_server

ACCOUNT = "accounts {{ A {{ jetstream {{ max_ack_pending: {} }}, users: [{{ user: a, password: p }}] }} }}\n"
# Where the limit is: one line of configuration, and the server's storage, before which a server's own limit stands.
PLACES = {
    "account": ("1GB", ACCOUNT.format(1_000)),
    "server": ("1GB, limits { max_ack_pending: 1000 }", ""),
}


@asynccontextmanager
async def connected(folder: Path, storage: str, more: str) -> AsyncIterator[JetStreamContext]:
    async with limited_server(folder, storage, more) as url:
        nc = await connect(url.replace("nats://", "nats://a:p@") if more else url, "test")
        try:
            yield nc.jetstream()
        finally:
            await close(nc)


async def allowed(js: JetStreamContext) -> set[int | None]:
    infos = [await js.consumer_info(each.stream, each.name) for each in topology.DURABLES]
    return {info.config.max_ack_pending for info in infos}


@pytest.mark.parametrize("place", PLACES)
async def test_consumers_take_what_is_allowed_and_a_start_says_so_once(
    place: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(tmp_path, *PLACES[place]) as js:
        made = await provision(js)
        assert "consumer AGENT_REQUESTS/dispatch" in made
        assert await allowed(js) == {1_000}
        told = [line for line in caplog.messages if "max_ack_pending" in line]
        assert len(told) == len(topology.DURABLES)
        assert "consumer AGENT_REQUESTS/dispatch: NATS allows 1000 unacknowledged messages" in "".join(told)
        # No difference from here on: a start, readiness, doctor and `provision` go by.
        assert await provision(js) == []
        assert await provision(js, extent=Extent.LOOK) == []
        assert await provision(js, extent=Extent.ALL) == []
        assert await review(js, DEFAULT) == []


async def test_a_limit_that_somebody_set_to_what_is_allowed_is_taken_on_request(tmp_path: Path) -> None:
    async with connected(tmp_path, *PLACES["server"]) as js:
        await provision(js)
        live = (await js.consumer_info("REQUESTS", "intake")).config
        await js.add_consumer("REQUESTS", live.evolve(max_ack_pending=10, metadata={}), name="intake")
        assert "max_ack_pending is 10" in "".join(await review(js, DEFAULT))
        await provision(js, extent=Extent.ALL)
        assert await allowed(js) == {1_000}
        assert await review(js, DEFAULT) == []


async def test_a_consumer_gets_more_once_more_is_allowed(tmp_path: Path) -> None:
    async with connected(tmp_path, *PLACES["server"]) as js:
        await provision(js)
    async with connected(tmp_path, "1GB", "") as js:
        changed = await provision(js)
        assert "consumer REQUESTS/intake: max_ack_pending 1000 → 50000" in changed
        assert await allowed(js) == {topology.MAX_ACK_PENDING}
        assert not is_fitted((await js.consumer_info("REQUESTS", "intake")).config)
        assert await provision(js) == []


async def test_another_refusal_is_raised(tmp_path: Path) -> None:
    async with connected(tmp_path, "1GB", "") as js:
        await provision(js)
        durable = topology.consumer(topology.INTAKE).evolve(filter_subject="another")
        with pytest.raises(APIError):
            await add_consumer(js, "REQUESTS", durable, "intake2")


async def test_without_a_limit_nothing_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "parley"):
        async with connected(tmp_path, "1GB", "") as js:
            await provision(js)
            assert await allowed(js) == {topology.MAX_ACK_PENDING}
    assert caplog.messages == []
