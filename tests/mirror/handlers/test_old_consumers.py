"""What 0.1.0 left in DELIBERATIONS is taken in from there, and then its consumers are gone."""

import asyncio
from dataclasses import replace
from typing import Any

from parley.broker.asyncio_helpers import BackgroundLoop
from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.embedded import EmbeddedNats
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.provision import provision
from parley.handlers.delivery import Delivery
from parley.handlers.old_consumers import OldConsumers, old_puller
from tests.harness import until

OLD = (topology.OLD_INTAKE, topology.OLD_CANCELLER)


async def names(wire: JetStream) -> set[str | None]:
    return {consumer.name for consumer in await wire.js.consumers_info(topology.DELIBERATIONS)}


async def test_what_is_left_is_taken_in_and_the_consumers_go(empty_nats: EmbeddedNats) -> None:
    nc = await connect(empty_nats.url, "test")
    wire = JetStream(nc)
    declared = {stream.name: stream for stream in topology.streams()}
    timers = declared[topology.DELIBERATIONS]
    both = [topology.REQUESTED, topology.CANCEL]
    await wire.js.add_stream(replace(timers, subjects=[*both, *(timers.subjects or ())]))
    for durable in OLD:
        await wire.js.add_consumer(durable.stream, topology.consumer(durable))
    stored = [(await nc.jetstream().publish(both[number % 2], b"{}")).seq for number in range(100)]
    await provision(wire.js)
    taken: list[int] = []
    held = asyncio.Event()

    async def handle(deliveries: list[Delivery[Any]]) -> None:
        await held.wait()
        for delivery in deliveries:
            taken.append(delivery.seq)
            await delivery.ack()

    old = OldConsumers(wire, [old_puller(durable, handle) for durable in OLD])
    loop = BackgroundLoop(old.run, "old")
    await asyncio.sleep(0)
    assert {"intake", "cancel"} <= await names(wire)
    held.set()

    async def gone() -> bool:
        return not {"intake", "cancel"} & await names(wire)

    await until(gone, "the consumers are deleted")
    assert sorted(set(taken)) == stored
    await old.stop(1.0)
    loop.cancel()
    await close(nc)


async def test_where_there_was_no_0_1_0_it_does_nothing(empty_nats: EmbeddedNats) -> None:
    nc = await connect(empty_nats.url, "test")
    wire = JetStream(nc)
    await provision(wire.js)

    async def handle(deliveries: list[Delivery[Any]]) -> None:
        raise AssertionError(deliveries)

    pullers = [old_puller(durable, handle) for durable in OLD]
    await asyncio.wait_for(OldConsumers(wire, pullers).run(), 5)
    assert all(puller.subscription is None for puller in pullers)
    await close(nc)
