"""One actor for each agent: Ray starts a new actor, it makes one call and ends.

An actor is a process, which starts and imports first. It reserves no CPU of Ray, so that all actors start at once.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.question import MODEL, TEMPERATURE, prompt
from benchmarks.systems import System
from parley.workers.model.endpoint_address import Endpoint
from parley.workers.model.model_client import ChatRequest, ModelClient


class Agent:
    def __init__(self, model_url: str) -> None:
        self._model_url = model_url

    async def answer(self) -> str:
        async with ModelClient(connections=1) as client:
            request = ChatRequest(MODEL, prompt(), temperature=TEMPERATURE)
            return (await client.complete(Endpoint(self._model_url), request, seconds=30.0)).content


class ActorEach:
    def __init__(self, agent: Any, model_url: str) -> None:
        self._agent = agent
        self._model_url = model_url

    async def deliberate(self, agents: int) -> None:
        answers = await asyncio.gather(*(self._one() for _ in range(agents)))
        assert all(answers), answers

    async def _one(self) -> str:
        actor = self._agent.remote(self._model_url)
        return str(await actor.answer.remote())  # Ray ends the actor with its last reference


@asynccontextmanager
async def running(model_url: str) -> AsyncIterator[System]:
    from parley.workers.pool.ray_cluster import LOCAL_OBJECT_STORE_BYTES
    from parley.workers.pool.ray_private import ray, stay_on_loopback

    stay_on_loopback()

    await asyncio.to_thread(
        ray.init,
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=LOCAL_OBJECT_STORE_BYTES,
    )
    try:
        system = ActorEach(ray.remote(num_cpus=0)(Agent), model_url)
        await system.deliberate(1)
        yield system
    finally:
        await asyncio.to_thread(ray.shutdown)
