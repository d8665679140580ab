"""What the model servers really serve, for readiness and the doctor: the model by name in `/v1/models`, and one token generated.

vLLM's `/health` can be 200 while its workers are dead (vllm#16259), and its list, too; only a token tells. But a token for each look
would be waste: one is asked for at the first look, and again once a server was away. In between the list is enough.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Self

from parley.broker.core.messages import ErrorType
from parley.workers.agent import PROBE_MESSAGES
from parley.workers.model.breaker import BreakerState
from parley.workers.model.client import ChatRequest, ModelClient
from parley.workers.model.endpoint import Endpoint
from parley.workers.model.endpoint_status import EndpointStatus
from parley.workers.model.responses import MAX_ERROR_CHARACTERS, ModelError, ServedModel

log = logging.getLogger("parley.workers")

# A model that needs longer than this for one token is not answering.
ONE_TOKEN_SECONDS = 30.0
# What who asks waits for a look to end, so that a probe of ours is answered long before its own time is up. The look goes on.
PATIENCE_SECONDS = 1.0
# Every agent that comes to such a server fails, and is not retried elsewhere: one is enough to be not ready. A server that is merely
# away costs nobody anything while another is there.
FINAL = frozenset({ErrorType.MODEL_NOT_FOUND, ErrorType.UNAUTHORIZED})


async def find(client: ModelClient, endpoint: Endpoint, wanted: str | None) -> ServedModel:
    """The model of that name, or the first that is listed. Raises ModelError, MODEL_NOT_FOUND if it is not."""
    models = await client.models(endpoint)
    for model in models:
        if wanted in (None, model.name):
            return model
    listed = ", ".join(model.name for model in models)[:MAX_ERROR_CHARACTERS]
    words = (
        f"{wanted} is not served there; it serves {listed or 'nothing'}"
        if wanted
        else "no model is served there"
    )
    raise ModelError(ErrorType.MODEL_NOT_FOUND, words)


async def generate(
    client: ModelClient,
    endpoint: Endpoint,
    model: str,
    messages: Sequence[Mapping[str, str]] = PROBE_MESSAGES,
    *,
    seconds: float = ONE_TOKEN_SECONDS,
) -> None:
    """Have one token generated. Raises ModelError."""
    try:
        await client.complete(
            endpoint, ChatRequest(model=model, messages=messages, max_tokens=1), seconds=seconds
        )
    except ModelError as error:
        # It was generated, and is no text: a blank, or the first of what a model only thinks.
        if error.error_type is not ErrorType.EMPTY_ANSWER:
            raise


def advice(error: ModelError) -> str:
    """What an operator is told. The server's words speak of our own question, but those that refuse a key may quote it."""
    if error.error_type is ErrorType.UNAUTHORIZED:
        return f"HTTP {error.status}: it refuses the key, is VLLM_API_KEY right?"
    return str(error)


class ModelReadiness:
    """Looks at the endpoints when asked, each look a task of its own. Use as an async context manager, inside that of `client`.

    `statuses`: how the workers see each endpoint. One that none of them calls has been away, whatever its list says.
    """

    def __init__(
        self,
        client: ModelClient,
        endpoints: Sequence[Endpoint],
        model: str,
        statuses: Callable[[], Mapping[str, EndpointStatus]],
    ) -> None:
        self._client = client
        self._endpoints = endpoints
        self._model = model
        self._standings = statuses
        # What was found last; None: usable. Not there: never looked to the end.
        self._found: dict[Endpoint, ModelError | None] = {}
        self._looks: dict[Endpoint, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        looks = list(self._looks.values())
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)

    async def problem(self) -> str | None:
        """Why agents cannot be answered, from a look now and, for a server that is slow, from the one before; None when they can."""
        for endpoint in self._endpoints:
            look = self._looks.get(endpoint)
            if look is None or look.done():
                self._looks[endpoint] = asyncio.create_task(self._look(endpoint), name="discovery")
        await asyncio.wait(self._looks.values(), timeout=PATIENCE_SECONDS)
        usable = any(self._found.get(endpoint, True) is None for endpoint in self._endpoints)
        told = [self._told(endpoint) for endpoint in self._endpoints if not usable or self._final(endpoint)]
        return "; ".join(dict.fromkeys(told)) or None

    def _final(self, endpoint: Endpoint) -> bool:
        error = self._found.get(endpoint)
        return error is not None and error.error_type in FINAL

    def _told(self, endpoint: Endpoint) -> str:
        error = self._found.get(endpoint)
        return f"{endpoint}: {f'no token of {self._model} yet' if error is None else advice(error)}"

    async def _look(self, endpoint: Endpoint) -> None:
        before = self._found.get(endpoint, "never looked")
        after: ModelError | None = None
        try:
            await find(self._client, endpoint, self._model)
            if before is None and self._given_up(endpoint):
                before = "given up"
                del self._found[endpoint]  # not usable while it is asked, which may take long
            if before is not None:
                await generate(self._client, endpoint, self._model)
        except ModelError as error:
            after = error
        except Exception:
            log.exception("what %s serves is not known through a bug", endpoint)
            return
        self._found[endpoint] = after
        if after is not None and not isinstance(before, ModelError):
            log.warning("%s is not usable: %s", endpoint, advice(after))
        elif after is None and before is not None:
            log.info("%s generated a token of %s", endpoint, self._model)

    def _given_up(self, endpoint: Endpoint) -> bool:
        """No worker calls it any more."""
        standing = self._standings().get(endpoint.label)
        return (
            standing is not None
            and any(standing.workers.values())
            and not standing.workers[BreakerState.CLOSED]
        )
