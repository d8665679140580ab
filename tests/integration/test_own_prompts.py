"""What a caller says about its question, as it reaches the model server: word for word, and nothing else."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parley.broker.core.errors import InvalidMessage
from parley.broker.core.messages import DeliberationCompleted, DeliberationFailed, ErrorType
from parley.broker.jetstream.embedded import EmbeddedNats
from parley.workers import prompts
from tests.integration.test_model_servers import served
from tests.rig.habit_server import (
    Habit,
    HabitServer,
    Heard,
    Reply,
    answer,
    either,
    habit_server,
    having,
    refusal,
    streamed,
)

OWN = "You are a translator.\nAnswer in French."


def saying(words: Callable[[Heard], str]) -> Habit:
    def habit(heard: Heard) -> Reply:
        if heard.method == "GET":
            return either(heard)
        return streamed(words(heard)) if heard.fields.get("stream") else answer(words(heard))

    return habit


def sent(server: HabitServer) -> list[dict[str, Any]]:
    """The bodies of all calls, but for the question whether the server is there."""
    return [heard.fields for heard in server.heard if "Why?" in heard.body.decode()]


async def test_ones_own_words_are_all_that_is_sent(empty_nats: EmbeddedNats, tmp_path: Path) -> None:
    async with habit_server() as server, served(empty_nats, tmp_path, vllm_url=server.url) as (client, _):
        ending = await client.deliberate("Why?", agents=2, role="none", system=OWN)
        assert isinstance(ending, DeliberationCompleted)
        assert [result.agent_id for result in ending.results] == ["agent-none-001", "agent-none-002"]
        bodies = sent(server)
    messages = [{"role": "system", "content": OWN}, {"role": "user", "content": "Why?"}]
    assert [body["messages"] for body in bodies] == [messages] * 2
    # What nobody asked for is not sent.
    assert all(set(body) <= {"model", "messages", "stream", "stream_options"} for body in bodies)


async def test_judges_read_it_too_and_so_does_work_that_names_its_request(
    empty_nats: EmbeddedNats, tmp_path: Path
) -> None:
    question = f"Why? {'x' * 60_000}"  # too large to be copied for each agent
    numbers = itertools.count()
    unlike = saying(lambda _: f"answer {next(numbers)}")
    async with (
        habit_server(unlike) as server,
        served(empty_nats, tmp_path, vllm_url=server.url) as (client, _),
    ):
        await client.deliberate(question, agents=2, system=OWN, select="judge", judges=1)
        bodies = sent(server)
    assert len(bodies) == 4  # two agents, and a judge that is asked twice for a ballot
    assert {body["messages"][0]["content"] for body in bodies} == {OWN}
    assert all(body["messages"][1]["content"].startswith("# Task\n\nWhy?") for body in bodies)


async def test_a_system_message_that_is_too_long_is_refused_by_its_name(
    empty_nats: EmbeddedNats, tmp_path: Path
) -> None:
    async with habit_server() as server, served(empty_nats, tmp_path, vllm_url=server.url) as (client, _):
        with pytest.raises(InvalidMessage, match=r"^system: is 65537 bytes, more than 65536$"):
            await client.deliberate("Why?", system="x" * 65_537)
        with pytest.raises(InvalidMessage, match=r"^system: is empty$"):
            await client.deliberate("Why?", system="")


async def test_each_member_of_a_panel_is_asked_as_it_is(empty_nats: EmbeddedNats, tmp_path: Path) -> None:
    panel = [
        {"model": "one", "system": OWN, "temperature": 0.1, "seed": 7},
        {"model": "two", "persona": "You are a cook.", "max_tokens": 9},
    ]
    async with habit_server() as server, served(empty_nats, tmp_path, vllm_url=server.url) as (client, _):
        ending = await client.deliberate("Why?", panel=panel, agents=3, role="none", seed=100)
        large = await client.deliberate(f"Why? {'x' * 60_000}", panel=panel, role="none")
        bodies = sent(server)
    assert isinstance(ending, DeliberationCompleted)
    assert [result.persona for result in ending.results] == [None, "You are a cook.", None]
    assert isinstance(large, DeliberationCompleted)
    assert len(large.results) == 2
    for seeds, some in (({7, 8}, bodies[:3]), ({7}, bodies[3:])):
        ones = [body for body in some if body["model"] == "one"]
        (two,) = [body for body in some if body["model"] == "two"]
        assert {body["seed"] for body in ones} == seeds
        assert all(body["messages"][0] == {"role": "system", "content": OWN} for body in ones)
        assert all((body["temperature"], body.get("max_tokens")) == (0.1, None) for body in ones)
        assert two["messages"][0]["content"].endswith("# Your angle\n\nYou are a cook.")
        assert (two["max_tokens"], two.get("temperature")) == (9, None)


async def test_models_are_taken_in_turn(empty_nats: EmbeddedNats, tmp_path: Path) -> None:
    named = saying(lambda heard: str(heard.fields["model"]))
    async with (
        habit_server(named) as server,
        served(empty_nats, tmp_path, vllm_url=server.url) as (client, _),
    ):
        await client.deliberate("Why?", models=["one", "two"], select="judge", judges=2)
        asked = [body["model"] for body in sent(server)]
    assert sorted(asked[:2]) == ["one", "two"]
    assert set(asked[2:]) == {"one", "two"}


async def test_more_fields_are_passed_on_as_they_are_and_none_of_ours_is_replaced(
    empty_nats: EmbeddedNats, tmp_path: Path
) -> None:
    extra = {"top_k": 20, "chat_template_kwargs": {"enable_thinking": False}, "logit_bias": {"50256": -100}}
    numbers = itertools.count()
    unlike = saying(lambda _: f"answer {next(numbers)}")
    async with (
        habit_server(unlike) as server,
        served(empty_nats, tmp_path, vllm_url=server.url) as (client, _),
    ):
        await client.deliberate("Why?", agents=2, extra=extra, top_p=0.5, select="judge", judges=1)
        await client.deliberate(f"Why? {'x' * 60_000}", agents=2, extra=extra, top_p=0.5)
        bodies = sent(server)
        with pytest.raises(InvalidMessage, match=r"^extra: messages, model cannot be given here: "):
            await client.deliberate("Why?", extra={"model": "x", "messages": [], "top_k": 1})
        with pytest.raises(InvalidMessage, match=r"^extra: it is 20\d\d\d bytes as JSON, more than 16384$"):
            await client.deliberate("Why?", extra={"x": "x" * 20_000})
    agents = [body for body in bodies if "response_format" not in body]
    assert len(agents) == 4
    assert all({name: body.get(name) for name in extra} == extra and body["top_p"] == 0.5 for body in agents)
    judges = [body for body in bodies if "response_format" in body]
    assert judges
    assert not any({*extra, "top_p"} & body.keys() for body in judges)


CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FORM = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}


async def test_the_form_of_an_answer_is_asked_for_and_held_to(
    empty_nats: EmbeddedNats, tmp_path: Path
) -> None:
    numbers = itertools.count()
    wrong_first = saying(lambda _: '{"city": "Rome"}' if next(numbers) % 2 else "Rome, I think.")
    async with (
        habit_server(wrong_first) as server,
        served(empty_nats, tmp_path, vllm_url=server.url) as (client, _),
    ):
        ending = await client.deliberate("Why?", agents=1, response_format=FORM)
        large = await client.deliberate(f"Why? {'x' * 60_000}", agents=1, response_format=FORM)
        bodies = sent(server)
    assert isinstance(ending, DeliberationCompleted)
    assert isinstance(large, DeliberationCompleted)
    assert [one.results[0].proposal.content for one in (ending, large)] == ['{"city": "Rome"}'] * 2
    assert [one.results[0].attempts for one in (ending, large)] == [2, 2]
    assert [body["response_format"] for body in bodies] == [FORM] * 4


async def test_an_answer_that_never_has_its_form_fails_by_name(
    empty_nats: EmbeddedNats, tmp_path: Path
) -> None:
    async with habit_server() as server, served(empty_nats, tmp_path, vllm_url=server.url) as (client, _):
        ending = await client.deliberate("Why?", agents=2, response_format={"type": "json_object"})
        assert isinstance(ending, DeliberationFailed)
        assert [failed.error_type for failed in ending.failed_agents] == [ErrorType.INVALID_OUTPUT] * 2
        with pytest.raises(InvalidMessage, match=r"^response_format: # refers to itself: "):
            await client.deliberate(
                "Why?",
                response_format={
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": {"$ref": "#"}},
                },
            )


async def test_a_tool_that_a_model_asks_for_is_told_with_what_it_was_to_get(
    empty_nats: EmbeddedNats, tmp_path: Path
) -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
    function = {"name": "weather", "arguments": '{"city": "Rome"}'}
    call = {"id": "call-1", "index": 0, "type": "function", "function": function}

    def calls_tool(heard: Heard) -> Reply:
        if heard.method == "GET":
            return either(heard)
        choice = {"message": {"content": None, "tool_calls": [call]}, "finish_reason": "tool_calls"}
        return answer(choices=[choice])

    async with (
        habit_server(calls_tool) as server,
        served(empty_nats, tmp_path, vllm_url=server.url) as (client, _),
    ):
        ending = await client.deliberate("Why?", agents=1, extra={"tools": [tool]})
        assert sent(server)[0]["tools"] == [tool]
    (failed,) = ending.failed_agents
    assert failed.error_type is ErrorType.TOOL_CALL
    assert failed.error == "the model asked for a tool instead of answering: weather; Parley runs none"
    assert [one.model_dump() for one in failed.tool_calls] == [{"id": "call-1", **function}]


TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Why? And what is this?"},
    {"role": "assistant", "content": "Show it."},
    {"role": "user", "content": [
        {"type": "text", "text": "Here."},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
    ]},
]  # fmt: skip


async def test_a_conversation_reaches_agents_and_judges_as_it_is(
    empty_nats: EmbeddedNats, tmp_path: Path
) -> None:
    numbers = itertools.count()
    unlike = saying(lambda _: f"answer {next(numbers)}")
    async with (
        habit_server(unlike) as server,
        served(empty_nats, tmp_path, vllm_url=server.url) as (client, _),
    ):
        ending = await client.deliberate(messages=TALK, agents=2)
        large = [*TALK[:3], {"role": "user", "content": f"Here. {'x' * 60_000}"}]
        await client.deliberate(messages=large, agents=2, role="none", requirements=["Be kind."])
        await client.deliberate(messages=TALK, agents=2, select="judge", judges=1)
        with pytest.raises(InvalidMessage, match=r"^messages: 0: content must be a text or a list of parts$"):
            await client.deliberate(messages=[{"role": "user"}])
        with pytest.raises(InvalidMessage, match=r"^task_description and messages are given"):
            await client.deliberate("Why?", messages=TALK)
        with pytest.raises(InvalidMessage, match=r"^task_description is required, or messages$"):
            await client.deliberate()
        found = await client.tallies()
        questions = await client.questions(found)
        bodies = [body["messages"] for body in sent(server)]
    assert isinstance(ending, DeliberationCompleted)
    assert bodies[:2] == [TALK] * 2
    kind = "\n\n# Requirements\n\nEvery one of these must hold:\n1. Be kind."
    assert bodies[2:4] == [[*large[:3], {"role": "user", "content": large[3]["content"] + kind}]] * 2
    assert bodies[4:6] == [TALK] * 2
    for judge in bodies[6:]:
        assert judge[:3] == TALK[:3]
        assert judge[3]["content"][:2] == TALK[3]["content"]
        assert judge[3]["content"][2]["text"].startswith("# Answers")
    assert questions[ending.task_id] == "Here."


async def test_an_operators_own_instructions_stand_instead_of_ours(
    empty_nats: EmbeddedNats, tmp_path: Path
) -> None:
    roles = tmp_path / "roles"
    roles.mkdir()
    (roles / "qa.md").write_text("You test.")
    (roles / "LAWYER.md").write_text("You know the law.")
    numbers = itertools.count()
    unlike = saying(lambda _: f"answer {next(numbers)}")
    async with (
        habit_server(unlike) as server,
        served(empty_nats, tmp_path / "home", vllm_url=server.url, roles_dir=roles) as (client, _),
    ):
        for role in ("QA", "lawyer", "DEV"):
            await client.deliberate("Why?", agents=1, role=role)
        await client.deliberate("Why?", agents=1, role="QA", system=OWN)
        await client.deliberate("Why?", agents=2, role="QA", select="judge", judges=1)
        systems = [body["messages"][0]["content"] for body in sent(server)]
    assert systems[:2] == ["You test.", "You know the law."]
    assert systems[2] == prompts.ROLES["DEV"]
    assert systems[3] == OWN
    assert set(systems[4:]) == {"You test."}


async def test_log_probabilities_are_asked_for_and_come_back(
    empty_nats: EmbeddedNats, tmp_path: Path
) -> None:
    tokens = [
        {"token": "hi", "logprob": -0.25, "bytes": None, "top_logprobs": [{"token": "ho", "logprob": -1.5}]}
    ]

    def with_logprobs(heard: Heard) -> Reply:
        if heard.method == "GET":
            return either(heard)
        choice = {"message": {"content": "hi"}, "finish_reason": "stop", "logprobs": {"content": tokens}}
        return answer(choices=[choice])

    async with (
        habit_server(with_logprobs) as server,
        served(empty_nats, tmp_path, vllm_url=server.url) as (client, _),
    ):
        ending = await client.deliberate("Why?", agents=1, logprobs=True, top_logprobs=1)
        with pytest.raises(InvalidMessage, match=r"^top_logprobs needs logprobs$"):
            await client.deliberate("Why?", top_logprobs=1)
        (body,) = sent(server)
    assert (body["logprobs"], body["top_logprobs"]) == (True, 1)
    assert isinstance(ending, DeliberationCompleted)
    assert ending.results[0].logprobs == tuple(tokens)


async def test_of_a_panel_of_three_models_on_three_servers_a_dead_ones_fail_by_name_and_the_rest_choose(
    empty_nats: EmbeddedNats, tmp_path: Path
) -> None:
    async with (
        habit_server(having("one")) as one,
        habit_server(having("two")) as two,
        habit_server(having("three")) as three,
    ):
        urls = ",".join(server.url for server in (one, two, three))
        async with served(
            empty_nats, tmp_path, vllm_url=urls, vllm_model="one", retry_attempts=2, retry_base_seconds=0.05
        ) as (client, _):
            models = ["one", "two", "three"]
            whole = await client.deliberate("Why?", models=models, agents=3)
            assert isinstance(whole, DeliberationCompleted)
            assert [result.proposal.content for result in whole.results] == [
                f"from {name}" for name in models
            ]
            nobody = await client.deliberate("Why?", model="four", agents=1)
            three.habit = lambda _: refusal(503)
            ending = await client.deliberate(
                "Why?", models=models, agents=3, select="judge", judge_model="one"
            )
    assert isinstance(ending, DeliberationCompleted)
    assert [result.proposal.model for result in ending.results] == ["m", "m"]
    assert [(failed.agent_id, failed.error_type) for failed in ending.failed_agents] == [
        ("agent-dev-003", ErrorType.SERVER_ERROR)
    ]
    assert ending.selection is not None
    assert isinstance(nobody, DeliberationFailed)
    assert nobody.failed_agents[0].error.startswith("no server has four: ")


async def test_judges_of_a_model_that_nobody_serves_are_told_before_an_answer_is_paid_for(
    empty_nats: EmbeddedNats, tmp_path: Path
) -> None:
    async with habit_server(having("one")) as one, habit_server(having("two")) as two:
        urls = f"{one.url},{two.url}"
        async with served(empty_nats, tmp_path, vllm_url=urls, vllm_model="one") as (client, _):
            ending = await client.deliberate("Why is it so?", agents=3, select="judge", judge_model="nobody")
        asked = [heard for heard in (*one.heard, *two.heard) if b"Why is it so?" in heard.body]
    assert isinstance(ending, DeliberationFailed)
    told = {failed.error for failed in ending.failed_agents}
    assert {failed.error_type for failed in ending.failed_agents} == {ErrorType.MODEL_NOT_FOUND}
    assert len(ending.failed_agents) == 3
    assert told.pop().startswith("no server has nobody, which judges are to be asked of: http://")
    assert asked == []
