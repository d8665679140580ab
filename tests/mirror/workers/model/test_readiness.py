"""What readiness knows of the model servers: the name by every look, a token only at the first and once a server was away."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest

from parley.broker.core.messages import ErrorType
from parley.workers.model import readiness
from parley.workers.model.breaker import BreakerState
from parley.workers.model.client import ModelClient
from parley.workers.model.endpoint import Endpoint
from parley.workers.model.endpoint_status import EndpointStatus
from parley.workers.model.readiness import ModelReadiness, find
from parley.workers.model.responses import ModelError
from parley.workers.simulator import DEFAULT_MODEL
from tests.harness import ModelServer, model_server, until
from tests.rig.proc import free_port


@pytest.fixture(autouse=True)
def a_look_may_take_as_long_as_on_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "PATIENCE_SECONDS", 30.0)


@asynccontextmanager
async def looking(
    *urls: str,
    wanted: str = DEFAULT_MODEL,
    key: str | None = None,
    statuses: Mapping[str, EndpointStatus] | None = None,
) -> AsyncIterator[ModelReadiness]:
    async with (
        ModelClient(api_key=key) as client,
        ModelReadiness(client, [Endpoint(url) for url in urls], wanted, lambda: statuses or {}) as found,
    ):
        yield found


async def asked(model: ModelServer) -> int:
    return int((await model.seen())["requests"])


def opened(url: str, **workers: int) -> dict[str, EndpointStatus]:
    return {
        Endpoint(url).label: EndpointStatus({state: workers.get(state.value, 0) for state in BreakerState}, 1)
    }


async def test_one_token_is_asked_for_at_the_first_look_and_none_after(model: ModelServer) -> None:
    before = await asked(model)
    async with looking(model.url) as found:
        for _ in range(3):
            assert await found.problem() is None
    assert await asked(model) == before + 1
    assert (await model.seen())["latest"][-1]["max_tokens"] == 1


async def test_a_model_that_is_not_served_is_told_with_those_that_are_and_no_token_is_asked_for(
    model: ModelServer,
) -> None:
    before = await asked(model)
    async with looking(model.url, wanted="gpt-99") as found:
        assert await found.problem() == f"{model.url}: gpt-99 is not served there; it serves {DEFAULT_MODEL}"
    assert await asked(model) == before


async def test_a_model_that_goes_is_missed_and_proves_itself_when_it_is_back() -> None:
    async with model_server() as own, looking(own.url) as found:
        assert await found.problem() is None
        await own.behave(model="another")
        assert "it serves another" in (await found.problem() or "")
        await own.behave(model=DEFAULT_MODEL)
        assert await found.problem() is None
        assert await asked(own) == 2


async def test_a_server_that_was_away_proves_itself_when_it_is_back() -> None:
    port = str(free_port())
    async with looking(f"http://127.0.0.1:{port}") as found:
        assert "cannot connect" in (await found.problem() or "")
        async with model_server("--port", port) as own:
            assert await found.problem() is None
            assert await asked(own) == 1
        assert await found.problem() is not None
        async with model_server("--port", port, "--fault", "500=1"):
            assert "HTTP 500" in (await found.problem() or "")


async def test_a_server_that_lists_its_model_and_cannot_generate_is_not_ready_until_it_can(
    model: ModelServer,
) -> None:
    await model.behave(faults={"500": 1.0})
    async with looking(model.url) as found:
        assert await found.problem() == f"{model.url}: HTTP 500 from the model server: simulated fault"
        await model.behave()
        assert await found.problem() is None


async def test_a_server_that_no_worker_calls_any_more_has_to_prove_itself(model: ModelServer) -> None:
    """Its list is as good as ever while its workers are dead (vllm#16259)."""
    statuses = opened(model.url, closed=1, open=1)
    async with looking(model.url, statuses=statuses) as found:
        assert await found.problem() is None
        await model.behave(faults={"500": 1.0})
        assert await found.problem() is None  # one worker still calls it
        statuses.update(opened(model.url, half_open=1, open=1))
        assert "HTTP 500" in (await found.problem() or "")
        await model.behave()
        assert await found.problem() is None


async def test_a_server_that_no_worker_calls_any_more_is_not_ready_while_it_is_silent(
    model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen engine: lists and health as ever, and no token for as long as anybody waits."""
    statuses = opened(model.url, closed=1)
    async with looking(model.url, statuses=statuses) as found:
        assert await found.problem() is None
        await model.behave(faults={"hang": 1.0})
        statuses.update(opened(model.url, open=1))
        monkeypatch.setattr(readiness, "PATIENCE_SECONDS", 0.05)

        async def silent() -> bool:
            return await found.problem() == f"{model.url}: no token of {DEFAULT_MODEL} yet"

        await until(silent, "it is asked for a token, and gives none")
    await model.idle()


async def test_without_workers_nobody_has_given_a_server_up(model: ModelServer) -> None:
    before = await asked(model)
    async with looking(model.url, statuses=opened(model.url)) as found:
        for _ in range(2):
            assert await found.problem() is None
    assert await asked(model) == before + 1


async def test_one_server_away_of_two_is_no_problem_and_both_are(model: ModelServer) -> None:
    one, two = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    async with looking(one, model.url) as found:
        assert await found.problem() is None
    async with looking(one, two) as found:
        problem = await found.problem() or ""
    assert one in problem
    assert two in problem


async def test_one_server_of_two_that_refuses_for_good_is_a_problem_and_alone_is_named(
    model: ModelServer,
) -> None:
    async with (
        model_server("--api-key", "other") as locked,
        looking(model.url, locked.url, key="hush") as found,
    ):
        assert await found.problem() == f"{locked.url}: HTTP 401: it refuses the key, is VLLM_API_KEY right?"


async def test_a_token_that_is_no_text_is_one(model: ModelServer) -> None:
    await model.behave(faults={"null": 1.0})
    async with looking(model.url) as found:
        assert await found.problem() is None


async def test_who_asks_is_answered_before_a_slow_server_is_and_it_is_asked_once(
    model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "PATIENCE_SECONDS", 0.05)
    before = await asked(model)
    await model.behave(faults={"hang": 1.0})
    async with looking(model.url) as found:
        for _ in range(3):
            assert await found.problem() == f"{model.url}: no token of {DEFAULT_MODEL} yet"

        async def asked_once() -> bool:
            return await asked(model) == before + 1

        await until(asked_once, "it was asked for a token")
    await model.idle()  # nobody asks any more after the block


async def test_two_who_ask_at_once_share_a_look(model: ModelServer) -> None:
    before = await asked(model)
    async with looking(model.url) as found:
        assert await asyncio.gather(*(found.problem() for _ in range(5))) == [None] * 5
    assert await asked(model) == before + 1


async def test_the_first_listed_is_found_where_none_is_wanted_and_nothing_where_none_is_listed() -> None:
    async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"data": []}')
        writer.close()

    async with model_server() as own, ModelClient() as client:
        assert (await find(client, Endpoint(own.url), None)).name == DEFAULT_MODEL
        async with await asyncio.start_server(nothing, "127.0.0.1", 0) as listener:
            empty = Endpoint(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}")
            with pytest.raises(ModelError, match="no model is served there") as caught:
                await find(client, empty, None)
        assert caught.value.error_type is ErrorType.MODEL_NOT_FOUND
