"""Readiness of the model servers: when a check asks for the name only, and when for a token too."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from parley.broker.core.messages import ErrorType
from parley.workers.model import readiness
from parley.workers.model.breaker import BreakerState
from parley.workers.model.endpoint_address import Endpoint
from parley.workers.model.model_client import ModelClient
from parley.workers.model.model_error import ModelError
from parley.workers.model.pool_endpoint_status import EndpointStatus
from parley.workers.model.readiness import ModelReadiness, find
from parley.workers.simulator import DEFAULT_MODEL
from tests.harness import ModelServer, model_server, until
from tests.rig.habit_server import Habit, Heard, Reply, either, habit_server, refusal
from tests.rig.proc import free_port


@pytest.fixture(autouse=True)
def a_check_may_take_long_on_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
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


async def test_the_first_check_asks_for_one_token_and_the_next_for_none(model: ModelServer) -> None:
    before = await asked(model)
    async with looking(model.url) as found:
        for _ in range(3):
            assert await found.unready_reason() is None
    assert await asked(model) == before + 1
    assert (await model.seen())["latest"][-1]["max_tokens"] == 1


async def test_a_missing_model_is_named_with_those_served(model: ModelServer) -> None:
    async with looking(model.url, wanted="gpt-99") as found:
        assert (
            await found.unready_reason()
            == f"{model.url}: gpt-99 is not served there; it serves {DEFAULT_MODEL}"
        )


async def test_a_model_that_went_away_must_generate_a_token_when_it_is_back() -> None:
    async with model_server() as own, looking(own.url) as found:
        assert await found.unready_reason() is None
        await own.behave(model="another")
        assert "it serves another" in (await found.unready_reason() or "")
        await own.behave(model=DEFAULT_MODEL)
        before = await asked(own)
        assert await found.unready_reason() is None
        assert await asked(own) == before + 1


async def test_a_server_that_was_away_must_generate_a_token_when_it_is_back() -> None:
    port = str(free_port())
    async with looking(f"http://127.0.0.1:{port}") as found:
        assert "cannot connect" in (await found.unready_reason() or "")
        async with model_server("--port", port) as own:
            assert await found.unready_reason() is None
            assert await asked(own) == 1
        assert await found.unready_reason() is not None
        async with model_server("--port", port, "--fault", "500=1"):
            assert "HTTP 500" in (await found.unready_reason() or "")


async def test_a_server_that_lists_its_model_is_not_ready_until_it_works(model: ModelServer) -> None:
    await model.behave(faults={"500": 1.0})
    async with looking(model.url) as found:
        assert await found.unready_reason() == f"{model.url}: HTTP 500 from the model server: simulated fault"
        await model.behave()
        assert await found.unready_reason() is None


async def test_a_server_that_no_worker_calls_any_more_must_generate_a_token(model: ModelServer) -> None:
    """Its list does not change when its engine is dead (vllm#16259)."""
    statuses = opened(model.url, closed=1, open=1)
    async with looking(model.url, statuses=statuses) as found:
        assert await found.unready_reason() is None
        await model.behave(faults={"500": 1.0})
        assert await found.unready_reason() is None  # one worker still calls it
        statuses.update(opened(model.url, half_open=1, open=1))
        assert "HTTP 500" in (await found.unready_reason() or "")
        await model.behave()
        assert await found.unready_reason() is None


async def test_a_server_that_no_worker_calls_any_more_is_not_ready_while_it_is_silent(
    model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen engine: list and health as before, but never a token."""
    statuses = opened(model.url, closed=1)
    async with looking(model.url, statuses=statuses) as found:
        assert await found.unready_reason() is None
        await model.behave(faults={"hang": 1.0})
        statuses.update(opened(model.url, open=1))
        monkeypatch.setattr(readiness, "PATIENCE_SECONDS", 0.05)

        async def silent() -> bool:
            return await found.unready_reason() == f"{model.url}: no token of {DEFAULT_MODEL} yet"

        await until(silent, "it is asked for a token, and gives none")
    await model.idle()


async def test_without_workers_no_server_counts_as_uncalled(model: ModelServer) -> None:
    before = await asked(model)
    async with looking(model.url, statuses=opened(model.url)) as found:
        for _ in range(2):
            assert await found.unready_reason() is None
    assert await asked(model) == before + 1


async def test_one_server_of_two_may_be_away_but_not_both(model: ModelServer) -> None:
    one, two = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    async with looking(one, model.url) as found:
        assert await found.unready_reason() is None
    async with looking(one, two) as found:
        reason = await found.unready_reason() or ""
    assert one in reason
    assert two in reason


async def test_of_two_servers_only_the_one_that_refuses_the_key_is_named(model: ModelServer) -> None:
    async with (
        model_server("--api-key", "other") as locked,
        looking(model.url, locked.url, key="hush") as found,
    ):
        assert (
            await found.unready_reason()
            == f"{locked.url}: HTTP 401: it refuses the key, is VLLM_API_KEY right?"
        )


async def test_a_token_that_is_not_text_counts(model: ModelServer) -> None:
    await model.behave(faults={"null": 1.0})
    async with looking(model.url) as found:
        assert await found.unready_reason() is None


async def test_a_slow_server_delays_no_answer(model: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "PATIENCE_SECONDS", 0.05)
    before = await asked(model)
    await model.behave(faults={"hang": 1.0})
    async with looking(model.url) as found:
        for _ in range(3):
            assert await found.unready_reason() == f"{model.url}: no token of {DEFAULT_MODEL} yet"

        async def asked_once() -> bool:
            return await asked(model) == before + 1

        await until(asked_once, "it was asked for a token")
    await model.idle()  # the block has cancelled the check


async def test_concurrent_callers_share_a_check(model: ModelServer) -> None:
    before = await asked(model)
    async with looking(model.url) as found:
        assert await asyncio.gather(*(found.unready_reason() for _ in range(5))) == [None] * 5
    assert await asked(model) == before + 1


# ── lists that are none, and servers that refuse the probe ─────────────────────────────────────────────────


def listing(status: int, body: Any, *, served: str = "llama3") -> Habit:
    """Has this list, and generates a token of one model."""

    def habit(heard: Heard) -> Reply:
        if heard.method == "GET":
            return status, body, {}
        asked_for = heard.fields["model"]
        if asked_for != served:
            return refusal(404, f"The model `{asked_for}` does not exist")
        return either(heard)

    return habit


LISTS: dict[str, tuple[int, Any]] = {
    "another tag": (200, {"data": [{"id": "llama3:latest"}]}),
    "a pattern": (200, {"data": [{"id": "openai/*"}, {"id": "*"}]}),
    "another pattern": (200, {"data": [{"id": "openai/*"}]}),
    "a bare array": (200, [{"id": "llama3"}]),
    "names": (200, ["llama3"]),
    "other models": (200, {"data": [{"id": "other"}]}),
    "none": (200, {"data": []}),
    "no list": (404, {"detail": "Not Found"}),
    "not allowed": (405, b"no"),
    "not with this key": (403, {"error": "missing scope model.read"}),
    "no list for anybody": (401, {"error": "no"}),
    "broken": (500, b"Internal Server Error"),
    "a web page": (200, b"<!doctype html><html></html>"),
    "nothing": (200, b""),
    "another shape": (200, {"object": "list"}),
}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("form", LISTS)
async def test_a_token_outweighs_whatever_the_list_says(form: str, stream: bool) -> None:
    async with (
        habit_server(listing(*LISTS[form])) as server,
        ModelClient(stream=stream) as client,
        ModelReadiness(client, [Endpoint(server.url)], "llama3", dict) as found,
    ):
        for _ in range(3):
            assert await found.unready_reason() is None
        # The list stays as it is, so nothing is asked for again.
        assert [heard.method for heard in server.heard] == ["GET", "POST", "GET", "GET"]


@pytest.mark.parametrize("form", sorted(set(LISTS) - {"another tag", "a pattern", "a bare array", "names"}))
async def test_without_a_token_the_list_helps_to_say_why(form: str) -> None:
    async with (
        habit_server(listing(*LISTS[form], served="phi")) as server,
        looking(server.url, wanted="llama3") as found,
    ):
        reason = await found.unready_reason() or ""
    words = {
        "other models": "llama3 is not served there; it serves other",
        "another pattern": "llama3 is not served there; it serves openai/*",
        "none": "llama3 is not served there; it serves nothing",
    }
    assert words.get(form, "The model `llama3` does not exist") in reason


@pytest.mark.parametrize("least", [2, 16, 17])
@pytest.mark.parametrize("newer_name", [False, True])
async def test_a_server_that_refuses_a_limit_of_one_token_is_asked_in_another_way(
    least: int, newer_name: bool
) -> None:
    def habit(heard: Heard) -> Reply:
        if heard.method == "GET":
            return either(heard)
        if newer_name and "max_tokens" in heard.fields:
            return refusal(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        limit = heard.fields.get("max_completion_tokens" if newer_name else "max_tokens")
        if limit is not None and limit < least:
            return refusal(
                400, f"Invalid 'max_{'completion_' if newer_name else ''}tokens': minimum value is {least}."
            )
        return either(heard)

    async with habit_server(habit) as server, looking(server.url, wanted="m") as found:
        assert await found.unready_reason() is None


REFUSES_ONE_TOKEN = [
    "The number of tokens to generate must be larger than 1",
    "Invalid value for maxTokens",
    "max_completion_tokens too small",
    "max_length must be > 1",
]


@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize("text", REFUSES_ONE_TOKEN)
async def test_a_refusal_of_one_token_is_known_by_its_words(text: str, status: int) -> None:
    def habit(heard: Heard) -> Reply:
        if heard.method == "GET" or heard.fields.get("max_tokens", 2) > 1:
            return either(heard)
        return refusal(status, text)

    async with habit_server(habit) as server, looking(server.url, wanted="m") as found:
        assert await found.unready_reason() is None


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_a_probe_that_is_answered_with_a_call_of_a_tool_proves_a_token(stream: bool) -> None:
    call = {"id": "1", "function": {"name": "weather", "arguments": "{}"}}
    message = {"content": None, "tool_calls": [call]}
    reply: Reply = 200, {"choices": [{"message": message, "finish_reason": "tool_calls"}]}, {}
    async with (
        habit_server(lambda heard: either(heard) if heard.method == "GET" else reply) as server,
        ModelClient(stream=stream) as client,
        ModelReadiness(client, [Endpoint(server.url)], "m", dict) as found,
    ):
        assert await found.unready_reason() is None


async def test_a_server_that_asks_for_a_pause_is_not_checked_again_meanwhile() -> None:
    def busy(heard: Heard) -> Reply:
        return either(heard) if heard.method == "GET" else refusal(429, "later", retry_after="60")

    async with habit_server(busy) as server, looking(server.url, wanted="m") as found:
        for _ in range(3):
            assert "HTTP 429" in (await found.unready_reason() or "")
    assert [heard.method for heard in server.heard] == ["GET", "POST"]


async def test_without_a_wanted_name_the_first_listed_model_is_found_and_none_in_an_empty_list() -> None:
    async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"data": []}')
        writer.close()

    async with model_server() as own, ModelClient() as client:
        assert (await find(client, Endpoint(own.url))).name == DEFAULT_MODEL
        async with await asyncio.start_server(nothing, "127.0.0.1", 0) as listener:
            empty = Endpoint(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}")
            with pytest.raises(ModelError, match="no model is served there") as caught:
                await find(client, empty)
        assert caught.value.error_type is ErrorType.MODEL_NOT_FOUND
