"""The metadata and the payload of a delivered message."""

import time
from typing import cast

import nats.errors
import pytest
from nats.aio.msg import Msg

from parley.broker.core.errors import InvalidMessage
from parley.broker.core.messages import DeliberationCancel, DeliberationDeadline
from parley.broker.jetstream import topology
from parley.broker.jetstream.nats_client import NatsClient as Nats
from parley.handlers.delivery import Delivery
from tests.mirror.handlers import Bench

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
# "$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<timestamp ns>.<pending>"
NINE = "$JS.ACK.DELIBERATIONS.intake.3.41.7.1763800000123456789.5"
# The same with a domain and an account hash, and a random token at the end: a hub with leaf nodes sends this.
ELEVEN = "$JS.ACK.hub.AbCdEf.DELIBERATIONS.intake.3.41.7.1763800000123456789.5"
TWELVE = ELEVEN + ".x9"
NO_DOMAIN = TWELVE.replace("hub", "_")


def received(reply: str, data: bytes = b"", headers: dict[str, str] | None = None) -> Delivery[object]:
    # A message that is only read: nothing here sends.
    return Delivery.of(
        Msg(cast(Nats, None), subject=topology.REQUESTED, reply=reply, data=data, headers=headers)
    )


@pytest.mark.parametrize(
    "reply", [NINE, ELEVEN, TWELVE, NO_DOMAIN], ids=["nine", "eleven", "twelve", "no domain"]
)
def test_place_time_and_count_are_read_from_either_form_of_the_reply_subject(reply: str) -> None:
    delivery = received(reply)
    assert (delivery.seq, delivery.count) == (41, 3)
    assert delivery.at == pytest.approx(1763800000.123456789, abs=1e-6)


@pytest.mark.parametrize("reply", [NINE, ELEVEN, TWELVE])
def test_the_reply_subject_is_read_as_nats_py_reads_it(reply: str) -> None:
    delivery = received(reply)
    metadata = delivery.msg.metadata
    assert (metadata.stream, metadata.consumer) == ("DELIBERATIONS", "intake")
    assert (delivery.seq, delivery.count) == (metadata.sequence.stream, metadata.num_delivered)
    assert delivery.at == pytest.approx(metadata.timestamp.timestamp(), abs=1e-6)


@pytest.mark.parametrize("reply", ["", "_INBOX.abc", "$JS.ACK.x", ".".join(["x"] * 10)])
def test_a_message_that_is_not_of_jetstream_is_refused(reply: str) -> None:
    with pytest.raises(nats.errors.NotJSMessageError):
        received(reply)


async def test_a_real_delivery_knows_its_place_its_time_and_which_delivery_it_is(bench: Bench) -> None:
    seqs = [await bench.publish(topology.REQUESTED, {"n": n}) for n in range(3)]
    first = await bench.taken(topology.INTAKE, 3)
    assert [delivery.seq for delivery in first] == seqs
    assert [delivery.count for delivery in first] == [1, 1, 1]
    for delivery in first:
        assert delivery.at == pytest.approx(delivery.msg.metadata.timestamp.timestamp(), abs=1e-6)
    await first[1].nak()
    (again,) = await bench.taken(topology.INTAKE)
    assert (again.seq, again.count, again.at) == (seqs[1], 2, first[1].at)


async def test_an_acknowledged_message_is_settled(bench: Bench) -> None:
    await bench.publish(topology.REQUESTED, {})
    (delivery,) = await bench.taken(topology.INTAKE)
    assert not await bench.nothing_left(topology.INTAKE)
    await delivery.ack()
    await bench.settled(topology.INTAKE)


async def test_a_message_given_back_with_a_delay_comes_not_before_it(bench: Bench) -> None:
    await bench.publish(topology.REQUESTED, {})
    (delivery,) = await bench.taken(topology.INTAKE)
    started = time.monotonic()
    await delivery.nak(0.3)
    (again,) = await bench.taken(topology.INTAKE)
    assert time.monotonic() - started >= 0.3
    assert again.count == 2


def test_a_payload_is_read_as_what_is_expected_or_refused() -> None:
    delivery = received(NINE, b'{"task_id": "t-1", "reason": "x"}', {"traceparent": TRACE})
    assert delivery.payload(DeliberationCancel) == DeliberationCancel(task_id="t-1", reason="x")
    assert delivery.traceparent == TRACE
    with pytest.raises(InvalidMessage):
        received(NINE, b"nope").payload(DeliberationDeadline)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00-aa",
        TRACE + "\x00",
        TRACE.upper(),
        TRACE.replace("00-", "ff-", 1),
        "0" * 30_000,
        f"00-{'0' * 32}-{'0' * 16}-01",
    ],
)
def test_an_invalid_trace_context_is_ignored(value: str) -> None:
    assert received(NINE, b"", {"traceparent": value}).traceparent is None


def test_a_message_without_headers_has_none() -> None:
    delivery = received(NINE)
    assert (delivery.headers, delivery.traceparent) == ({}, None)


@pytest.mark.parametrize("name", ["traceparent", "Traceparent", "TRACEPARENT", "TraceParent"])
def test_a_trace_is_found_whatever_the_case_of_its_header(name: str) -> None:
    assert received(NINE, headers={"x": "y", name: TRACE}).traceparent == TRACE
