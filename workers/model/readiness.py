"""Whether the model servers serve the model: its name is listed, and a token comes. For readiness and doctor.

vLLM's `/health` can be 200 while its workers are dead (vllm#16259), and so can its list; only a token proves
that it works. A token for each check would be waste: one is asked for at the first check, and again after a
server was away. In between the list is enough.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Self

from parley.broker.core.agent_error_table import POLICIES
from parley.broker.core.messages import ErrorType
from parley.workers.model.breaker import BreakerState
from parley.workers.model.endpoint_address import Endpoint
from parley.workers.model.model_client import PROBE_MESSAGES, ChatRequest, ModelClient
from parley.workers.model.pool_endpoint_status import EndpointStatus
from parley.workers.model.responses import MAX_ERROR_CHARACTERS, ModelError, ServedModel

log = logging.getLogger("parley.workers")

# A model that takes longer than this for one token counts as not answering.
ONE_TOKEN_SECONDS = 30.0
# How long `unready_reason` waits for the checks, which go on after it. Below a Kubernetes probe's timeout.
PATIENCE_SECONDS = 1.0


async def find(client: ModelClient, endpoint: Endpoint, wanted: str | None) -> ServedModel:
    """The listed model named `wanted`; for None the first. Raises ModelError, MODEL_NOT_FOUND without one."""
    models = await client.models(endpoint)
    for model in models:
        if wanted in (None, model.name):
            return model
    listed = ", ".join(model.name for model in models)[:MAX_ERROR_CHARACTERS]
    missing = f"{wanted} is not served there; it serves {listed or 'nothing'}"
    raise ModelError(ErrorType.MODEL_NOT_FOUND, missing if wanted else "no model is served there")


async def generate(
    client: ModelClient,
    endpoint: Endpoint,
    model: str,
    messages: Sequence[Mapping[str, str]] = PROBE_MESSAGES,
    *,
    seconds: float = ONE_TOKEN_SECONDS,
) -> None:
    """Ask for one token. Raises ModelError if the model generates none within `seconds`."""
    request = ChatRequest(model=model, messages=messages, max_tokens=1)
    try:
        await client.complete(endpoint, request, seconds=seconds)
    except ModelError as error:
        # There was a token, but it is not text: a blank, or the start of a model's reasoning.
        if error.error_type is not ErrorType.EMPTY_ANSWER:
            raise


def advice(error: ModelError) -> str:
    """The error's text for an operator. Without the server's own if that refuses the key: it may quote it."""
    if error.error_type is ErrorType.UNAUTHORIZED:
        return f"HTTP {error.status}: it refuses the key, is VLLM_API_KEY right?"
    return str(error)


class ModelReadiness:
    """Checks the endpoints when asked, each in its own task. An async context manager, inside `client`'s.

    `statuses`: how the workers see each endpoint, by label. If no worker calls an endpoint, its list is not
    enough: it must generate a token.
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
        self._statuses = statuses
        # By each endpoint's latest check. None: usable. Missing: no check has ended, or its token is awaited.
        self._results: dict[Endpoint, ModelError | None] = {}
        # Each endpoint's latest check, under way or done.
        self._checks: dict[Endpoint, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        checks = list(self._checks.values())
        for check in checks:
            check.cancel()
        await asyncio.gather(*checks, return_exceptions=True)

    async def unready_reason(self) -> str | None:
        """Why agents cannot be answered, or None. By a check now; for a slow server, by the one before.

        A service is unready without any usable endpoint, or with one at which every call fails for good. An
        endpoint that is only away does no harm while another is usable.
        """
        endpoints = self._endpoints
        for endpoint in endpoints:
            check = self._checks.get(endpoint)
            if check is None or check.done():
                self._checks[endpoint] = asyncio.create_task(self._check(endpoint), name="model-readiness")
        await asyncio.wait(self._checks.values(), timeout=PATIENCE_SECONDS)
        usable = any(self._results.get(endpoint, True) is None for endpoint in endpoints)
        reasons = [self._reason(endpoint) for endpoint in endpoints if not usable or self._final(endpoint)]
        return "; ".join(dict.fromkeys(reasons)) or None

    def _final(self, endpoint: Endpoint) -> bool:
        error = self._results.get(endpoint)
        return error is not None and POLICIES[error.error_type].final

    def _reason(self, endpoint: Endpoint) -> str:
        error = self._results.get(endpoint)
        return f"{endpoint}: {f'no token of {self._model} yet' if error is None else advice(error)}"

    async def _check(self, endpoint: Endpoint) -> None:
        unproven = endpoint not in self._results or self._results[endpoint] is not None
        failed_before = self._results.get(endpoint) is not None
        error: ModelError | None = None
        try:
            await find(self._client, endpoint, self._model)
            if not unproven and self._uncalled(endpoint):
                unproven = True
                del self._results[endpoint]  # not usable until the token comes, which may take long
            if unproven:
                await generate(self._client, endpoint, self._model)
        except ModelError as caught:
            error = caught
        except Exception:
            log.exception("what %s serves is not known through a bug", endpoint)
            return
        self._results[endpoint] = error
        if error is not None and not failed_before:
            log.warning("%s is not usable: %s", endpoint, advice(error))
        elif error is None and unproven:
            log.info("%s generated a token of %s", endpoint, self._model)

    def _uncalled(self, endpoint: Endpoint) -> bool:
        """Whether there are workers, but none has the endpoint's breaker closed."""
        status = self._statuses().get(endpoint.label)
        return status is not None and any(status.workers.values()) and not status.workers[BreakerState.CLOSED]
