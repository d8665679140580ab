"""Streams, consumers and buckets as declared: made where they are missing, reported where they differ, overwritten
never."""

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import nats.js.errors
import pytest
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StreamConfig

from parley.broker.core.errors import TopologyMismatch
from parley.broker.core.messages import MAX_TIMEOUT_SECONDS
from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import connect
from parley.broker.jetstream.embedded import EmbeddedNats
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.topology import DURABLES, consumer, provision, streams
from tests.harness import until

EVERYTHING = [
    "stream REQUESTS", "stream DELIBERATIONS", "stream AGENT_REQUESTS", "stream AGENT_RESPONSES",
    "stream DEAD_LETTERS", "stream KV_deliberations", "stream OBJ_results", "consumer REQUESTS/intake",
    "consumer REQUESTS/cancel", "consumer DELIBERATIONS/expire", "consumer AGENT_REQUESTS/dispatch",
    "consumer AGENT_RESPONSES/aggregate",
]  # fmt: skip


@pytest.fixture
async def js(empty_nats: EmbeddedNats) -> AsyncIterator[JetStreamContext]:
    nc = await connect(empty_nats.url, "test")
    yield nc.jetstream()
    await nc.close()


async def stream_names(js: JetStreamContext) -> set[str | None]:
    return {info.config.name for info in await js.streams_info()}


async def live(js: JetStreamContext) -> list[Any]:
    """The whole live configuration."""
    found: list[Any] = [info.config for info in await js.streams_info()]
    for name in sorted(await stream_names(js), key=str):
        found += [info.config for info in await js.consumers_info(str(name))]
    return found


# ── names ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_subjects_are_made_of_the_name_of_a_deliberation() -> None:
    assert topology.timer_subject("t-1") == "deliberation.timer.t-1"
    assert topology.deadline_subject("t-1") == "deliberation.deadline.t-1"
    assert topology.tally_subject("t-1") == "$KV.deliberations.t-1"
    assert topology.dead_letter_subject("agent.requested") == "deadletter.agent.requested"


@pytest.mark.parametrize(
    ("subject", "stream"),
    [
        ("deliberation.requested", "REQUESTS"),
        ("deliberation.cancel", "REQUESTS"),
        ("deliberation.completed", "DELIBERATIONS"),
        ("deliberation.failed", "DELIBERATIONS"),
        ("deliberation.timer.t-1", "DELIBERATIONS"),
        ("deliberation.deadline.t-1", "DELIBERATIONS"),
        ("agent.requested", "AGENT_REQUESTS"),
        ("agent.response.completed", "AGENT_RESPONSES"),
        ("agent.response.failed", "AGENT_RESPONSES"),
        ("deadletter.deliberation.requested", "DEAD_LETTERS"),
        ("deadletter.deliberation.deadline.t-1", "DEAD_LETTERS"),
        ("$KV.deliberations.t-1", "KV_deliberations"),
        ("agent.cancel", None),
        ("deliberation.get", None),
        ("deliberation.other", None),
    ],
)
async def test_each_subject_is_in_its_stream(js: JetStreamContext, subject: str, stream: str | None) -> None:
    await provision(js)
    if stream is None:  # core NATS: not stored
        with pytest.raises(nats.js.errors.NotFoundError):
            await js.find_stream_name_by_subject(subject)
    else:
        assert await js.find_stream_name_by_subject(subject) == stream


# ── making it so ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_on_an_empty_server_everything_is_made_and_said(js: JetStreamContext) -> None:
    assert await provision(js) == EVERYTHING
    assert await stream_names(js) == {name.removeprefix("stream ") for name in EVERYTHING[:7]}


async def test_a_second_time_nothing_is_made_and_nothing_has_changed(js: JetStreamContext) -> None:
    await provision(js)
    before = await live(js)
    assert await provision(js) == []
    assert await live(js) == before


async def test_only_what_is_missing_is_made(js: JetStreamContext) -> None:
    await provision(js)
    await js.delete_stream("DEAD_LETTERS")
    await js.delete_consumer("DELIBERATIONS", "expire")
    assert await provision(js) == ["stream DEAD_LETTERS", "consumer DELIBERATIONS/expire"]


async def test_without_leave_to_create_what_is_missing_is_only_listed(js: JetStreamContext) -> None:
    assert await provision(js, create=False) == EVERYTHING
    assert await stream_names(js) == set()
    await provision(js)
    await js.delete_consumer("AGENT_REQUESTS", "dispatch")
    await js.delete_stream("OBJ_results")
    assert await provision(js, create=False) == ["stream OBJ_results", "consumer AGENT_REQUESTS/dispatch"]
    assert "OBJ_results" not in await stream_names(js)
    with pytest.raises(nats.js.errors.NotFoundError):
        await js.consumer_info("AGENT_REQUESTS", "dispatch")


async def test_the_buckets_are_what_clients_of_nats_take_for_buckets(js: JetStreamContext) -> None:
    await provision(js)
    bucket = await js.key_value("deliberations")
    revision = await bucket.put("t-1", b"1")
    assert (await bucket.get("t-1")).revision == revision
    store = await js.object_store("results")
    await store.put("t-1", b"words")
    assert (await store.get("t-1")).data == b"words"


# ── what differs ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("AGENT_RESPONSES", {"max_age": 600.0}, "max_age is 600.0, declared 172800.0"),
        ("DELIBERATIONS", {"duplicate_window": 5.0}, "duplicate_window is 5.0, declared 3600.0"),
        ("DEAD_LETTERS", {"subjects": ["deadletter.agent.>"]}, "subjects is ['deadletter.agent.>']"),
        ("AGENT_REQUESTS", {"allow_direct": False}, "allow_direct is False, declared True"),
        ("KV_deliberations", {"max_msgs_per_subject": 5}, "max_msgs_per_subject is 5, declared 1"),
    ],
)
async def test_a_stream_that_differs_is_named_and_left_alone(
    js: JetStreamContext, name: str, change: dict[str, Any], said: str
) -> None:
    await provision(js)
    config = (await js.stream_info(name)).config
    await js.update_stream(replace(config, **change))
    before = await live(js)
    for create in (True, False):
        with pytest.raises(TopologyMismatch) as caught:
            await provision(js, create=create)
        (difference,) = caught.value.differences
        assert f"stream {name}: {said}" in difference
        assert await live(js) == before


async def test_a_stream_of_another_retention_is_named_and_left_alone(js: JetStreamContext) -> None:
    await js.add_stream(
        StreamConfig(name="AGENT_REQUESTS", subjects=["agent.requested"], retention=RetentionPolicy.LIMITS)
    )
    before = (await js.stream_info("AGENT_REQUESTS")).config
    with pytest.raises(
        TopologyMismatch, match="stream AGENT_REQUESTS: retention is limits, declared workqueue"
    ):
        await provision(js)
    assert (await js.stream_info("AGENT_REQUESTS")).config == before


async def test_a_consumer_that_differs_is_named_and_left_alone(js: JetStreamContext) -> None:
    await provision(js)
    before = await live(js)
    with pytest.raises(TopologyMismatch) as caught:
        await provision(js, ack_wait_seconds=20.0)
    assert list(caught.value.differences) == [
        "consumer AGENT_REQUESTS/dispatch: ack_wait is 30.0, declared 20.0"
    ]
    assert await live(js) == before


async def test_a_consumer_of_another_filter_is_named(js: JetStreamContext) -> None:
    await provision(js)
    await js.delete_consumer("REQUESTS", "intake")
    mine = ConsumerConfig(
        durable_name="intake", filter_subject="deliberation.cancel", ack_policy=AckPolicy.EXPLICIT
    )
    await js.add_consumer("REQUESTS", mine)
    with pytest.raises(TopologyMismatch) as caught:
        await provision(js)
    said = "consumer REQUESTS/intake: filter_subject is deliberation.cancel, declared deliberation.requested"
    assert said in caught.value.differences


async def test_every_difference_is_told_at_once(js: JetStreamContext) -> None:
    await provision(js)
    for name in ("AGENT_RESPONSES", "DEAD_LETTERS"):
        config = (await js.stream_info(name)).config
        await js.update_stream(replace(config, max_age=600.0))
    with pytest.raises(TopologyMismatch) as caught:
        await provision(js)
    assert [difference.partition(":")[0] for difference in caught.value.differences] == [
        "stream AGENT_RESPONSES",
        "stream DEAD_LETTERS",
    ]


async def test_what_the_operator_may_choose_is_not_a_difference(js: JetStreamContext) -> None:
    await provision(js)
    for name in ("DELIBERATIONS", "DEAD_LETTERS"):
        config = (await js.stream_info(name)).config
        await js.update_stream(replace(config, max_bytes=10_000_000, description="ours"))
    config = (await js.stream_info("DEAD_LETTERS")).config
    await js.update_stream(replace(config, duplicate_window=60.0))  # Parley declares none for this one
    assert await provision(js) == []


async def test_too_many_replicas_are_refused_by_name_and_nothing_is_half_made(js: JetStreamContext) -> None:
    with pytest.raises(TopologyMismatch) as caught:
        await provision(js, replicas=3)
    assert len(caught.value.differences) == len(streams())
    assert caught.value.differences[0].startswith(
        "stream REQUESTS: refused by the server: replicas > 1 not supported"
    )
    assert await stream_names(js) == set()


# ── what is declared ──────────────────────────────────────────────────────────────────────────────────────────────


def test_replicas_are_those_that_were_asked_for_everywhere() -> None:
    assert {stream.num_replicas for stream in streams(replicas=3)} == {3}


@pytest.mark.parametrize(("keep_seconds", "window"), [(3_600.0, 3_600.0), (60.0, 60.0), (86_400.0, 3_600.0)])
def test_an_endings_msg_id_is_forgotten_no_later_than_its_tally(keep_seconds: float, window: float) -> None:
    by_name = {stream.name: stream for stream in streams(keep_seconds=keep_seconds)}
    assert by_name["DELIBERATIONS"].duplicate_window == window


def test_a_deadline_a_day_ahead_outlives_nothing_it_waits_in() -> None:
    assert all((stream.max_age or 0) > MAX_TIMEOUT_SECONDS for stream in streams())


def test_deliveries_are_ours_to_count() -> None:
    for durable in DURABLES:
        config = consumer(durable)
        assert (config.max_deliver, config.ack_policy) == (-1, AckPolicy.EXPLICIT)
        assert (config.durable_name, config.filter_subject) == (durable.name, durable.filter)


@pytest.mark.parametrize(
    ("deployment", "waits"),
    [
        (30.0, {"intake": 1.0, "cancel": 1.0, "expire": 0.5, "dispatch": 30.0, "aggregate": 1.0}),
        (0.4, dict.fromkeys(["intake", "cancel", "expire", "dispatch", "aggregate"], 0.4)),
    ],
)
def test_only_work_that_takes_long_is_waited_for_long(deployment: float, waits: dict[str, float]) -> None:
    assert {durable.name: consumer(durable, deployment).ack_wait for durable in DURABLES} == waits


async def test_a_consumer_that_was_lost_goes_on_where_tallies_are_still_remembered(
    js: JetStreamContext, empty_nats: EmbeddedNats
) -> None:
    await provision(js, keep_seconds=1.0)
    nc = await connect(empty_nats.url, "client")
    wire = JetStream(nc)
    forgotten = (await wire.publish("deliberation.requested", b"forgotten by now")).seq
    work = (await wire.publish("agent.requested", b"work")).seq
    published = time.time()
    await until(lambda: time.time() > published + 1.1, "its tally would be forgotten")
    remembered = (await wire.publish("deliberation.requested", b"still remembered")).seq
    for stream, name in (("REQUESTS", "intake"), ("AGENT_REQUESTS", "dispatch")):
        await js.delete_consumer(stream, name)
    assert await provision(js, keep_seconds=1.0) == [
        "consumer REQUESTS/intake",
        "consumer AGENT_REQUESTS/dispatch",
    ]
    assert await provision(js, keep_seconds=1.0) == []
    assert forgotten < remembered
    pull = await nc.jetstream().pull_subscribe_bind("intake", "REQUESTS")
    requests = await pull.fetch(2, timeout=0.5)
    assert [msg.metadata.sequence.stream for msg in requests] == [remembered]
    # Work leaves its queue when it is done: whatever is there is still to do.
    pull = await nc.jetstream().pull_subscribe_bind("dispatch", "AGENT_REQUESTS")
    queued = await pull.fetch(1, timeout=5)
    assert [msg.metadata.sequence.stream for msg in queued] == [work]
    await nc.close()


async def test_a_message_is_always_delivered_again(js: JetStreamContext, empty_nats: EmbeddedNats) -> None:
    await provision(js)
    nc = await connect(empty_nats.url, "worker")
    await JetStream(nc).publish("agent.requested", b"poison")
    pull = await nc.jetstream().pull_subscribe_bind("dispatch", "AGENT_REQUESTS")
    for count in range(1, 31):
        (msg,) = await pull.fetch(1, timeout=5)
        assert msg.metadata.num_delivered == count
        await msg.nak()
    await nc.close()
