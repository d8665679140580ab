"""What a caller says about its question, as a real llama.cpp takes it: the tiny model behind the whole service."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from parley.broker.core.messages import DeliberationCompleted, Ending
from parley.broker.jetstream.embedded import EmbeddedNats
from parley.client import Client
from parley.tiny_model_process import tiny_model
from parley.workers.tiny_model.engine_parameters import MODEL_NAME
from parley.workers.tiny_model.installation import missing_part
from tests.integration.test_model_servers import served

CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}, "people": {"type": "integer"}},
    "required": ["city", "people"],
    "additionalProperties": False,
}
FORM = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}
# Enough for the form, whatever the numbers.
TOKENS = 120


@pytest.fixture
async def client(empty_nats: EmbeddedNats, tmp_path: Path) -> AsyncIterator[Client]:
    missing = missing_part()
    if missing is not None:
        pytest.skip(f"no tiny model here: {missing} is not installed")
    async with (
        tiny_model(tmp_path) as url,
        served(empty_nats, tmp_path / "home", vllm_url=url, vllm_model=MODEL_NAME) as (client, _),
    ):
        yield client


def answers(ending: Ending) -> list[str]:
    assert isinstance(ending, DeliberationCompleted), ending
    return [result.proposal.content for result in ending.results]


async def test_llama_cpp_takes_each_field_of_a_request(client: Client) -> None:
    ending = await client.deliberate(
        "Name a city.", agents=2, role="NONE", response_format=FORM, max_tokens=TOKENS, temperature=0.5,
        top_p=0.9, seed=3, extra={"top_k": 20}, select="vote", answer_key={"json": "/city"},
        logprobs=True, top_logprobs=2,
    )  # fmt: skip
    assert all(result.logprobs and result.logprobs[0]["logprob"] <= 0 for result in ending.results)
    for answer in answers(ending):
        assert json.loads(answer)["city"] in ("Rome", "Oslo")
    assert ending.winner is not None

    talk = [
        {"role": "system", "content": "Say one word."},
        {"role": "user", "content": [{"type": "text", "text": "Say red."}]},
    ]
    # Without chance the same prompt has the same answer, however it is given.
    same = {"agents": 1, "role": "NONE", "max_tokens": 8, "temperature": 0.0}
    in_messages = await client.deliberate(messages=talk, **same)  # type: ignore[arg-type]
    in_words = await client.deliberate("Say red.", system="Say one word.", **same)  # type: ignore[arg-type]
    assert answers(in_messages) == answers(in_words)
    assert in_messages.results[0].usage.prompt_tokens == in_words.results[0].usage.prompt_tokens

    panel: list[dict[str, Any]] = [
        {"system": "Say one word."},
        {"persona": "You are a cook.", "max_tokens": 3},
    ]
    members = await client.deliberate("Say red.", panel=panel, temperature=0.0, max_tokens=8)
    assert isinstance(members, DeliberationCompleted)
    assert [result.persona for result in members.results] == [None, "You are a cook."]
    assert members.results[1].usage.completion_tokens <= 3
