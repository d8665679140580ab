"""Each server is called as its own settings say, for its own models, within its limits. Over HTTP."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from parley.broker.core.messages import ErrorType
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.limit_store import LimitStore
from parley.broker.jetstream.provision import Wanted, provision
from parley.workers.model.call_policy import RetryPolicy
from parley.workers.model.endpoint_address import Endpoint
from parley.workers.model.endpoint_failover import FailoverClient
from parley.workers.model.model_client import ChatRequest
from parley.workers.model.model_error import ModelError
from parley.workers.model.model_server import ModelServer
from parley.workers.model.model_servers import ModelServers, SharedLimits
from parley.workers.model.model_servers import _tokens as tokens_of
from parley.workers.model.request_fields import FieldRules
from parley.workers.model.served_models import ServedModels
from parley.workers.model.server_access import Names, ServerAccess
from parley.workers.simulator import DEFAULT_MODEL
from tests.harness import fresh
from tests.harness import model_server as simulator
from tests.rig.habit_server import Heard, Reply, answer, habit_server, having, refusal

ASKED = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Why?"}]


@pytest.fixture(autouse=True)
async def _the_stream_of_limits(wire: JetStream) -> None:
    await provision(wire.js, Wanted(limits=True))


def asking(model: str = "one", max_tokens: int | None = 50) -> ChatRequest:
    return ChatRequest(model=model, messages=ASKED, max_tokens=max_tokens, seed=7)


async def test_each_server_gets_its_own_key_headers_query_and_fields() -> None:
    async with habit_server(having("one")) as plain, habit_server(having("one")) as special:
        rules = FieldRules(
            frozenset({"seed"}), (("max_tokens", "max_completion_tokens"),), system_message=False
        )
        access = ServerAccess("api-key", (("X-Org", "us"),), fields=rules)
        own = ModelServer(f"{special.url}/v1?api-version=2", "swordfish-2", access)
        async with ModelServers([ModelServer(plain.url, "swordfish-1"), own]) as servers:
            for endpoint in servers.endpoints:
                await servers.complete(endpoint, asking(), seconds=9)
    (heard,) = plain.heard
    assert heard.headers["authorization"] == "Bearer swordfish-1"
    assert (heard.fields["messages"], heard.fields["seed"], heard.fields["max_tokens"]) == (ASKED, 7, 50)
    (heard,) = special.heard
    assert (heard.headers["api-key"], heard.headers["x-org"]) == ("swordfish-2", "us")
    assert "authorization" not in heard.headers
    assert heard.target == "/v1/chat/completions?api-version=2"
    assert heard.fields["messages"] == [{"role": "user", "content": "Be short.\n\nWhy?"}]
    assert heard.fields["max_completion_tokens"] == 50
    assert "seed" not in heard.fields


async def test_a_refusal_names_what_its_reader_can_change() -> None:
    names = Names(key="`key` of endpoint 2 in endpoints.toml", url="endpoint 2 in endpoints.toml")
    async with habit_server(lambda _: refusal(401)) as locked:
        server = ModelServer(locked.url, None, ServerAccess(names=names))
        async with ModelServers([server]) as servers:
            with pytest.raises(ModelError) as caught:
                await servers.complete(server.endpoint, asking(), seconds=9)
    assert (
        str(caught.value) == "HTTP 401: it wants a key, and `key` of endpoint 2 in endpoints.toml is not set"
    )


# ── models ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_server_is_asked_for_none_but_the_models_that_its_settings_name() -> None:
    async with habit_server(having("one", "two")) as some, habit_server(having("two", "three")) as other:
        server = ModelServer(some.url, models=("one", "openai/*"))
        async with ModelServers([server, ModelServer(other.url)]) as servers:
            assert [model.name for model in await servers.models(server.endpoint)] == ["one", "openai/*"]
            assert not some.heard
            with pytest.raises(
                ModelError, match="is not asked for two: VLLM_URL gives it one, openai"
            ) as caught:
                await servers.complete(server.endpoint, asking("two"), seconds=9)
            assert (caught.value.error_type, caught.value.attempts) == (ErrorType.MODEL_NOT_FOUND, 0)
            assert not some.heard
            served = ServedModels(servers, servers.endpoints, "one")
            served.start()
            failover = FailoverClient(
                servers, servers.endpoints, RetryPolicy(attempts=2, base=0.01), served=served
            )
            answered = [
                (await failover.complete(fresh(), asking(model), failover.now() + 9)).content
                for model in ("one", "two", "three", "two", "two")
            ]
            assert answered == ["from one", "from two", "from three", "from two", "from two"]
            assert {heard.fields["model"] for heard in some.heard} == {"one"}
            # A model that none has costs a token of the server that may have it, and none of the other.
            with pytest.raises(ModelError, match="no server has four"):
                await failover.complete(fresh(), asking("four"), failover.now() + 9)
            assert {heard.fields["model"] for heard in some.heard} == {"one"}
            await failover.close()


# ── weights ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_server_of_twice_the_weight_is_preferred_by_twice_as_many_tasks() -> None:
    heavy, light = Endpoint("http://heavy"), Endpoint("http://light")
    order = preferred([heavy, light], {heavy: 2.0})
    assert 1_900 < order.count(heavy) < 2_100
    assert 1_400 < preferred([heavy, light], {}).count(heavy) < 1_600
    # Weights move tasks towards the heavy one only.
    moved = zip(preferred([heavy, light], {heavy: 1.0}), order, strict=True)
    assert all(after is heavy or before is light for before, after in moved)


def preferred(endpoints: list[Endpoint], weights: dict[Endpoint, float]) -> list[Endpoint]:
    from parley.workers.model.endpoint_failover import preference_order

    return [preference_order(f"task-{number}", endpoints, weights)[0] for number in range(3_000)]


# ── limits ────────────────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def two_workers(wire: JetStream, server: ModelServer) -> AsyncIterator[list[ModelServers]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                ModelServers([server], limits=SharedLimits(LimitStore(wire), fresh("w"), time.time))
            )
            for _ in range(2)
        ]


async def test_a_server_never_sees_more_calls_at_once_than_its_limit(wire: JetStream) -> None:
    async with simulator("--latency-ms", "30") as model:
        server = ModelServer(model.url, concurrency=3)
        async with two_workers(wire, server) as workers:
            asked = [
                each.complete(server.endpoint, asking(DEFAULT_MODEL), seconds=60) for each in workers * 10
            ]
            await asyncio.gather(*asked)
        seen = await model.seen()
    assert seen["most_running"] <= 3


async def test_who_finds_no_room_in_time_is_told_so_and_no_call_is_made(wire: JetStream) -> None:
    async with habit_server(having("one")) as some:
        server = ModelServer(some.url, tokens_per_minute=100)
        async with two_workers(wire, server) as (first, second):
            # 30 tokens of prompt and 50 of answer, about. The answer says what it was.
            some.habit = lambda _: with_usage(90)
            await first.complete(server.endpoint, asking(), seconds=9)
            with pytest.raises(
                ModelError, match=r"no room at http://\S+, whose limit all workers share"
            ) as caught:
                await second.complete(server.endpoint, asking(), seconds=0.5)
    assert (caught.value.error_type, caught.value.attempts, len(some.heard)) == (
        ErrorType.DEADLINE_EXCEEDED,
        0,
        1,
    )


def with_usage(tokens: int) -> Reply:
    status, body, headers = answer("done")
    return (
        status,
        {**body, "usage": {"prompt_tokens": tokens - 1, "completion_tokens": 1, "total_tokens": tokens}},
        headers,
    )


async def test_a_refused_call_has_used_no_tokens(wire: JetStream) -> None:
    def refusing(heard: Heard) -> Reply:
        return refusal(503)

    async with habit_server(refusing) as some:
        server = ModelServer(some.url, tokens_per_minute=100)
        async with two_workers(wire, server) as (first, second):
            for each in (first, second, first):
                with pytest.raises(ModelError, match="503"):
                    await each.complete(server.endpoint, asking(), seconds=9)


async def test_of_two_servers_the_one_with_room_is_asked(wire: JetStream) -> None:
    async with habit_server(having("one")) as full, habit_server(having("one")) as free:
        narrow = ModelServer(full.url, tokens_per_minute=100)
        limits = SharedLimits(LimitStore(wire), fresh("w"), time.time)
        async with ModelServers([narrow, ModelServer(free.url)], limits=limits) as servers:
            failover = FailoverClient(servers, servers.endpoints, limited=servers)
            full.habit = lambda _: with_usage(95)
            tasks = [failover.complete(f"t-{number}", asking(), failover.now() + 20) for number in range(20)]
            await asyncio.gather(*tasks)
            await failover.close()
    assert len(full.heard) == 1
    assert len(free.heard) == 19


async def test_a_call_that_waits_for_room_goes_to_another_server_that_has_some_by_then(
    wire: JetStream,
) -> None:
    async with habit_server(having("one")) as empty, habit_server(having("one")) as late:
        # The second one is full until its window has passed, the first one for longer.
        narrow = ModelServer(empty.url, tokens_per_minute=100)
        other = ModelServer(late.url, concurrency=1)
        limits = SharedLimits(LimitStore(wire), fresh("w"), time.time)
        async with ModelServers([narrow, other], limits=limits) as servers:
            failover = FailoverClient(servers, servers.endpoints, limited=servers)
            empty.habit = lambda _: with_usage(100)
            tasks = [failover.complete(f"t-{number}", asking(), failover.now() + 30) for number in range(6)]
            answered = await asyncio.gather(*tasks)
            await failover.close()
    assert [completion.attempts for completion in answered] == [1] * 6
    assert (len(empty.heard), len(late.heard)) == (1, 5)


async def test_a_server_with_room_is_preferred_as_its_weight_says(wire: JetStream) -> None:
    async with habit_server(having("one")) as limited, habit_server(having("one")) as plain:
        heavy = ModelServer(limited.url, concurrency=64, weight=1_000.0)
        limits = SharedLimits(LimitStore(wire), fresh("w"), time.time)
        async with ModelServers([heavy, ModelServer(plain.url)], limits=limits) as servers:
            failover = FailoverClient(
                servers, servers.endpoints, limited=servers, weights={heavy.endpoint: 1_000.0}
            )
            for number in range(40):
                await failover.complete(f"t-{number}", asking(), failover.now() + 20)
            assert servers.has_room(heavy.endpoint)
            await failover.close()
    assert len(limited.heard) >= 38


def test_a_picture_is_not_counted_by_its_bytes() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_000_000}}
    words = {"type": "text", "text": "What is it?"}
    request = ChatRequest(model="m", messages=[{"role": "user", "content": [words, picture]}], max_tokens=50)
    assert 1_000 < tokens_of(request) < 2_000
