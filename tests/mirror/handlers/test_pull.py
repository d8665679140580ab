"""A subscriber that takes only what there is room for, on a real NATS: limits, promptness, restarts, stopping."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from nats.aio.msg import Msg

from parley.broker.asyncio_helpers import Capacity
from parley.broker.core.messages import AgentRequested
from parley.broker.core.reply_subjects import SERVICE_INBOX
from parley.broker.jetstream import connection as connecting
from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import connect_options
from parley.broker.jetstream.embedded import embedded_nats
from parley.broker.jetstream.forgery_counts import Forgery
from parley.broker.jetstream.topology import DISPATCH
from parley.handlers import pull, pull_window
from parley.handlers.delivery import Delivery
from parley.handlers.faststream_private import ServiceBroker, attach
from parley.handlers.pull import FreeSlots, PullSubscriber
from tests.harness import until
from tests.mirror.handlers import MALFORMED_HEADERS, Bench, bench_at, publish_raw

Handler = Callable[[list[Delivery[Any]]], Awaitable[None]]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is lost is noticed soon."""
    monkeypatch.setattr(pull_window, "REQUEST_SECONDS", 0.5)
    monkeypatch.setattr(pull_window, "LOST_SECONDS", 0.2)
    monkeypatch.setattr(pull, "ERROR_WAIT_SECONDS", 0.05)
    monkeypatch.setattr(connecting, "RECONNECT_WAIT_SECONDS", 0.05)


@asynccontextmanager
async def flowing(
    url: str,
    handler: Handler,
    *,
    batch: int = 64,
    limit: int = 128,
    limit_bytes: int | None = None,
    pool: FreeSlots | None = None,
    grace_seconds: float = 5.0,
) -> AsyncIterator[PullSubscriber]:
    """`handler` on `agent.requested`, in a FastStream broker of its own, until the block ends."""
    broker = ServiceBroker(
        **connect_options(url, "flow", SERVICE_INBOX),
        apply_types=False,
        logger=None,
        graceful_timeout=grace_seconds,
    )
    subscriber = PullSubscriber(
        DISPATCH, handler, batch=batch, limit=limit, limit_bytes=limit_bytes, pool=pool
    )
    attach(broker, subscriber, payload=AgentRequested, title="work", description="Work.")
    await broker.start()
    try:
        yield subscriber
    finally:
        await broker.stop()


class Workers:
    """Takes deliveries in hand and, if it holds them, finishes none before it may."""

    def __init__(self, *, hold: bool = True) -> None:
        self.may_finish = asyncio.Event()
        if not hold:
            self.may_finish.set()
        self.batches: list[int] = []
        self.in_hand = self.most_in_hand = 0
        self.finished: list[int] = []

    async def __call__(self, deliveries: list[Delivery[Any]]) -> None:
        self.batches.append(len(deliveries))
        self.in_hand += len(deliveries)
        self.most_in_hand = max(self.most_in_hand, self.in_hand)
        await self.may_finish.wait()
        for delivery in deliveries:
            await delivery.ack()
            self.finished.append(delivery.seq)
        self.in_hand -= len(deliveries)


async def publish(bench: Bench, count: int) -> list[int]:
    publishing = (bench.publish(topology.AGENT_REQUESTED, {"n": n}) for n in range(count))
    return list(await asyncio.gather(*publishing))


async def handed_out(bench: Bench) -> int:
    """How many messages the server has handed out that nobody has settled."""
    return (await bench.js.consumer_info(DISPATCH.stream, DISPATCH.name)).num_ack_pending or 0


# ── only what there is room for ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("batch", "limit"), [(64, 7), (3, 7), (1, 1), (7, 64)])
async def test_never_more_is_in_hand_than_the_limit(bench: Bench, batch: int, limit: int) -> None:
    workers = Workers()
    seqs = await publish(bench, 70)
    async with flowing(bench.url, workers, batch=batch, limit=limit) as subscriber:
        await until(lambda: workers.in_hand == min(limit, 70), "all the room is taken")
        assert subscriber.held() == min(limit, 70)
        # The server's own count: nothing was taken from the queue to wait in this process.
        assert await handed_out(bench) == min(limit, 70)
        workers.may_finish.set()
        await until(lambda: len(workers.finished) == 70, "everything is done")
    assert sorted(workers.finished) == seqs
    assert workers.most_in_hand <= limit
    assert max(workers.batches) <= batch
    assert await bench.nothing_left(DISPATCH)


async def test_no_more_bytes_are_in_hand_than_the_limit(bench: Bench) -> None:
    """64 requests of 0.9 MB each in hand ended a process at the chart's memory limit."""
    size, limit_bytes = 300_000, 1_000_000
    workers, small = Workers(), 20
    sizes = [size] * 12 + [10] * small + [700_000] + [size] * 3
    for each in sizes:
        await bench.publish(topology.AGENT_REQUESTED, {"n": "x" * each})
    async with flowing(bench.url, workers, limit=64, limit_bytes=limit_bytes) as subscriber:
        await until(lambda: workers.in_hand == 3, "all the room is taken")
        assert await handed_out(bench) == 3
        assert limit_bytes > subscriber.window.held_bytes > 3 * size
        workers.may_finish.set()
        await until(lambda: len(workers.finished) == len(sizes), "everything is done")
        assert subscriber.window.held_bytes == 0
    assert await bench.nothing_left(DISPATCH)


async def test_a_message_larger_than_the_limit_comes_alone(bench: Bench) -> None:
    workers = Workers()
    for size in (10, 500_000, 10, 10):
        await bench.publish(topology.AGENT_REQUESTED, {"n": "x" * size})
    async with flowing(bench.url, workers, limit=64, limit_bytes=100_000) as subscriber:
        await until(lambda: workers.in_hand == 1, "the small one is there")
        assert await handed_out(bench) == 1
        workers.may_finish.set()
        await until(lambda: len(workers.finished) == 4, "everything is done")
        assert subscriber.window.held_bytes == 0


async def test_a_request_that_was_used_in_part_promises_no_room_twice(bench: Bench) -> None:
    workers = Workers()
    async with flowing(bench.url, workers, batch=8, limit=8):
        await publish(bench, 1)
        await until(lambda: workers.in_hand == 1, "one is in submit, and there is room for seven")
        await publish(bench, 1)
        await until(lambda: workers.in_hand == 2, "two are in submit, and there is room for six")
        await publish(bench, 40)
        await until(lambda: workers.in_hand == 8, "all the room is taken")
        assert await handed_out(bench) == 8
        workers.may_finish.set()
        await until(lambda: len(workers.finished) == 42, "everything is done")
    assert workers.most_in_hand <= 8


async def test_the_rest_waits_where_another_replica_can_take_it(bench: Bench) -> None:
    busy, other = Workers(), Workers(hold=False)
    async with flowing(bench.url, busy, limit=5):
        await publish(bench, 20)
        await until(lambda: busy.in_hand == 5, "the first replica is full")
        async with flowing(bench.url, other, limit=5):
            await until(lambda: len(other.finished) == 15, "the second replica has done the rest")
        busy.may_finish.set()
    assert len(busy.finished) == 5


class Slots(Capacity):
    """The slots of a pool."""

    def free_slots(self) -> int:
        return self.free

    async def wait_free_slots(self) -> int:
        return await self.wait_free()


async def test_the_room_outside_bounds_it_too(bench: Bench) -> None:
    slots = Slots(4)
    running: list[Delivery[Any]] = []
    most = done = 0

    async def submit(deliveries: list[Delivery[Any]]) -> None:
        nonlocal most
        slots.take(len(deliveries))
        running.extend(deliveries)
        most = max(most, slots.taken)

    await publish(bench, 31)
    async with flowing(bench.url, submit, limit=64, pool=slots):
        while done < 31:
            left = min(4, 31 - done)

            async def every_slot_is_taken(left: int = left) -> bool:
                return len(running) == left and await handed_out(bench) == left

            await until(every_slot_is_taken, "every slot is taken, and no more is handed out")
            for delivery in running[:3]:
                await delivery.ack()
                running.remove(delivery)
                slots.give(1)
                done += 1
    assert most == 4


async def test_with_no_room_outside_nothing_is_taken_until_there_is(bench: Bench) -> None:
    slots = Slots(0)
    workers = Workers(hold=False)
    await publish(bench, 3)
    async with flowing(bench.url, workers, pool=slots):
        quiet = await bench.js.consumer_info(DISPATCH.stream, DISPATCH.name)
        assert (quiet.num_waiting, quiet.num_ack_pending, quiet.num_pending) == (0, 0, 3)
        slots.resize(1)
        await until(lambda: len(workers.finished) == 3, "the work is done")
    assert workers.batches == [1, 1, 1]


# ── promptly ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_message_is_handled_the_moment_it_comes_not_when_a_batch_is_full(bench: Bench) -> None:
    workers = Workers(hold=False)
    async with flowing(bench.url, workers, batch=64):
        for _ in range(5):
            started = time.monotonic()
            (seq,) = await publish(bench, 1)
            await until(partial(workers.finished.__contains__, seq), "it is done")
            # A pull request waits at the server for seconds; a full batch never comes.
            assert time.monotonic() - started < 1.0
    assert workers.batches == [1] * 5


async def test_what_came_together_goes_together(bench: Bench) -> None:
    workers = Workers(hold=False)
    await publish(bench, 40)
    async with flowing(bench.url, workers, batch=40):
        await until(lambda: len(workers.finished) == 40, "everything is done")
    assert len(workers.batches) < 20


async def test_a_slow_message_stalls_no_other(bench: Bench) -> None:
    finished: list[int] = []
    let_go = asyncio.Event()

    async def handle(deliveries: list[Delivery[Any]]) -> None:
        for delivery in deliveries:
            if delivery.seq == 1:
                await let_go.wait()
            await delivery.ack()
            finished.append(delivery.seq)

    async with flowing(bench.url, handle, batch=1, limit=2):
        await publish(bench, 10)
        await until(lambda: sorted(finished) == list(range(2, 11)), "all but the slow one are done")
        let_go.set()
        await until(lambda: finished[-1] == 1, "the slow one is done")


async def test_a_handler_that_raises_frees_its_room_and_loses_nothing(bench: Bench) -> None:
    seen: list[tuple[int, int]] = []

    async def handle(deliveries: list[Delivery[Any]]) -> None:
        (delivery,) = deliveries
        seen.append((delivery.seq, delivery.count))
        if delivery.count == 1:
            await delivery.nak()
            raise RuntimeError("a bug")
        await delivery.ack()

    await publish(bench, 3)
    async with flowing(bench.url, handle, batch=1, limit=1):
        await bench.settled(DISPATCH)
    assert sorted(seen) == [(seq, count) for seq in (1, 2, 3) for count in (1, 2)]


async def test_each_delivery_of_a_batch_is_read_by_itself(bench: Bench) -> None:
    bodies: list[bytes] = []

    async def handle(deliveries: list[Delivery[Any]]) -> None:
        bodies.extend(delivery.data for delivery in deliveries)
        for delivery in deliveries:
            await delivery.ack()

    for body in (b"\xff\xfe", b"", b"{nope", b"{}"):
        await bench.publish(topology.AGENT_REQUESTED, body)
    async with flowing(bench.url, handle):
        await until(lambda: len(bodies) == 4, "all were handed over as they came")
    assert bodies == [b"\xff\xfe", b"", b"{nope", b"{}"]


async def test_a_message_with_a_status_header_is_still_a_message(bench: Bench) -> None:
    workers = Workers(hold=False)
    async with flowing(bench.url, workers):
        for status in ("404", "408", "409", "503"):
            await bench.publish(
                topology.AGENT_REQUESTED, {}, headers={"Status": status, "Description": "go away"}
            )
        await until(lambda: len(workers.finished) == 4, "all were handed over")
    assert await bench.nothing_left(DISPATCH)


@pytest.mark.parametrize("headers", MALFORMED_HEADERS, ids=repr)
async def test_a_message_with_malformed_headers_harms_no_other(bench: Bench, headers: bytes) -> None:
    workers = Workers(hold=False)
    async with flowing(bench.url, workers):
        await publish_raw(bench, topology.AGENT_REQUESTED, headers)
        await publish(bench, 1)
        await until(lambda: sorted(workers.finished) == [1, 2], "it and the one after it are done")


# ── when NATS goes and comes ──────────────────────────────────────────────────────────────────────────────────────


async def test_it_fetches_again_after_a_restart_of_nats(impatient: None, tmp_path: Path) -> None:
    workers = Workers(hold=False)
    async with AsyncExitStack() as up:
        server = await up.enter_async_context(embedded_nats(tmp_path, with_token=False))
        port = urlsplit(server.url).port or 0
        async with bench_at(server.url) as bench, flowing(bench.url, workers, limit=10) as subscriber:
            await publish(bench, 2)
            await until(lambda: len(workers.finished) == 2, "the work before is done")
            await up.aclose()
            await until(lambda: not bench.nc.is_connected, "NATS is gone")
            await up.enter_async_context(embedded_nats(tmp_path, with_token=False, port=port))
            await until(lambda: bench.nc.is_connected, "NATS is back")
            await publish(bench, 100)
            await until(lambda: len(set(workers.finished)) == 102, "the work after is done")
            await bench.settled(DISPATCH)
            await until(lambda: subscriber.window.held == 0, "nothing is in hand")
    assert workers.most_in_hand <= 10


async def test_a_consumer_that_was_deleted_and_made_again_is_followed(impatient: None, bench: Bench) -> None:
    workers = Workers(hold=False)
    async with flowing(bench.url, workers):
        await publish(bench, 1)
        await until(lambda: workers.finished == [1], "the work before is done")
        await bench.settled(DISPATCH)
        await bench.js.delete_consumer(DISPATCH.stream, DISPATCH.name)
        await publish(bench, 1)
        await bench.js.add_consumer(DISPATCH.stream, topology.consumer(DISPATCH))
        await until(lambda: workers.finished == [1, 2], "the work after is done")


async def test_waiting_for_nothing_leaves_no_requests_behind(impatient: None, bench: Bench) -> None:
    workers = Workers(hold=False)
    asked: list[Msg] = []

    async def note(msg: Msg) -> None:
        asked.append(msg)

    await bench.nc.subscribe(f"$JS.API.CONSUMER.MSG.NEXT.{DISPATCH.stream}.{DISPATCH.name}", cb=note)
    await bench.nc.flush()
    async with flowing(bench.url, workers, batch=8):
        await until(lambda: len(asked) >= 3, "two requests have expired and the third waits")
        info = await bench.js.consumer_info(DISPATCH.stream, DISPATCH.name)
        assert (info.num_waiting or 0) <= 1
        await publish(bench, 20)
        await until(lambda: len(workers.finished) == 20, "the work is done")
    assert workers.most_in_hand <= 128


# ── stopping ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_stopping_lets_what_is_in_hand_finish_and_takes_nothing_more(bench: Bench) -> None:
    workers = Workers()
    await publish(bench, 3)
    async with flowing(bench.url, workers, limit=2) as subscriber:
        await until(lambda: workers.in_hand == 2, "two are in hand")
        stopping = asyncio.create_task(subscriber.stop(None))
        await until(lambda: subscriber.subscription is None, "it takes no more")
        await publish(bench, 1)
        workers.may_finish.set()
        await stopping
    assert len(workers.finished) == 2
    info = await bench.js.consumer_info(DISPATCH.stream, DISPATCH.name)
    assert (info.num_ack_pending, info.num_pending) == (0, 2)


async def test_stopping_with_nothing_to_do_is_quick(bench: Bench) -> None:
    async with flowing(bench.url, Workers()) as subscriber:

        async def waits() -> bool:
            return bool((await bench.js.consumer_info(DISPATCH.stream, DISPATCH.name)).num_waiting)

        await until(waits, "its request waits at the server")
        started = time.monotonic()
        await subscriber.stop(None)
        assert time.monotonic() - started < 1.0


async def test_stopping_while_nats_is_away_is_quick_too(impatient: None, tmp_path: Path) -> None:
    async with AsyncExitStack() as up:
        server = await up.enter_async_context(embedded_nats(tmp_path, with_token=False))
        async with bench_at(server.url) as bench:
            broker = ServiceBroker(**connect_options(server.url, "flow"), apply_types=False, logger=None)
            subscriber = PullSubscriber(DISPATCH, Workers(), batch=8, limit=8)
            attach(broker, subscriber, payload=AgentRequested, title="work", description="Work.")
            await broker.start()
            connection = await broker.connect()
            await up.aclose()
            await until(lambda: not bench.nc.is_connected and not connection.is_connected, "NATS is gone")
            started = time.monotonic()
            await subscriber.stop(None)
            assert time.monotonic() - started < 1.0
            await up.enter_async_context(
                embedded_nats(tmp_path, with_token=False, port=urlsplit(server.url).port or 0)
            )
            await until(lambda: bench.nc.is_connected and connection.is_connected, "NATS is back")
            await broker.stop()


async def test_stopping_does_not_wait_longer_than_its_grace(bench: Bench) -> None:
    workers = Workers()
    await publish(bench, 1)
    async with flowing(bench.url, workers, grace_seconds=0.1) as subscriber:
        await until(lambda: workers.in_hand == 1, "it is in hand")
        started = time.monotonic()
        await subscriber.stop(0.1)
        assert time.monotonic() - started < 5
        assert workers.finished == []
        workers.may_finish.set()
        await until(lambda: workers.finished == [1], "it is done after all")


async def test_stopping_gives_back_what_was_not_begun(bench: Bench) -> None:
    begun: list[Delivery[Any]] = []
    may_finish = asyncio.Event()

    async def submit(deliveries: list[Delivery[Any]]) -> None:
        begun.extend(deliveries)
        await may_finish.wait()
        for delivery in deliveries:
            await delivery.ack()

    async with flowing(bench.url, submit, pool=Slots(10)) as subscriber:
        (first,) = await publish(bench, 1)
        await until(lambda: len(begun) == 1, "one is begun, and the subscriber waits for it")
        rest = await publish(bench, 5)

        async def delivered() -> bool:
            return await handed_out(bench) == 6

        await until(delivered, "the rest has been handed out")
        stopping = asyncio.create_task(subscriber.stop(None))
        # With the 30 s of `ack_wait` before them, only messages that were given back come at once.
        again = await asyncio.wait_for(bench.taken(DISPATCH, 5), 10)
        assert [(delivery.seq, delivery.count) for delivery in again] == [(seq, 2) for seq in rest]
        may_finish.set()
        await stopping
    assert [delivery.seq for delivery in begun] == [first]


async def test_stopping_in_a_burst_leaves_nothing_to_wait_for_its_ack_wait(bench: Bench) -> None:
    handled: list[int] = []
    total = 0

    async def handle(deliveries: list[Delivery[Any]]) -> None:
        for delivery in deliveries:
            await delivery.ack()
            handled.append(delivery.seq)

    for delay in range(8):
        total += len(await publish(bench, 100))
        async with flowing(bench.url, handle, batch=64, limit=64) as subscriber:
            for _ in range(delay):
                await asyncio.sleep(0)
            await subscriber.stop(None)
    left = total - len(set(handled))
    rest = await asyncio.wait_for(bench.taken(DISPATCH, left), 15) if left else []
    assert len({delivery.seq for delivery in rest}) == left


# ── strangers ─────────────────────────────────────────────────────────────────────────────────────────────────────

ELSEWHERE = "$JS.ACK.REQUESTS.intake.1.1.1.1700000000000000000.0"


@pytest.mark.parametrize(
    ("reply", "headers"),
    [
        ("", {}),
        ("_INBOX.x", {}),
        ("a.b.c.d.e.f.g.h.i", {}),
        ("deliberation.cancel", {"Status": "404"}),
    ],
    ids=["no reply", "an inbox", "nine tokens", "a status with a reply"],
)
async def test_a_delivery_that_jetstream_never_made_is_ignored(
    bench: Bench, reply: str, headers: dict[str, str]
) -> None:
    workers = Workers(hold=False)
    async with flowing(bench.url, workers) as subscriber:
        inbox = subscriber._inbox
        await subscriber._connection.flush()
        assert inbox.startswith("_PARLEY.service.")
        await bench.nc.publish(inbox, b"{}", reply=reply, headers=headers or None)
        await bench.publish(topology.AGENT_REQUESTED, {})
        await until(lambda: workers.finished, "the real one is handled")
        assert len(workers.finished) == 1
        assert subscriber._connection.forgeries.counts[Forgery.DELIVERY] == 1


@pytest.mark.parametrize("reply", [ELSEWHERE, "$JS.ACK.AGENT_REQUESTS.dispatch.x.y.z.1.0"])
async def test_a_delivery_of_another_consumer_or_without_numbers_is_ignored(bench: Bench, reply: str) -> None:
    # The server lets no client send these. Should one come by another way, it harms none that came with it.
    workers = Workers(hold=False)
    async with flowing(bench.url, workers) as subscriber:
        subscriber._on_message(Msg(subscriber._connection, "agent.requested", reply, b"{}"))
        await bench.publish(topology.AGENT_REQUESTED, {})
        await until(lambda: workers.finished, "the real one is handled")
        assert len(workers.finished) == 1
        assert subscriber._connection.forgeries.counts[Forgery.DELIVERY] == 1


async def test_a_delivery_from_a_server_with_domains_is_taken(bench: Bench) -> None:
    taken: list[int] = []

    async def take(deliveries: list[Delivery[Any]]) -> None:
        taken.extend(delivery.seq for delivery in deliveries)

    reply = "$JS.ACK.hub.Ab12.AGENT_REQUESTS.dispatch.1.7.1.1700000000000000000.0"
    async with flowing(bench.url, take) as subscriber:
        subscriber._on_message(Msg(subscriber._connection, "agent.requested", reply, b"{}"))
        await until(lambda: taken == [7], "it is handled")


@pytest.mark.parametrize("count", ["x", "-1", "1" * 5_000, "", "\u0661"])
async def test_a_malformed_status_does_not_stop_the_connection(bench: Bench, count: str) -> None:
    workers = Workers(hold=False)
    async with flowing(bench.url, workers) as subscriber:
        await subscriber._connection.flush()
        headers = {"Status": "408", "Nats-Pending-Messages": count}
        await bench.nc.publish(subscriber._inbox, b"", headers=headers)
        await bench.publish(topology.AGENT_REQUESTED, {})
        await until(lambda: workers.finished, "the next one is handled")
        assert subscriber._connection.reconnects == 0
