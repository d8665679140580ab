"""Which endpoints serve which model, so that an agent goes to one that has its model.

Each endpoint's list is asked for at the start, and again now and then. A list is a hint: a model that none of them
shows is asked for one token, which outweighs them. Only after that nobody serves it, and no question is sent.
"""

import asyncio
from collections.abc import Collection, Coroutine, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from cachetools import LRUCache

from parley.broker.core.messages import ErrorType
from parley.workers.model.endpoint_address import Endpoint
from parley.workers.model.model_client import ModelCalls
from parley.workers.model.model_error import ModelError
from parley.workers.model.model_list import ServedModel, match, shown
from parley.workers.model.readiness import generate

# Lists are as old as this at most, plus the time of an answer.
REFRESH_SECONDS = 60.0
# A server that sends no list within this may serve any model.
LIST_SECONDS = 2.0
TOKEN_SECONDS = 10.0
# Callers name models: so many are remembered until the next refresh.
REMEMBERED = 1_024


Found = TypeVar("Found")


class Serving(NamedTuple):
    """`known`: endpoints that have the model. `unknown`: those of which nobody knows, to be tried after them."""

    known: tuple[Endpoint, ...]
    unknown: tuple[Endpoint, ...]


class ServedModels:
    """All agents of a worker share one. Close it with `close`.

    `usual`: the service's own model, which is asked for where no list shows it: readiness tells what is wrong with it.
    """

    def __init__(self, client: ModelCalls, endpoints: Sequence[Endpoint], usual: str) -> None:
        self._client = client
        self._endpoints = tuple(endpoints)
        self._usual = usual
        # The latest list of each endpoint that sent one.
        self._lists: dict[Endpoint, list[ServedModel]] = {}
        # By model, until the next refresh: who serves it, or the task that is to find out.
        self._found: LRUCache[str, asyncio.Task[Serving]] = LRUCache(REMEMBERED)
        self._asking: dict[Endpoint, asyncio.Task[None]] = {}
        self._next_at = 0.0
        # All that is under way.
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self) -> None:
        """Ask for the lists, if it can matter which endpoint is asked."""
        if len(self._endpoints) > 1:
            self._refresh()

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def known(self, model: str) -> Serving | None:
        """Who may be asked for this model, if that is known now."""
        if len(self._endpoints) == 1 and model == self._usual:
            return Serving(self._endpoints, ())
        if asyncio.get_running_loop().time() >= self._next_at:
            self._refresh()
        task = self._found.get(model)
        return task.result() if task is not None and task.done() else None

    async def find(self, model: str) -> Serving:
        """As `known`, and waits for it. A model that nobody serves has neither."""
        found = self.known(model)
        if found is not None:
            return found
        task = self._found.get(model)
        if task is None:
            task = self._found[model] = self._begin(self._find(model))
        return await asyncio.shield(task)

    def others(self) -> str:
        """What is served instead, for an error."""
        return "; ".join(f"{endpoint} has {shown(models)}" for endpoint, models in self._lists.items())

    def _begin(self, work: Coroutine[Any, Any, Found]) -> "asyncio.Task[Found]":
        task = asyncio.create_task(work, name="served-models")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _refresh(self) -> None:
        self._next_at = asyncio.get_running_loop().time() + REFRESH_SECONDS
        self._found.clear()
        for endpoint in self._endpoints:
            if endpoint not in self._asking or self._asking[endpoint].done():
                self._asking[endpoint] = self._begin(self._ask(endpoint))

    async def _ask(self, endpoint: Endpoint) -> None:
        try:
            models = await self._client.models(endpoint, seconds=LIST_SECONDS)
        except ModelError:
            return  # what it said last still counts: a server that is away comes back with its models
        if models != self._lists.get(endpoint):
            # What is being found takes the new list into account.
            for model in [model for model, finding in self._found.items() if finding.done()]:
                del self._found[model]
        self._lists[endpoint] = models

    async def _find(self, model: str) -> Serving:
        # One whose list has not come yet may have another model.
        while (asking := self._not_yet_known()) and (model == self._usual or not self._listing(model)):
            await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
        known = self._listing(model)
        unknown = [endpoint for endpoint in self._endpoints if not self._lists.get(endpoint)]
        if model == self._usual:
            # One that is away at the start has it, as a rule: its breaker and its probes tell when it is back.
            return Serving((*known, *unknown) or self._endpoints, ())
        if known or unknown:
            return Serving(tuple(known), tuple(unknown))
        proven = await asyncio.gather(*(self._prove(endpoint, model) for endpoint in self._endpoints))
        by_answer = list(zip(self._endpoints, proven, strict=True))
        return Serving(
            tuple(endpoint for endpoint, serves in by_answer if serves),
            tuple(endpoint for endpoint, serves in by_answer if serves is None),
        )

    def _listing(self, model: str) -> list[Endpoint]:
        return [
            endpoint
            for endpoint in self._endpoints
            if match(self._lists.get(endpoint, ()), model) is not None
        ]

    def _not_yet_known(self) -> Collection[asyncio.Task[None]]:
        """The first questions for a list that are not answered."""
        asked: Iterable[Endpoint] = (endpoint for endpoint in self._asking if endpoint not in self._lists)
        return [self._asking[endpoint] for endpoint in asked if not self._asking[endpoint].done()]

    async def _prove(self, endpoint: Endpoint, model: str) -> bool | None:
        """Whether a token of it comes; None if nobody can tell."""
        try:
            await generate(self._client, endpoint, model, seconds=TOKEN_SECONDS)
        except ModelError as error:
            # Another refusal of the question may be about the question.
            named = error.error_type is ErrorType.BAD_REQUEST and model in error.message
            return False if named or error.error_type is ErrorType.MODEL_NOT_FOUND else None
        return True
