"""Reads without a consumer, on a real server."""

import pytest

from parley.broker.core.errors import StreamNotFound
from parley.broker.jetstream import direct_reads, topology
from parley.broker.jetstream.direct_reads import read_all, read_last
from parley.broker.jetstream.jetstream import JetStream, StoredMessage
from parley.broker.jetstream.nats_client import NatsClient as Nats

TALLY = topology.tally_subject("t-1")


async def test_the_newest_message_under_a_subject(nc: Nats) -> None:
    wire = JetStream(nc)
    assert await read_last(wire, topology.TALLIES, TALLY) is None
    for body in (b"1", b"2"):
        seq = (await wire.publish(TALLY, body, headers={"x": "y"})).seq
    own = {"x": "y", "content-type": "application/json"}
    assert await read_last(wire, topology.TALLIES, TALLY) == StoredMessage(seq, TALLY, b"2", own)


@pytest.mark.parametrize(("batch", "limit"), [(3, 1_000_000), (100, 10), (100, 1_000_000)])
async def test_every_message_under_a_subject_in_as_many_answers_as_it_takes(
    nc: Nats, monkeypatch: pytest.MonkeyPatch, batch: int, limit: int
) -> None:
    monkeypatch.setattr(direct_reads, "BATCH", batch)
    monkeypatch.setattr(direct_reads, "BATCH_BYTES", limit)
    wire = JetStream(nc)
    for number in range(10):
        await wire.publish(topology.AGENT_COMPLETED if number % 2 else topology.AGENT_FAILED, b"%d" % number)
    found = [message async for message in read_all(wire, topology.AGENT_RESPONSES, topology.AGENT_COMPLETED)]
    assert [(message.data, message.subject) for message in found] == [
        (b"%d" % number, topology.AGENT_COMPLETED) for number in range(1, 10, 2)
    ]
    assert len([message async for message in read_all(wire, topology.AGENT_RESPONSES, ">")]) == 10
    assert [message async for message in read_all(wire, topology.REQUESTS, ">")] == []


async def test_without_the_stream_it_says_so(nc: Nats) -> None:
    wire = JetStream(nc)
    await nc.jetstream().delete_stream(topology.TALLIES)
    with pytest.raises(StreamNotFound):
        await read_last(wire, topology.TALLIES, TALLY)
    with pytest.raises(StreamNotFound):
        _ = [message async for message in read_all(wire, topology.TALLIES, ">")]
