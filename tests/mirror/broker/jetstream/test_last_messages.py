"""The newest messages of many subjects, in one question."""

import pytest

from parley.broker.core.errors import BrokerUnavailable
from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import close
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.last_messages import last_messages

STREAM = topology.TALLIES


def subject(number: int) -> str:
    return topology.tally_subject(f"t-{number}")


async def test_each_subject_has_its_newest_message_and_one_without_has_none(wire: JetStream) -> None:
    for number in range(300):
        await wire.publish(subject(number), b"old")
        await wire.publish(subject(number), b"%d" % number)
    found = await last_messages(wire, STREAM, [subject(number) for number in range(10, 320)])
    assert found.keys() == {subject(number) for number in range(10, 300)}
    for number in (10, 299):
        message = found[subject(number)]
        assert (message.data, message.seq) == (b"%d" % number, 2 * number + 2)


async def test_where_nothing_is_stored_nothing_is_found(wire: JetStream) -> None:
    assert await last_messages(wire, STREAM, [subject(1), subject(2)]) == {}
    assert await last_messages(wire, "NO_SUCH_STREAM", [subject(1)]) == {}


async def test_a_connection_that_is_closed_is_said(wire: JetStream) -> None:
    await close(wire.nc)
    with pytest.raises(BrokerUnavailable):
        await last_messages(wire, STREAM, [subject(1)])
