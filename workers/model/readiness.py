"""Whether the model servers serve the model: a token of it comes. For readiness and doctor.

vLLM's `/health` can be 200 while its workers are dead (vllm#16259), and so can its list; other servers have no list,
or other names in it. Only a token proves that it works, and it outweighs the list. A token for each check would be
waste: one is asked for at the first check, and again after a server was away or its list has changed. In between the
list is enough.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Self

from parley.broker.core.agent_error_table import POLICIES
from parley.broker.core.messages import ErrorType
from parley.workers.model.breaker import BreakerState
from parley.workers.model.endpoint_address import Endpoint
from parley.workers.model.endpoint_breakers import MAX_PAUSE_SECONDS
from parley.workers.model.model_client import PROBE_MESSAGES, ChatModel, ModelCalls, probe_request
from parley.workers.model.model_error import ModelError
from parley.workers.model.model_list import ServedModel, match, shown
from parley.workers.model.pool_endpoint_status import EndpointStatus

log = logging.getLogger("parley.workers")

# A model that takes longer than this for one token counts as not answering.
ONE_TOKEN_SECONDS = 30.0
# Without these nobody is there to generate a token.
_NOT_THERE = frozenset({ErrorType.CONNECTION_FAILED, ErrorType.CONNECTION_LOST})
# What servers say of a model that they do not have.
_NO_SUCH = frozenset({ErrorType.MODEL_NOT_FOUND, ErrorType.BAD_REQUEST})
# How long `unready_reason` waits for the checks, which go on after it. Below a Kubernetes probe's timeout.
PATIENCE_SECONDS = 1.0


async def find(client: ModelCalls, endpoint: Endpoint) -> ServedModel:
    """The first model that is listed. Raises ModelError, MODEL_NOT_FOUND without one."""
    model, _ = await look_up(client, endpoint, None)
    return model


async def look_up(
    client: ModelCalls, endpoint: Endpoint, wanted: str | None
) -> tuple[ServedModel, ModelError | None]:
    """The model named `wanted`, for None the first, and why the list does not show it; None if it does.

    Raises ModelError if nothing listens there, or if the list should name the model and does not.
    """
    try:
        models = await client.models(endpoint)
    except ModelError as error:
        if wanted is None or error.error_type in _NOT_THERE:
            raise
        return ServedModel(wanted), error
    model = match(models, wanted)
    if model is not None:
        return model, None
    if wanted is None:
        none = f"it lists only {shown(models)}" if models else "no model is served there"
        raise ModelError(ErrorType.MODEL_NOT_FOUND, none)
    missing = f"{wanted} is not served there; it serves {shown(models)}"
    return ServedModel(wanted), ModelError(ErrorType.MODEL_NOT_FOUND, missing)


async def generate(
    client: ChatModel,
    endpoint: Endpoint,
    model: str,
    unlisted: ModelError | None = None,
    messages: Sequence[Mapping[str, str]] = PROBE_MESSAGES,
    *,
    seconds: float = ONE_TOKEN_SECONDS,
) -> None:
    """Ask for one token. Raises ModelError if the model generates none within `seconds`.

    `unlisted`: why the list does not show the model. A token outweighs it; a refusal is told in its words.
    """
    try:
        await client.complete(endpoint, probe_request(model, messages), seconds=seconds)
    except ModelError as error:
        # There was a token, but it is no answer: a blank, the start of a model's reasoning or of a call of a tool.
        if error.error_type in (ErrorType.EMPTY_ANSWER, ErrorType.TOOL_CALL):
            return
        if unlisted is not None and names_others(unlisted) and error.error_type in _NO_SUCH:
            raise unlisted from error
        raise


def names_others(unlisted: ModelError) -> bool:
    """Whether the list was read, and names other models. A 404 has a status."""
    return unlisted.error_type is ErrorType.MODEL_NOT_FOUND and unlisted.status is None


class ModelReadiness:
    """Checks the endpoints when asked, each in its own task. An async context manager, inside `client`'s.

    `statuses`: how the workers see each endpoint, by label. If no worker calls an endpoint, its list is not
    enough: it must generate a token.
    """

    def __init__(
        self,
        client: ModelCalls,
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
        # What each endpoint's list said when its token came: nothing is wrong with it, or what is.
        self._lists: dict[Endpoint, ErrorType | None] = {}
        # When each endpoint that asked for a pause may be checked again, by the loop's clock.
        self._paused_until: dict[Endpoint, float] = {}
        # Each endpoint's latest check, under way or done.
        self._checks: dict[Endpoint, asyncio.Task[None]] = {}

    def know(self, other: "ModelReadiness", endpoints: Collection[Endpoint]) -> None:
        """Take over what another has found of these endpoints, which it asked as this one does."""
        for endpoint in endpoints:
            if endpoint in other._results:
                self._results[endpoint] = other._results[endpoint]
            if endpoint in other._lists:
                self._lists[endpoint] = other._lists[endpoint]

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
            if (check is None or check.done()) and not self._is_paused(endpoint):
                self._checks[endpoint] = asyncio.create_task(self._check(endpoint), name="model-readiness")
        await asyncio.wait(self._checks.values(), timeout=PATIENCE_SECONDS)
        usable = any(self._results.get(endpoint, True) is None for endpoint in endpoints)
        reasons = [self._reason(endpoint) for endpoint in endpoints if not usable or self._unfit(endpoint)]
        return "; ".join(dict.fromkeys(reasons)) or None

    def _is_paused(self, endpoint: Endpoint) -> bool:
        return asyncio.get_running_loop().time() < self._paused_until.get(endpoint, 0.0)

    def _unfit(self, endpoint: Endpoint) -> bool:
        """Whether every call to it would fail alike. One that has other models is for panels that name these."""
        error = self._results.get(endpoint)
        return error is not None and POLICIES[error.error_type].final and not names_others(error)

    def _reason(self, endpoint: Endpoint) -> str:
        error = self._results.get(endpoint)
        return f"{endpoint}: {f'no token of {self._model} yet' if error is None else error}"

    async def _check(self, endpoint: Endpoint) -> None:
        unproven = endpoint not in self._results or self._results[endpoint] is not None
        failed_before = self._results.get(endpoint) is not None
        error: ModelError | None = None
        try:
            _, unlisted = await look_up(self._client, endpoint, self._model)
            listed = None if unlisted is None else unlisted.error_type
            if not unproven and (self._uncalled(endpoint) or listed is not self._lists[endpoint]):
                unproven = True
                del self._results[endpoint]  # not usable until the token comes, which may take long
            if unproven:
                await generate(self._client, endpoint, self._model, unlisted)
                self._lists[endpoint] = listed
        except ModelError as caught:
            error = caught
            if caught.retry_after:
                seconds = min(caught.retry_after, MAX_PAUSE_SECONDS)
                self._paused_until[endpoint] = asyncio.get_running_loop().time() + seconds
        except Exception:
            log.exception("what %s serves is not known through a bug", endpoint)
            return
        self._results[endpoint] = error
        if error is not None and not failed_before:
            log.warning("%s is not usable: %s", endpoint, error)
        elif error is None and unproven:
            log.info("%s generated a token of %s", endpoint, self._model)

    def _uncalled(self, endpoint: Endpoint) -> bool:
        """Whether there are workers, but none has the endpoint's breaker closed."""
        status = self._statuses().get(endpoint.label)
        return status is not None and any(status.workers.values()) and not status.workers[BreakerState.CLOSED]
