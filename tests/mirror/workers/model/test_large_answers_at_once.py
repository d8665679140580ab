"""Few large answers are in memory at a time; those of ordinary length wait for nobody."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from parley.workers.model import large_answers_at_once
from parley.workers.model.endpoint_address import Endpoint
from parley.workers.model.large_answers_at_once import LARGE_BYTES, LargeAnswer, wait_turn
from parley.workers.model.model_client import ModelClient
from tests.harness import ModelServer, model_server
from tests.mirror.workers.model.test_model_client import ASK


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    async with model_server() as server:
        yield server


@pytest.mark.parametrize("stream", [False, True])
async def test_a_large_answer_waits_for_its_place(
    model: ModelServer, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = asyncio.Semaphore(0)
    async with ModelClient(stream=stream) as client:

        async def ask() -> str:
            with LargeAnswer(places):
                return (await client.complete(Endpoint(model.url), ASK, seconds=20)).content

        assert await ask()  # an ordinary one needs none
        monkeypatch.setattr(large_answers_at_once, "LARGE_BYTES", 10)
        large = asyncio.create_task(ask())
        await model.idle()
        assert not (await asyncio.wait([large], timeout=0.1))[0]
        places.release()
        assert await large
        assert not places.locked()  # given back


async def test_a_job_takes_one_place_however_often_it_asks() -> None:
    places = asyncio.Semaphore(1)
    with LargeAnswer(places):
        await asyncio.gather(*(asyncio.create_task(wait_turn(LARGE_BYTES)) for _ in range(3)))
        assert places.locked()
    assert places._value == 1


async def test_a_job_that_is_over_takes_no_place() -> None:
    places = asyncio.Semaphore(0)
    answer = LargeAnswer(places)
    with answer:
        waiting = asyncio.create_task(answer.take())
        await asyncio.sleep(0)
    places.release()
    await waiting
    await answer.take()
    assert places._value == 1


async def test_outside_a_job_nothing_waits() -> None:
    await wait_turn(LARGE_BYTES)
