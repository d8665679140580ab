"""OpenAI's own client asks a panel as if it were a model."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.harness import ModelServer, Running, until
from tests.mirror.parley.gateway import TOKENS, door, tenants_file

HELLO: list[Any] = [{"role": "user", "content": "Which is safer?"}]


@pytest.fixture
async def client(program: httpx.AsyncClient) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{program.base_url}/v1", api_key="none", max_retries=0) as one:
        yield one


async def test_panels_are_listed_as_models(client: openai.AsyncOpenAI) -> None:
    listed = [model.id async for model in client.models.list()]
    assert {"parley/dev-3", "parley/judge-5", "parley/vote-5"} <= set(listed)
    assert (await client.models.retrieve("parley/dev-3")).owned_by == "parley"


async def test_the_chosen_answer_is_the_message_and_the_usage_that_of_all_calls(
    client: openai.AsyncOpenAI,
) -> None:
    done = await client.chat.completions.create(model="parley/judge-3", messages=HELLO)
    choice = done.choices[0]
    assert (choice.finish_reason, choice.message.role) == ("stop", "assistant")
    assert choice.message.content
    assert done.usage is not None
    assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens > 0
    more: Any = done.model_extra
    assert more["parley"]["cost"]["calls"] == 6
    assert more["parley"]["winner_id"].startswith("agent-")
    assert done.id == f"chatcmpl-{more['parley']['task_id']}"


async def test_a_vote_and_a_single_agent_answer_too(client: openai.AsyncOpenAI) -> None:
    for model in ("parley/vote-3", "parley/dev-1", "parley/qa-1"):
        done = await client.chat.completions.create(
            model=model, messages=HELLO, temperature=0.2, max_completion_tokens=50
        )
        assert done.choices[0].message.content


async def test_the_callers_messages_are_asked_as_they_are(
    client: openai.AsyncOpenAI, local_service: Running, model: ModelServer
) -> None:
    messages: list[Any] = [
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "Because."},
        {"role": "user", "content": [{"type": "text", "text": "Because of what?"}]},
    ]
    done = await client.chat.completions.create(
        model="parley/judge-1",
        messages=messages,
        temperature=0.3,
        seed=5,
        stop=["END"],
        frequency_penalty=0.5,
    )
    asked = await local_service.client.request_of(done.id.removeprefix("chatcmpl-"))
    assert json.loads(asked or b"{}")["messages"] == messages
    sent = (await model.seen())["latest"][-1]
    assert (sent["temperature"], sent["seed"]) == (0.3, 5)


@pytest.mark.parametrize("progress", ["comments", "reasoning", "none"])
async def test_it_streams_with_the_panels_progress(client: openai.AsyncOpenAI, progress: str) -> None:
    stream = await client.chat.completions.create(
        model="parley/judge-3", messages=HELLO, stream=True, stream_options={"include_usage": True},
        extra_body={"parley": {"progress": progress}},
    )  # fmt: skip
    words, reasons, reasoning, usage = "", [], "", None
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            words += choice.delta.content or ""
            more: Any = choice.delta.model_extra or {}
            reasoning += more.get("reasoning_content") or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
    assert words
    assert reasons == ["stop"]
    assert usage is not None
    assert usage.total_tokens > 0
    assert ("judge-001 voted" in reasoning) == (progress == "reasoning")


async def test_a_caller_that_hangs_up_stops_the_deliberation(
    program: httpx.AsyncClient, local_service: Running, model: ModelServer
) -> None:
    await model.behave(faults={"hang": 1.0})
    for stream in (False, True):
        body = {
            "model": "parley/judge-3",
            "messages": HELLO,
            "stream": stream,
            "parley": {"timeout_seconds": 60},
        }
        before = {tally.task_id for tally in await local_service.client.tallies()}
        asking = asyncio.create_task(_read(program, body))

        async def new(before: set[str] = before) -> str | None:
            found = [
                tally.task_id for tally in await local_service.client.tallies() if tally.task_id not in before
            ]
            return found[0] if found else None

        name = await until(new, "it is asked")
        await asyncio.sleep(0.2)
        asking.cancel()
        ending = await local_service.client.job(str(name)).ending(timeout=20)
        assert ending.status == "cancelled"


async def _read(program: httpx.AsyncClient, body: dict[str, Any]) -> None:
    async with program.stream("POST", "/v1/chat/completions", json=body) as answer:
        async for _ in answer.aiter_bytes():
            pass


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "gpt-4"}, "model"),
        ({"model": "parley/judge-0"}, "model"),
        ({"model": "parley/judge-300"}, "num_agents"),
        ({"model": ""}, "model"),
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"messages": []}, "messages"),
        ({"messages": "x"}, "messages"),
        ({"temperature": 3}, "temperature"),
        ({"colour": "red"}, "colour"),
        ({"parley": {"agents": 3}}, "parley"),
        ({"parley": {"progress": "loud"}}, "parley.progress"),
        ({"parley": {"timeout_seconds": -1}}, "timeout_seconds"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
    ],
)
async def test_what_is_wrong_is_said_as_openai_says_it(
    program: httpx.AsyncClient, body: dict[str, Any], param: str
) -> None:
    refused = await program.post(
        "/v1/chat/completions", json={"model": "parley/judge-3", "messages": HELLO, **body}
    )
    error = refused.json()["error"]
    assert refused.status_code in (404, 422)
    assert param in error["param"]
    assert error["type"] in ("invalid_request_error", "not_found_error")


async def test_openais_client_raises_its_own_errors(
    client: openai.AsyncOpenAI, model: ModelServer, local_service: Running, tmp_path: Path
) -> None:
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model="gpt-4", messages=HELLO)
    with pytest.raises(openai.UnprocessableEntityError):
        await client.chat.completions.create(model="parley/judge-3", messages=HELLO, n=2)
    await model.behave(faults={"400": 1.0})
    with pytest.raises(openai.InternalServerError):
        await client.chat.completions.create(model="parley/judge-3", messages=HELLO)
    async with door(local_service, gateway_tenants=tenants_file(tmp_path)) as program:
        async with openai.AsyncOpenAI(
            base_url=f"{program.base_url}/v1", api_key="wrong", max_retries=0
        ) as wrong:
            with pytest.raises(openai.AuthenticationError):
                await wrong.models.list()
        key = TOKENS["acme"]
        async with openai.AsyncOpenAI(base_url=f"{program.base_url}/v1", api_key=key, max_retries=0) as right:
            assert (await right.models.list()).data


async def test_an_error_in_a_stream_is_one_there_too(client: openai.AsyncOpenAI, model: ModelServer) -> None:
    await model.behave(faults={"400": 1.0})
    stream = await client.chat.completions.create(model="parley/judge-3", messages=HELLO, stream=True)
    with pytest.raises(openai.APIError):
        async for _ in stream:
            pass


async def test_an_operators_panel_is_a_model_too(
    local_service: Running, model: ModelServer, tmp_path: Path
) -> None:
    file = tmp_path / "panels.toml"
    file.write_text(
        '[panels.short]\ndescription = "one word"\nnum_agents = 2\nsystem = "One word."\nselect = "judge"\n'
    )
    async with door(local_service, gateway_panels=file) as program:
        assert (await program.get("/v1/models")).json()["data"][0]["id"] == "parley/short"
        done = await program.post("/v1/chat/completions", json={"model": "parley/short", "messages": HELLO})
        assert done.status_code == 200, done.text
        asked = await local_service.client.request_of(done.json()["parley"]["task_id"])
        assert json.loads(asked or b"{}")["system"] == "One word."
