"""Reads without a consumer, on a real server."""

import pytest

from parley.broker.core.errors import BrokerUnavailable, StreamNotFound
from parley.broker.jetstream import direct_reads, topology
from parley.broker.jetstream.direct_reads import read_all, read_changed, read_last
from parley.broker.jetstream.jetstream import JetStream, StoredMessage
from parley.broker.jetstream.nats_client import NatsClient as Nats
from tests.harness import until

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


# ── what has changed, of a real server ────────────────────────────────────────────────────────────────────────────


async def test_only_the_newest_since_a_place_is_read_also_of_more_than_one_answer(wire: JetStream) -> None:
    subjects = [topology.tally_subject(f"t-{number}") for number in range(300)]
    for subject in subjects:
        await wire.publish(subject, b"old")
    found, place = await read_changed(wire, topology.TALLIES, subjects, 0)
    assert (len(found), place) == (300, 300)
    for subject in subjects[:2]:
        await wire.publish(subject, b"new")
    found, place = await read_changed(wire, topology.TALLIES, subjects, place + 1)
    assert ([(each.subject, each.data) for each in found], place) == (
        [(subject, b"new") for subject in subjects[:2]], 302,
    )  # fmt: skip
    assert await read_changed(wire, topology.TALLIES, subjects, place + 1) == ([], 302)


async def test_more_subjects_than_the_server_answers_for_are_refused(wire: JetStream) -> None:
    subjects = [topology.tally_subject(f"t-{number}") for number in range(1_100)]
    for subject in subjects:
        await wire.nc.publish(subject, b"x")
    await until(lambda: _count(wire, 1_100), "all are stored")
    with pytest.raises(BrokerUnavailable, match="413"):
        await read_changed(wire, topology.TALLIES, subjects, 0)


async def _count(wire: JetStream, count: int) -> bool:
    return bool((await wire.js.stream_info(topology.TALLIES)).state.messages >= count)
