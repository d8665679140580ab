"""While the bucket of tallies is filling, requests wait in their stream, and tallies that exist can still end."""

from typing import Any

import pytest

from parley.broker.core.events_and_effects import DeadlineReached, Requested
from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.embedded import EmbeddedNats
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.provision import Wanted, examine, provision
from parley.broker.jetstream.tally_store import TallyStore
from parley.handlers.delivery import ACK, Delivery, Retry, Settlement
from parley.handlers.intake_backpressure import OPEN_SHARE, WAIT_SECONDS, Admission

# The bucket gets 320 KiB of it.
SMALL = 2**20


async def test_requests_wait_while_the_bucket_fills_and_what_is_in_it_can_end(
    empty_nats: EmbeddedNats, caplog: pytest.LogCaptureFixture
) -> None:
    nc = await connect(empty_nats.url, "test")
    wire = JetStream(nc)
    await provision(wire.js, Wanted(storage_bytes=SMALL))
    tallies = TallyStore(wire, keep_seconds=180)

    async def take_in(delivery: Delivery[Any]) -> Settlement:
        name = f"t-{delivery.seq}"
        event = Requested(name, seq=delivery.seq, at=0, deadline=1, role="DEV", num_agents=256)
        await tallies.apply(name, [(event, 0.0)], new=True)
        return ACK

    admission = Admission(tallies, take_in)
    await admission.on_look(await examine(wire.js))
    answers: list[Settlement] = []
    while not answers or answers[-1] == ACK:  # between two looks, by what this process itself has created
        answers.append(await admission.handle(delivery_of(len(answers) + 1)))
    assert answers[-1] == Retry(WAIT_SECONDS)
    taken_in = len(answers) - 1
    assert taken_in > 20
    await admission.on_look(await examine(wire.js))
    assert await admission.handle(delivery_of(1_000)) == Retry(WAIT_SECONDS)
    # There is room for the decision of each one.
    for number in range(1, taken_in + 1):
        await tallies.apply(f"t-{number}", [(DeadlineReached(), 2.0)])
        await tallies.mark_published(f"t-{number}", number)
    # They are forgotten.
    await wire.js.purge_stream("KV_deliberations")
    await admission.on_look(await examine(wire.js))
    assert await admission.handle(delivery_of(1_001)) == ACK
    told = [record.message for record in caplog.records if record.name == "parley.handlers"]
    assert ["is filling" in line for line in told] == [True, False]
    await close(nc)


async def test_a_bucket_that_is_closed_and_open_in_turns_is_told_once(
    empty_nats: EmbeddedNats, caplog: pytest.LogCaptureFixture
) -> None:
    nc = await connect(empty_nats.url, "test")
    wire = JetStream(nc)
    await provision(wire.js, Wanted(storage_bytes=SMALL))

    async def take_in(_: Delivery[Any]) -> Settlement:
        return ACK

    admission = Admission(TallyStore(wire, keep_seconds=180), take_in)
    found = await examine(wire.js)
    bucket = found.streams["KV_deliberations"]
    assert bucket is not None
    limit = bucket.config.max_bytes or 0
    for share in (0.61, 0.59, 0.61, 0.59, 0.61, 0.4, 0.59):
        bucket.state.bytes = int(share * limit)
        await admission.on_look(found)
        assert admission.open == (share < OPEN_SHARE)
    assert ["is filling" in line for line in caplog.messages] == [True, False]
    await close(nc)


def delivery_of(seq: int) -> Delivery[Any]:
    # Any: only its place is read.
    message: Any = None
    return Delivery(message, seq, 0.0, 1)
