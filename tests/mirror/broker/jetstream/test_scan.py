"""Reading what a stream holds now: all of it, once, in order, and then it ends."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from parley.broker.core.errors import BrokerUnavailable, StreamNotFound
from parley.broker.jetstream import connection, topology
from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.forgery_counts import Forgery
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.nats_client import NatsClient as Nats
from parley.broker.jetstream.scan import scan

STREAM = topology.DEAD_LETTERS
ALL = "deadletter.>"


async def fill(wire: JetStream, count: int, subject: str = "deadletter.a") -> None:
    await asyncio.gather(*(wire.publish(subject, b"x" * 10) for _ in range(count)))


async def read(wire: JetStream, subject: str = ALL, **more: Any) -> list[int]:
    return [message.metadata.sequence.stream async for message in scan(wire, STREAM, subject, **more)]


@pytest.mark.parametrize("count", [0, 1, 4, 5, 9])
async def test_everything_is_read_once_in_order_whatever_the_batches(wire: JetStream, count: int) -> None:
    await fill(wire, count)
    assert await read(wire, batch=4) == list(range(1, count + 1))


async def test_it_is_read_from_a_sequence_on_and_by_subject(wire: JetStream) -> None:
    await fill(wire, 3)
    await fill(wire, 3, "deadletter.b")
    assert await read(wire, first=3) == [3, 4, 5, 6]
    assert await read(wire, "deadletter.b") == [4, 5, 6]
    assert await read(wire, "deadletter.b", first=6) == [6]
    assert await read(wire, "deadletter.c") == []
    assert await read(wire, first=7) == await read(wire, first=2**62) == []
    await wire.js.delete_msg(STREAM, 2)
    assert await read(wire, first=0) == [1, 3, 4, 5, 6]


async def test_messages_come_whole(wire: JetStream) -> None:
    await wire.publish("deadletter.a", b"x" * 100_000, headers={"X-Mine": "yes"})
    (whole,) = [message async for message in scan(wire, STREAM, ALL)]
    assert whole.data == b"x" * 100_000
    assert (whole.headers or {})["X-Mine"] == "yes"


@pytest.mark.parametrize(("kept_from", "seen"), [(6, [1, 6]), (7, [1])])
async def test_the_reader_awaits_no_removed_message(wire: JetStream, kept_from: int, seen: list[int]) -> None:
    await fill(wire, 6)
    found = []
    async with asyncio.timeout(connection.PUBLISH_TIMEOUT_SECONDS / 2):
        async for message in scan(wire, STREAM, ALL, batch=1):
            found.append(message.metadata.sequence.stream)
            await wire.js.purge_stream(STREAM, seq=kept_from)
    assert found == seen


async def test_messages_added_meanwhile_are_read_too(wire: JetStream) -> None:
    await fill(wire, 2)
    seen = []
    async for message in scan(wire, STREAM, ALL, batch=1):
        seen.append(message.metadata.sequence.stream)
        if seen == [1]:
            await fill(wire, 1)
    assert seen == [1, 2, 3]


async def test_nothing_is_left_at_the_server_whether_it_is_read_to_the_end_or_not(wire: JetStream) -> None:
    await fill(wire, 10)
    await read(wire)
    async with aclosing(scan(wire, STREAM, ALL, batch=3)) as messages:
        async for _ in messages:
            break
    assert await wire.js.consumers_info(STREAM) == []


async def test_a_stream_that_does_not_exist_is_named(wire: JetStream) -> None:
    await wire.js.delete_stream(STREAM)
    with pytest.raises(StreamNotFound, match=STREAM):
        await read(wire)


async def test_a_stream_that_is_deleted_while_it_is_read_raises(wire: JetStream) -> None:
    await fill(wire, 3)
    messages = scan(wire, STREAM, ALL, batch=1)
    await anext(messages)
    await wire.js.delete_stream(STREAM)
    with pytest.raises(BrokerUnavailable):
        await anext(messages)


async def test_a_lost_connection_raises(url: str, nc: Nats) -> None:
    reader = await connect(url, "reader")
    wire = JetStream(reader)
    await fill(wire, 3)
    messages = scan(wire, STREAM, ALL, batch=1)
    await anext(messages)
    await close(reader)
    with pytest.raises(BrokerUnavailable):
        await anext(messages)


async def test_what_is_no_delivery_is_left_out(wire: JetStream, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(wire, 3)
    inbox = "_INBOX.told"
    monkeypatch.setattr(wire.nc, "new_inbox", lambda: inbox)
    await wire.publish("deliberation.requested", b"{}")  # the inbox of replies is made with another name
    messages = scan(wire, STREAM, ALL, batch=2)
    first = await anext(messages)
    await wire.nc.publish(inbox, b"forged", reply="deliberation.cancel")
    await wire.nc.flush()
    found = [first, *[message async for message in messages]]
    assert len(found) == 3
    assert b"forged" not in [message.data for message in found]
    assert wire.nc.forgeries.counts[Forgery.DELIVERY] == 1
