"""All model servers of a worker: each is called as its settings say, for its own models only, within its limits."""

import asyncio
import math
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Self

from pydantic_core import to_json

from parley.broker.core.messages import ErrorType
from parley.workers.model.call_policy import CallTimeouts
from parley.workers.model.endpoint_address import Endpoint
from parley.workers.model.endpoint_limit import EndpointLimit, Store
from parley.workers.model.model_client import ChatRequest, ModelClient, NoRoom
from parley.workers.model.model_error import ModelError
from parley.workers.model.model_list import ServedModel, match, shown
from parley.workers.model.model_server import ModelServer
from parley.workers.model.responses import Completion
from parley.workers.model.server_access import ServerAccess

# For an answer without `max_tokens`: what a limit of tokens sets aside until the answer is there.
USUAL_ANSWER_TOKENS = 1_024
# A token of English text is about as long.
BYTES_PER_TOKEN = 4
# What servers count for a picture differs; of a large one it is about this.
IMAGE_TOKENS = 1_024


@dataclass(frozen=True, slots=True)
class SharedLimits:
    """Where the limits are shared by all workers. `worker`: this one's name among them. `now`: by the NATS server."""

    store: Store
    worker: str
    now: Callable[[], float]


class ModelServers:
    """Use as an async context manager. `connections`: to the servers that are reached alike. `limits`: None to call
    without them, which is for readiness and `doctor`."""

    def __init__(
        self,
        servers: Iterable[ModelServer],
        *,
        timeouts: CallTimeouts | None = None,
        stream: bool = False,
        connections: int = 256,
        limits: SharedLimits | None = None,
    ) -> None:
        self._servers = {server.endpoint: server for server in servers}
        # One for all that are reached alike.
        self._clients: dict[tuple[str | None, ServerAccess], ModelClient] = {}
        for server in self._servers.values():
            reached = server.api_key, server.access
            if reached not in self._clients:
                self._clients[reached] = ModelClient(
                    api_key=server.api_key,
                    access=server.access,
                    timeouts=timeouts,
                    stream=stream,
                    connections=connections,
                )
        self._limits: dict[Endpoint, EndpointLimit] = {}
        if limits is not None:
            limited = (server for server in self._servers.values() if server.limited)
            self._limits = {
                server.endpoint: EndpointLimit(server, limits.store, limits.worker, limits.now)
                for server in limited
            }
        # Of servers without limits, which are asked for any model.
        self._plain = {
            endpoint: self._client(server)
            for endpoint, server in self._servers.items()
            if server.models is None and endpoint not in self._limits
        }
        # Closes the clients, and lets go of the limits before.
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for client in self._clients.values():
            await self._stack.enter_async_context(client)
        self._stack.push_async_callback(self._let_go)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def _let_go(self) -> None:
        # Together: while NATS is away each waits for it.
        await asyncio.gather(*(limit.close() for limit in self._limits.values()))

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        return tuple(self._servers)

    def has_room(self, endpoint: Endpoint) -> bool:
        """Whether a call would begin soon, as far as is known here."""
        limit = self._limits.get(endpoint)
        return limit is None or limit.has_room

    def complete(
        self, endpoint: Endpoint, request: ChatRequest, *, seconds: float
    ) -> Coroutine[Any, Any, Completion]:
        """One chat completion within `seconds`, the wait for room included. Raises ModelError."""
        # Not a coroutine around another: each is half a KiB, and thousands of calls wait at a time.
        if endpoint in self._plain:
            return self._plain[endpoint].complete(endpoint, request, seconds=seconds)
        return self.complete_soon(endpoint, request, seconds=seconds, patience=math.inf)

    async def complete_soon(
        self, endpoint: Endpoint, request: ChatRequest, *, seconds: float, patience: float
    ) -> Completion:
        """The same, but room must come within `patience`; raises NoRoom if it does not."""
        server = self._servers[endpoint]
        if server.models is not None and match(_named(server.models), request.model) is None:
            raise _not_its_model(server, request.model)
        client, limit = self._client(server), self._limits.get(endpoint)
        if limit is None:
            return await client.complete(endpoint, request, seconds=seconds)
        return await _within(limit, client, endpoint, request, seconds, patience)

    async def models(self, endpoint: Endpoint, *, seconds: float = 5.0) -> list[ServedModel]:
        """The models that the settings name, or that the server lists. Raises ModelError."""
        server = self._servers[endpoint]
        if server.models is not None:
            return _named(server.models)
        return await self._client(server).models(endpoint, seconds=seconds)

    def _client(self, server: ModelServer) -> ModelClient:
        return self._clients[server.api_key, server.access]


async def _within(
    limit: EndpointLimit,
    client: ModelClient,
    endpoint: Endpoint,
    request: ChatRequest,
    seconds: float,
    patience: float,
) -> Completion:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    try:
        async with (
            asyncio.timeout_at(min(deadline, loop.time() + patience)) as waiting,
            limit.place(_tokens(request)) as place,
        ):
            waiting.reschedule(None)
            try:
                completion = await client.complete(endpoint, request, seconds=deadline - loop.time())
            except ModelError as error:
                place.used = _used_all_the_same(error)
                raise
            place.used = completion.usage.total_tokens or None
            return completion
    except TimeoutError as error:
        if patience < seconds:
            raise NoRoom(endpoint) from error
        why = f": {limit.problem}" if limit.problem else ""
        late = f"no room at {endpoint}, whose limit all workers share, within {seconds:.1f} s{why}"
        raise ModelError(ErrorType.DEADLINE_EXCEEDED, late, attempts=0, is_ours=True) from error


def _used_all_the_same(error: ModelError) -> int | None:
    """The tokens that a call without an answer used; None if nobody knows."""
    refused = error.status is not None or error.error_type is ErrorType.CONNECTION_FAILED
    return error.usage.total_tokens or (0 if refused else None)


def _tokens(request: ChatRequest) -> int:
    """How many tokens a call may use, about. An image costs what it shows, not the bytes that it is written in."""
    prompt = 1
    for message in request.messages:
        parts = message.get("content")
        for part in parts if isinstance(parts, list) else (parts,):
            is_text = not isinstance(part, Mapping) or "text" in part
            prompt += len(to_json(part)) // BYTES_PER_TOKEN if is_text else IMAGE_TOKENS
    return prompt + (USUAL_ANSWER_TOKENS if request.max_tokens is None else request.max_tokens)


def _named(models: Sequence[str]) -> list[ServedModel]:
    return [ServedModel(name) for name in models]


def _not_its_model(server: ModelServer, model: str) -> ModelError:
    has = shown(_named(server.models or ()))
    text = f"{server.endpoint} is not asked for {model}: {server.access.names.url} gives it {has}"
    return ModelError(ErrorType.MODEL_NOT_FOUND, text, attempts=0)
