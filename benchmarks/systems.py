"""What is measured: a system that has agents answer one question and waits for all of them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from benchmarks.question import MODEL, QUESTION, TEMPERATURE, prompt
from parley.broker.core.messages import DeliberationCompleted
from parley.client import Client
from parley.workers.model.endpoint_address import Endpoint
from parley.workers.model.model_client import ChatRequest, ModelClient


class System(Protocol):
    async def deliberate(self, agents: int) -> None:
        """One deliberation: `agents` calls to the model, and a join. Raises unless every answer came."""


class Parley:
    """Through the whole service."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def deliberate(self, agents: int) -> None:
        ending = await self._client.deliberate(QUESTION, agents=agents)
        assert isinstance(ending, DeliberationCompleted), ending
        assert not ending.degraded, ending


class Bare:
    """A plain asyncio loop: the same calls with the same HTTP client, and nothing durable around them."""

    def __init__(self, client: ModelClient, model_url: str) -> None:
        self._client = client
        self._endpoint = Endpoint(model_url)
        self._request = ChatRequest(MODEL, prompt(), temperature=TEMPERATURE)

    async def deliberate(self, agents: int) -> None:
        await asyncio.gather(*(self._call() for _ in range(agents)))

    async def _call(self) -> None:
        await self._client.complete(self._endpoint, self._request, seconds=30)


@asynccontextmanager
async def bare(model_url: str, *, connections: int) -> AsyncIterator[Bare]:
    async with ModelClient(connections=connections) as client:
        yield Bare(client, model_url)
