"""The modelled broker against the real one: whatever the simulation relies on, nats-server does as well."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

import nats.errors
import pytest
from nats.aio.msg import Msg
from nats.js.errors import APIError

from parley.broker.core.errors import BrokerUnavailable, Conflict
from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import connect
from parley.broker.jetstream.embedded import EmbeddedNats
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.nats_client import NatsClient as Nats
from parley.broker.jetstream.provision import Wanted, provision
from parley.broker.jetstream.topology import Durable, purge_timer_headers
from parley.handlers.delivery import Delivery
from tests.simulation.consumer import Consumer
from tests.simulation.faults import Faults
from tests.simulation.link import Link, as_client
from tests.simulation.loop import VirtualLoop
from tests.simulation.server import Server
from tests.simulation.stream import Kept
from tests.simulation.trace import Trace


class Bench(Protocol):
    """One of the two brokers, empty."""

    wire: JetStream

    def now(self) -> float: ...

    async def take(self, durable: Durable, seconds: float) -> Delivery[Any] | None:
        """The next delivery within `seconds`."""
        ...


class Real:
    def __init__(self, nc: Nats) -> None:
        self.wire = JetStream(nc)

    def now(self) -> float:
        return time.time()

    async def take(self, durable: Durable, seconds: float) -> Delivery[Any] | None:
        subscription = await self.wire.nc.subscribe(inbox := self.wire.nc.new_inbox())
        request = json.dumps({"batch": 1, "expires": int(seconds * 1e9)}).encode()
        await self.wire.nc.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{durable.stream}.{durable.name}", request, reply=inbox
        )
        try:
            message: Msg = await subscription.next_msg(timeout=seconds + 1)
        except nats.errors.TimeoutError:
            return None
        finally:
            await subscription.unsubscribe()
        return Delivery.of(message) if message.reply else None


class Unwatched:
    def stored(self, kept: Kept, before: Kept | None, by: str) -> None: ...

    def repeated(self, kept_seq: int, subject: str, data: bytes) -> None: ...

    def settled(self, consumer: Consumer, kept: Kept, by: str) -> None: ...

    def heard(self, subject: str, data: bytes) -> None: ...

    def told(self, subject: str, data: bytes) -> None: ...


class Modelled:
    """Also the puller of what it takes."""

    name = "bench"

    def __init__(self) -> None:
        self.server = Server(
            random.Random(0), Faults([]), Unwatched(), Trace(), keep_seconds=180.0, latency=0.001
        )
        self.link = Link(self.server, None, self.name)
        self.wire = JetStream(as_client(self.link))
        self._came: asyncio.Future[Delivery[Any]] | None = None

    def now(self) -> float:
        return self.server.now

    def ask(self) -> None: ...

    def on_status(self, status: str, pending: int, pending_bytes: int, description: str) -> None: ...

    def sent(self) -> None: ...

    def missed(self) -> None: ...

    def arrive(self, kept: Kept, reply: str, *, awaited: bool = True) -> None:
        assert self._came is not None
        self._came.set_result(Delivery.of(self.link.delivered(kept, reply)))

    async def take(self, durable: Durable, seconds: float) -> Delivery[Any] | None:
        consumer = self.server.consumers[durable.name]
        self._came = self.server.loop.create_future()
        consumer.request(self, 1)
        try:
            async with asyncio.timeout(seconds):
                return await self._came
        except TimeoutError:
            return None
        finally:
            consumer.forget(self)


Fact = Callable[[Bench], Awaitable[object]]


async def a_msg_id_is_stored_once(bench: Bench) -> object:
    first = (await bench.wire.publish(topology.AGENT_FAILED, b"1", msg_id="a")).seq
    again = (await bench.wire.publish(topology.AGENT_FAILED, b"2", msg_id="a")).seq
    other = (await bench.wire.publish(topology.AGENT_FAILED, b"3", msg_id="b")).seq
    return first, again, other


async def a_write_must_know_the_one_before(bench: Bench) -> object:
    subject, told = topology.tally_subject("t"), []
    for revision in (0, 0, 1, 1, 2):
        try:
            told.append(
                (
                    await bench.wire.publish(
                        subject, b"{}", headers={"Nats-Expected-Last-Subject-Sequence": str(revision)}
                    )
                ).seq
            )
        except Conflict:
            told.append(-1)
    newest = await bench.wire.get_last(topology.TALLIES, subject)
    return told, await bench.wire.get(topology.TALLIES, 1), newest.seq if newest else None


async def a_time_to_live_leaves_nothing_to_compare_with(bench: Bench) -> object:
    subject = topology.tally_subject("t")
    await bench.wire.publish(subject, b"{}", headers={"Nats-TTL": "1s"})
    there = await bench.wire.get_last(topology.TALLIES, subject)
    await asyncio.sleep(2.5)
    gone = await bench.wire.get_last(topology.TALLIES, subject)
    seq = (await bench.wire.publish(subject, b"{}", headers={"Nats-Expected-Last-Subject-Sequence": "0"})).seq
    return there is not None, gone, seq


async def arm(bench: Bench, seconds: float) -> None:
    await bench.wire.schedule(
        topology.timer_subject("t"), topology.deadline_subject("t"), bench.now() + seconds, b"{}"
    )


async def a_deadline_comes_once_and_not_before_its_time(bench: Bench) -> object:
    await arm(bench, 0.2)
    due = bench.now() + 0.6
    await arm(bench, 0.6)  # replaces the first
    came = await bench.take(topology.EXPIRY, 2.0)
    assert came is not None
    await came.ack()
    left = await bench.wire.get_last(topology.DELIBERATIONS, topology.timer_subject("t"))
    return came.msg.subject, came.at >= due - 0.002, await bench.take(topology.EXPIRY, 1.0), left


async def an_ending_cancels_its_deadline_as_it_is_stored(bench: Bench) -> object:
    await arm(bench, 0.4)
    await bench.wire.publish(topology.FAILED, b"{}", msg_id="t:ending", headers=purge_timer_headers("t"))
    left = await bench.wire.get_last(topology.DELIBERATIONS, topology.timer_subject("t"))
    return left, await bench.take(topology.EXPIRY, 1.0)


async def an_ending_that_is_a_duplicate_cancels_nothing(bench: Bench) -> object:
    headers = purge_timer_headers("t")
    await bench.wire.publish(topology.FAILED, b"{}", msg_id="t:ending", headers=headers)
    await arm(bench, 0.4)
    again = (await bench.wire.publish(topology.FAILED, b"{}", msg_id="t:ending", headers=headers)).seq
    came = await bench.take(topology.EXPIRY, 1.5)
    return again, came is not None


async def what_is_given_back_comes_again_after_its_delay(bench: Bench) -> object:
    await bench.wire.publish(topology.REQUESTED, b"{}")
    first = await bench.take(topology.INTAKE, 1.0)
    assert first is not None
    await first.nak(0.3)
    at_once, later = await bench.take(topology.INTAKE, 0.1), await bench.take(topology.INTAKE, 1.0)
    assert later is not None
    await later.ack()
    return (
        first.count,
        at_once,
        later.count,
        later.seq,
        later.at == first.at,
        await bench.take(topology.INTAKE, 0.3),
    )


async def what_nobody_settles_comes_again_and_any_delivery_of_it_settles_it(bench: Bench) -> object:
    await bench.wire.publish(topology.deadline_subject("t"), b"{}")
    first = await bench.take(topology.EXPIRY, 1.0)
    again = await bench.take(topology.EXPIRY, 3.0)
    assert first is not None
    assert again is not None
    await first.ack()
    return first.count, again.count, await bench.take(topology.EXPIRY, 2.5)


async def a_consumer_tells_what_is_settled(bench: Bench) -> object:
    told = []

    async def tell() -> None:
        await asyncio.sleep(0.05)  # an acknowledgement has no answer
        info = await bench.wire.js.consumer_info(topology.INTAKE.stream, topology.INTAKE.name)
        told.append(
            (info.ack_floor.stream_seq if info.ack_floor else 0, info.num_pending, info.num_ack_pending)
        )

    await tell()
    for _ in range(3):
        await bench.wire.publish(topology.REQUESTED, b"{}")
    await tell()
    one, two = await bench.take(topology.INTAKE, 1.0), await bench.take(topology.INTAKE, 1.0)
    assert one is not None
    assert two is not None
    await tell()
    await two.ack()
    await tell()
    await one.ack()
    await tell()
    return told


async def work_leaves_its_queue_when_it_is_acknowledged(bench: Bench) -> object:
    await bench.wire.publish(topology.AGENT_REQUESTED, b"{}")
    before = await bench.wire.get(topology.AGENT_REQUESTS, 1)
    job = await bench.take(topology.DISPATCH, 1.0)
    assert job is not None
    await job.ack()
    await asyncio.sleep(0.1)
    return before is not None, await bench.wire.get(topology.AGENT_REQUESTS, 1)


async def a_stream_of_requests_obeys_nobody(bench: Bench) -> object:
    commands = (
        {"Nats-Rollup": "all"}, {"Nats-Rollup": "sub"}, {"Nats-TTL": "1s"},
        {"Nats-Schedule": "@at 2099-01-01T00:00:00Z", "Nats-Schedule-Target": topology.COMPLETED},
        {"Nats-Schedule-Next": "purge", "Nats-Scheduler": topology.timer_subject("t")},
        {"Nats-Schedule-Next": "purge"}, {"Nats-Scheduler": topology.timer_subject("t")},
    )  # fmt: skip
    told = []
    for headers in commands:
        for subject in (topology.REQUESTED, topology.CANCEL):
            with pytest.raises((BrokerUnavailable, APIError)) as refused:
                await bench.wire.publish(subject, b"{}", headers=headers)
            cause = refused.value if isinstance(refused.value, APIError) else refused.value.__cause__
            assert isinstance(cause, APIError)
            told.append((cause.code, cause.err_code, cause.description))
    return told


async def a_schedule_stays_in_its_stream_and_names_another_subject(bench: Bench) -> object:
    told = []
    for target in (topology.CANCEL, topology.timer_subject("t")):
        with pytest.raises(APIError) as refused:
            await bench.wire.schedule(topology.timer_subject("t"), target, bench.now() + 60, b"{}")
        told.append((refused.value.code, refused.value.err_code, refused.value.description))
    return told


async def a_stream_of_timers_can_be_emptied(bench: Bench) -> object:
    await arm(bench, 0.4)
    stored = await bench.wire.publish(topology.FAILED, b"{}", headers={"Nats-Rollup": "all"})
    left = await bench.wire.get_last(topology.DELIBERATIONS, topology.timer_subject("t"))
    return stored.seq, left, await bench.take(topology.EXPIRY, 1.0)


FACTS: tuple[Fact, ...] = (
    a_stream_of_requests_obeys_nobody,
    a_schedule_stays_in_its_stream_and_names_another_subject,
    a_stream_of_timers_can_be_emptied,
    a_msg_id_is_stored_once,
    a_write_must_know_the_one_before,
    a_time_to_live_leaves_nothing_to_compare_with,
    a_deadline_comes_once_and_not_before_its_time,
    an_ending_cancels_its_deadline_as_it_is_stored,
    an_ending_that_is_a_duplicate_cancels_nothing,
    what_is_given_back_comes_again_after_its_delay,
    what_nobody_settles_comes_again_and_any_delivery_of_it_settles_it,
    a_consumer_tells_what_is_settled,
    work_leaves_its_queue_when_it_is_acknowledged,
)


@pytest.fixture
async def real(empty_nats: EmbeddedNats) -> AsyncIterator[Real]:
    nc = await connect(empty_nats.url, "simulation")
    await provision(nc.jetstream(), Wanted(keep_seconds=180.0))
    yield Real(nc)
    await nc.close()


def modelled(fact: Fact) -> object:
    found: list[object] = []

    async def find() -> None:
        found.append(await fact(Modelled()))

    VirtualLoop().run(find())
    return found[0]


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.__name__)
async def test_the_model_does_what_the_server_does(fact: Fact, real: Real) -> None:
    assert await asyncio.to_thread(modelled, fact) == await fact(real)
