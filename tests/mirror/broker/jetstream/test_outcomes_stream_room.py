"""A stream of outcomes without room is told, by how much it holds."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from nats.js import JetStreamContext

from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.embedded import EmbeddedNats
from parley.broker.jetstream.outcomes_stream_room import FullStreams, is_full
from parley.broker.jetstream.provision import examine, provision


@pytest.mark.parametrize(
    ("stored", "messages", "limit", "full"),
    [
        (0, 0, None, False),
        (10**9, 5, -1, False),
        (0, 0, 10_000, False),
        (8_000, 8, 10_000, True),
        (7_000, 7, 10_000, False),
        (60_000, 2, 80_000, True),
        (10_000, 10, 10_000, True),
    ],
)
def test_a_stream_is_full_when_another_message_does_not_fit(
    stored: int, messages: int, limit: int | None, full: bool
) -> None:
    assert is_full(stored, messages, limit) is full


@pytest.fixture
async def js(empty_nats: EmbeddedNats) -> AsyncIterator[JetStreamContext]:
    nc = await connect(empty_nats.url, "test")
    yield nc.jetstream()
    await close(nc)


async def test_outcomes_without_room_are_a_problem_until_there_is_some(js: JetStreamContext) -> None:
    await provision(js)
    live = (await js.stream_info("AGENT_RESPONSES")).config
    await js.update_stream(replace(live, max_bytes=20_000))
    full = FullStreams()
    await full.on_look(await examine(js))
    assert full.problem is None
    for _ in range(9):
        await js.publish("agent.response.completed", b"x" * 2_000)
    await full.on_look(await examine(js))
    assert "AGENT_RESPONSES is full (20000 bytes)" in str(full.problem)
    await js.purge_stream("AGENT_RESPONSES")
    await full.on_look(await examine(js))
    assert full.problem is None
