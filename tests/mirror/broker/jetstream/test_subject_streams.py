"""Which stream may acknowledge which subject, and that another one's acknowledgement counts as none."""

import json

import pytest
from nats.aio.msg import Msg

from parley.broker.core.errors import BrokerUnavailable
from parley.broker.jetstream import topology
from parley.broker.jetstream.forgery_counts import Forgery
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.nats_client import NatsClient as Nats
from parley.broker.jetstream.subject_streams import may_acknowledge, stream_of


@pytest.mark.parametrize(
    ("subject", "stream"),
    [
        (topology.REQUESTED, "REQUESTS"), (topology.CANCEL, "REQUESTS"), (topology.COMPLETED, "DELIBERATIONS"),
        (topology.FAILED, "DELIBERATIONS"), (topology.timer_subject("t-1"), "DELIBERATIONS"),
        (topology.AGENT_REQUESTED, "AGENT_REQUESTS"), (topology.AGENT_COMPLETED, "AGENT_RESPONSES"),
        (topology.dead_letter_subject("a.b"), "DEAD_LETTERS"), (topology.tally_subject("t-1"), "KV_deliberations"),
        ("$O.results.C.x", "OBJ_results"), ("elsewhere", None),
    ],
)  # fmt: skip
def test_each_subject_has_its_stream(subject: str, stream: str | None) -> None:
    assert stream_of(subject) == stream
    assert may_acknowledge(stream or "any", subject)
    assert may_acknowledge("ANOTHER", subject) is (stream is None)


async def test_an_acknowledgement_of_another_stream_counts_as_none(nc: Nats) -> None:
    async def forge(message: Msg) -> None:
        await message.respond(json.dumps({"stream": "ANOTHER", "seq": 7}).encode())

    # Without its stream, what answers is a stranger.
    await nc.jetstream().delete_stream(topology.DELIBERATIONS)
    await nc.subscribe(topology.COMPLETED, cb=forge)
    with pytest.raises(BrokerUnavailable, match="another stream"):
        await JetStream(nc).publish(topology.COMPLETED, b"{}")
    assert nc.forgeries.counts[Forgery.ACKNOWLEDGEMENT] == 1
