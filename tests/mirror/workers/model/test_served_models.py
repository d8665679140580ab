"""An agent goes to an endpoint that has its model. Over HTTP, against servers that each have their own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from parley.broker.core.messages import ErrorType
from parley.workers.model import served_models
from parley.workers.model.call_policy import RetryPolicy
from parley.workers.model.endpoint_address import Endpoint
from parley.workers.model.endpoint_failover import FailoverClient
from parley.workers.model.model_client import ChatRequest, ModelClient
from parley.workers.model.model_error import ModelError
from parley.workers.model.model_list import ServedModel
from parley.workers.model.served_models import ServedModels
from tests.harness import until
from tests.rig.habit_server import Habit, HabitServer, Heard, Reply, answer, habit_server, having, refusal


def without_list(heard: Heard) -> Reply:
    return refusal(404) if heard.method == "GET" else answer("from any")


@asynccontextmanager
async def between(
    *habits: Habit | None, usual: str = "usual"
) -> AsyncIterator[tuple[FailoverClient, list[HabitServer]]]:
    """A client of servers with these habits; None: nothing listens there."""
    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(habit_server(habit)) for habit in habits if habit is not None
        ]
        urls = iter(server.url for server in servers)
        endpoints = [Endpoint(next(urls) if habit else "http://127.0.0.1:9") for habit in habits]
        client = await stack.enter_async_context(ModelClient())
        served = ServedModels(client, endpoints, usual)
        served.start()
        failover = FailoverClient(client, endpoints, RetryPolicy(attempts=2, base=0.01), served=served)
        stack.push_async_callback(failover.close)
        yield failover, servers


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()  # until the client has gone
    writer.close()


async def ask(failover: FailoverClient, model: str, task: str = "t", seconds: float = 20) -> str:
    request = ChatRequest(model=model, messages=[{"role": "user", "content": "Why?"}])
    return (await failover.complete(task, request, failover.now() + seconds)).content


def asked(server: HabitServer) -> list[str]:
    return [str(heard.fields["model"]) for heard in server.heard if heard.method == "POST"]


async def test_each_model_is_asked_where_it_is() -> None:
    async with between(having("one", "usual"), having("two"), having("three", "two")) as (failover, servers):
        for task in map(str, range(6)):
            for model in ("one", "two", "three", "usual"):
                assert await ask(failover, model, task) == f"from {model}"
        one, two, three = map(asked, servers)
    assert set(one) == {"one", "usual"}
    assert set(two) <= {"two"}
    assert set(three) == {"two", "three"} if set(two) else {"three", "two"}
    assert len(one) == 12  # nothing was asked but the questions


async def test_a_model_that_nobody_has_is_named_before_it_is_asked() -> None:
    async with between(having("one"), having("two")) as (failover, servers):
        with pytest.raises(ModelError) as caught:
            await ask(failover, "three")
        bodies = [heard.body for server in servers for heard in server.heard]
    assert (caught.value.error_type, caught.value.attempts) == (ErrorType.MODEL_NOT_FOUND, 0)
    assert str(caught.value).startswith("no server has three: http://127.0.0.1:")
    assert "has one; http" in str(caught.value)
    assert str(caught.value).endswith("has two")
    assert not any(b"Why?" in body for body in bodies)


@pytest.mark.parametrize("servers", [1, 2])
async def test_a_token_outweighs_a_list(servers: int) -> None:
    """A server may list other names than it takes."""
    alias = having("alias", listed=["gpt-base"])
    async with between(*[alias, having("other")][:servers]) as (failover, running):
        assert await ask(failover, "alias") == "from alias"
        assert await ask(failover, "alias", "u") == "from alias"
        assert asked(running[0]) == ["alias"] * 3  # one of them for the token


async def test_where_nothing_is_known_all_are_tried() -> None:
    async with between(without_list, None) as (failover, _):
        for task in map(str, range(8)):
            assert await ask(failover, "any", task) == "from any"


async def test_a_server_that_is_away_keeps_its_models() -> None:
    """Its own fail by name, and nobody else is asked for them; the others' are."""
    async with between(having("one"), having("two")) as (failover, servers):
        assert await ask(failover, "two") == "from two"
        servers[1].habit = lambda _: refusal(503)
        assert failover.served is not None
        failover.served._next_at = 0.0  # a minute has passed
        assert await ask(failover, "one") == "from one"
        with pytest.raises(ModelError) as caught:
            await ask(failover, "two")
    assert caught.value.error_type is ErrorType.SERVER_ERROR
    assert set(asked(servers[0])) == {"one"}


async def test_new_models_are_found_after_a_while() -> None:
    async with between(having("one"), having("two")) as (failover, servers):
        with pytest.raises(ModelError):
            await ask(failover, "three")
        servers[1].habit = having("two", "three")
        served = failover.served
        assert served is not None
        served._next_at = 0.0
        served.known("three")
        await until(lambda: len(served._lists[failover.endpoints[1]]) == 2, "a list")
        assert await ask(failover, "three") == "from three"


async def test_a_server_that_is_silent_delays_nobody_whose_model_another_lists(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(served_models, "LIST_SECONDS", 30.0)
    async with between(having("one")) as (_, servers):
        silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}"
        async with silent, ModelClient() as client:
            endpoints = [Endpoint(servers[0].url), Endpoint(url)]
            served = ServedModels(client, endpoints, "usual")
            served.start()
            failover = FailoverClient(client, endpoints, RetryPolicy(), served=served)
            assert await ask(failover, "one") == "from one"
            with pytest.raises(ModelError, match="it is not known yet which server has two"):
                await ask(failover, "two", seconds=0.3)
            await failover.close()


async def test_one_server_is_never_asked_for_its_list_by_those_who_want_the_usual_model() -> None:
    async with between(having("usual")) as (failover, servers):
        assert await ask(failover, "usual") == "from usual"
        assert [heard.method for heard in servers[0].heard] == ["POST"]


class LateList(ModelClient):
    """The list of one endpoint comes when the test says so."""

    def __init__(self, late: Endpoint) -> None:
        super().__init__()
        self._late = late
        self.there = asyncio.Event()

    async def models(self, endpoint: Endpoint, *, seconds: float = 5.0) -> list[ServedModel]:
        if endpoint == self._late:
            await self.there.wait()
        return await super().models(endpoint, seconds=seconds)


async def test_the_usual_model_is_not_asked_of_a_server_whose_list_has_only_not_come_yet() -> None:
    async with habit_server(having("usual")) as one, habit_server(having("two")) as other:
        endpoints = [Endpoint(one.url), Endpoint(other.url)]
        async with LateList(endpoints[1]) as client:
            served = ServedModels(client, endpoints, "usual")
            served.start()
            failover = FailoverClient(client, endpoints, served=served)
            tasks = [asyncio.create_task(ask(failover, "usual", f"t-{number}")) for number in range(20)]
            await until(lambda: one.heard, "the first list")
            client.there.set()
            assert set(await asyncio.gather(*tasks)) == {"from usual"}
            assert asked(other) == []
            await failover.close()
