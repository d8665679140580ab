"""A limit that holds over several workers, with a real NATS between them."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from parley.broker.core.errors import BrokerUnavailable
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.limit_store import LimitStore
from parley.broker.jetstream.provision import Wanted, provision
from parley.workers.model import endpoint_limit
from parley.workers.model.endpoint_address import Endpoint
from parley.workers.model.endpoint_limit import EndpointLimit, stored_name
from parley.workers.model.model_server import ModelServer
from parley.workers.model.shared_limit import Share, decoded
from tests.harness import fresh, until


@pytest.fixture(autouse=True)
async def _the_stream_of_limits(wire: JetStream) -> None:
    await provision(wire.js, Wanted(limits=True))


@asynccontextmanager
async def workers(
    wire: JetStream,
    number: int,
    *,
    now: Callable[[], float] = time.time,
    concurrency: int | None = None,
    tokens_per_minute: int | None = None,
) -> AsyncIterator[list[EndpointLimit]]:
    server = ModelServer(
        f"http://{fresh('host')}:8000", concurrency=concurrency, tokens_per_minute=tokens_per_minute
    )
    async with AsyncExitStack() as stack:
        made = [EndpointLimit(server, LimitStore(wire), fresh("w"), now) for _ in range(number)]
        for limit in made:
            stack.push_async_callback(limit.close)
        yield made


class Calls:
    """Calls that last until they are let go, and how many there were at once."""

    def __init__(self) -> None:
        self.running = self.most = self.done = 0
        self.free = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []

    def start(self, limit: EndpointLimit, number: int, seconds: float | None = None, tokens: int = 1) -> None:
        self.tasks += [asyncio.create_task(self._call(limit, seconds, tokens)) for _ in range(number)]

    async def _call(self, limit: EndpointLimit, seconds: float | None, tokens: int) -> None:
        async with limit.place(tokens):
            self.running += 1
            self.most = max(self.most, self.running)
            await (self.free.wait() if seconds is None else asyncio.sleep(seconds))
            self.running -= 1
            self.done += 1

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.fixture
async def calls() -> AsyncIterator[Calls]:
    made = Calls()
    yield made
    await made.end()


async def test_three_workers_together_make_no_more_calls_at_once_than_the_limit(
    wire: JetStream, calls: Calls
) -> None:
    async with workers(wire, 3, concurrency=4) as limits:
        for limit in limits:
            calls.start(limit, 10, seconds=0.02)
        await until(lambda: calls.done == 30, "calls and shares as expected")
        assert calls.most <= 4


async def test_a_worker_that_has_all_of_it_lets_another_in_as_its_calls_end(
    wire: JetStream, calls: Calls
) -> None:
    async with workers(wire, 2, concurrency=2) as (first, second):
        calls.start(first, 40, seconds=0.1)
        await until(lambda: calls.running == 2, "calls and shares as expected")
        others = Calls()
        others.start(second, 1, seconds=0.0)
        await until(lambda: others.done == 1, "calls and shares as expected")
        assert calls.done < 40, "it did not have to wait for all of the first's"


async def test_what_is_held_is_let_go_when_nothing_runs(wire: JetStream, calls: Calls) -> None:
    async with workers(wire, 1, concurrency=2) as (limit,):
        calls.start(limit, 2)
        await until(lambda: calls.running == 2, "calls and shares as expected")
        assert [share.calls for share in (await stored(wire, limit)).values()] == [2]
        assert not limit.has_room
        calls.free.set()
        await until(lambda: calls.done == 2, "calls and shares as expected")

        async def let_go() -> bool:
            return not await stored(wire, limit)

        await until(let_go, "calls and shares as expected")


async def stored(wire: JetStream, limit: EndpointLimit) -> Mapping[str, Share]:
    body, _ = await LimitStore(wire).read(limit._name)
    return decoded(body).shares


async def test_there_is_room_while_the_workers_together_have_fewer_calls_than_the_limit(
    wire: JetStream, calls: Calls
) -> None:
    async with workers(wire, 2, concurrency=3) as (first, second):
        assert first.has_room
        calls.start(first, 1)
        await until(lambda: calls.running == 1, "a call")
        assert first.has_room
        calls.start(second, 2)
        await until(lambda: calls.running == 3, "all calls")
        assert not second.has_room
        calls.free.set()
        await until(lambda: calls.done == 3, "all calls ended")
        await until(lambda: all(limit.has_room for limit in (first, second)), "room again")


async def test_many_workers_that_write_at_once_all_get_their_turn(wire: JetStream, calls: Calls) -> None:
    async with workers(wire, 24, concurrency=48) as limits:
        for limit in limits:
            calls.start(limit, 8, seconds=0.05)
        await until(lambda: calls.done == 24 * 8, "all calls ended")
        assert calls.most <= 48
        assert {limit.problem for limit in limits} == {None}


async def test_a_call_that_is_given_up_while_it_waits_takes_no_place(wire: JetStream, calls: Calls) -> None:
    async with workers(wire, 1, concurrency=1) as (limit,):
        calls.start(limit, 3)
        await until(lambda: calls.running == 1, "calls and shares as expected")
        calls.tasks[1].cancel()
        calls.free.set()
        await until(lambda: calls.done == 2, "calls and shares as expected")
        assert calls.most == 1


async def test_tokens_are_counted_over_all_workers_and_what_was_not_used_comes_back(wire: JetStream) -> None:
    async with workers(wire, 2, tokens_per_minute=1_000) as (first, second):
        async with first.place(600) as place:
            waiting = asyncio.create_task(enter(second, 600))
            await until(lambda: not second.has_room, "calls and shares as expected")
            await asyncio.sleep(3 * endpoint_limit.POLL_SECONDS)
            assert not waiting.done()
            place.used = 100
        await asyncio.wait_for(waiting, 10)


async def enter(limit: EndpointLimit, tokens: int) -> None:
    async with limit.place(tokens):
        pass


async def test_while_nats_is_away_a_worker_keeps_to_its_share_and_then_begins_no_more(
    wire: JetStream, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [time.time()]
    async with workers(wire, 1, now=lambda: clock[0], concurrency=2) as (limit,):
        calls.start(limit, 2)
        await until(lambda: calls.running == 2, "calls and shares as expected")

        async def away(self: LimitStore, *_: object) -> int:
            raise BrokerUnavailable("the connected server", "away")

        monkeypatch.setattr(LimitStore, "write", away)
        await until(lambda: limit.problem is not None, "calls and shares as expected")
        calls.free.set()
        await until(lambda: calls.done == 2, "calls and shares as expected")
        await asyncio.wait_for(enter(limit, 1), 5)  # within its share
        clock[0] += endpoint_limit.SURE_SECONDS
        late = asyncio.create_task(enter(limit, 1))
        await asyncio.sleep(3 * endpoint_limit.POLL_SECONDS)
        assert not late.done()
        monkeypatch.undo()
        await asyncio.wait_for(late, 10)


async def test_what_is_stored_and_cannot_be_read_is_replaced(wire: JetStream) -> None:
    async with workers(wire, 1, concurrency=2) as (limit,):
        await LimitStore(wire).write(limit._name, b"{", 0)
        await asyncio.wait_for(enter(limit, 1), 10)
        assert len(await stored(wire, limit)) == 1


def test_the_stored_name_is_legible_and_hides_what_the_url_hides() -> None:
    name = stored_name(Endpoint("https://user:hush@api.example.com/v1?code=hush"))
    assert name.startswith("api-example-com-443-")
    assert "hush" not in name
    assert name == stored_name(Endpoint("https://api.example.com/v1/"))
    assert topology.limit_subject(name).count(".") == 2
