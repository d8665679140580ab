"""The actor-per-agent shape: in Ray, a new actor for each agent, one call, and it is gone.

An actor is a process, which starts and imports before its call. It takes no CPU in Ray's books, so that they all start at once.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.question import MODEL, TEMPERATURE, prompt
from benchmarks.systems import System
from workers.vllm import ChatRequest, Endpoint, VllmClient

OBJECT_STORE_BYTES = 80 * 1024 * 1024


class Agent:
    def __init__(self, model_url: str) -> None:
        self._model_url = model_url

    async def answer(self) -> str:
        async with VllmClient(connections=1) as client:
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
        return str(await actor.answer.remote())  # with the last reference to it the actor goes


@asynccontextmanager
async def running(model_url: str) -> AsyncIterator[System]:
    # As workers/cluster.py: workers are plain processes, and nothing listens outside loopback.
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    import ray
    from ray._private import ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = False
    await asyncio.to_thread(
        ray.init,
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=OBJECT_STORE_BYTES,
    )
    try:
        system = ActorEach(ray.remote(num_cpus=0)(Agent), model_url)
        await system.deliberate(1)
        yield system
    finally:
        await asyncio.to_thread(ray.shutdown)
