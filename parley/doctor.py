"""`parley doctor`: is everything there? Each line is ok, or what to do."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from parley.broker.core.errors import Unavailable
from parley.broker.core.messages import AgentRequested, ErrorType
from parley.broker.core.timestamps import format_timestamp
from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import check_server, close, connect
from parley.settings import Settings
from parley.workers import prompts
from parley.workers.model.client import ModelClient
from parley.workers.model.endpoint import Endpoint
from parley.workers.model.readiness import ONE_TOKEN_SECONDS, advice, find, generate
from parley.workers.model.responses import ModelError, ServedModel

REACH_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Finding:
    """`skipped`: nothing is set up that could be checked."""

    what: str
    ok: bool
    detail: str
    skipped: bool = False


async def examine(settings: Settings) -> AsyncIterator[Finding]:
    async for finding in _nats(settings):
        yield finding
    yield await _ray(settings)
    async for finding in _models(settings):
        yield finding


async def _nats(settings: Settings) -> AsyncIterator[Finding]:
    if settings.nats_url is None:
        yield Finding(
            "NATS", False, "NATS_URL is not set and no `parley up` runs here: set it, or run `parley up`"
        )
        return
    try:
        nc = await connect(settings.nats_url, "parley-doctor")
    except Unavailable as error:
        yield Finding("NATS", False, str(error))
        return
    try:
        yield Finding("NATS", True, f"version {await check_server(nc, settings.nats_url)} with JetStream")
        missing = await topology.provision(
            nc.jetstream(),
            replicas=settings.replicas,
            keep_seconds=settings.keep_seconds,
            ack_wait_seconds=settings.ack_wait_seconds,
            create=False,
        )
        listed = f"missing: {', '.join(missing)}; start a service, it creates them"
        yield Finding("streams", not missing, listed if missing else "as declared")
    except Unavailable as error:
        yield Finding("streams", False, str(error))
    finally:
        await close(nc)


async def _ray(settings: Settings) -> Finding:
    if settings.pool == "local":
        return Finding("Ray", True, "not used (PARLEY_POOL=local)", skipped=True)
    if settings.ray_address is None:
        return Finding(
            "Ray", True, "RAY_ADDRESS is not set: a local Ray is started with the service", skipped=True
        )
    address = settings.ray_address
    if address == "auto":
        return Finding("Ray", True, "`auto`: found by the service at its start", skipped=True)
    default = 10_001 if address.startswith("ray://") else 6_379
    try:
        parts = urlsplit(address if "://" in address else f"ray://{address}")
        async with asyncio.timeout(REACH_SECONDS):
            _, writer = await asyncio.open_connection(parts.hostname or "127.0.0.1", parts.port or default)
        writer.close()
    except (OSError, ValueError) as error:  # ValueError: a port that is no number
        reason = str(error) or type(error).__name__
        return Finding(
            "Ray",
            False,
            f"nothing listens at {address} ({reason}): is the head up, and is RAY_ADDRESS right?",
        )
    return Finding("Ray", True, f"{address} is listening")


async def _models(settings: Settings) -> AsyncIterator[Finding]:
    if not settings.endpoints:
        yield Finding(
            "model", False, "VLLM_URL is not set: name an OpenAI-compatible server; `parley up` simulates one"
        )
        return
    key = settings.vllm_api_key.get_secret_value() if settings.vllm_api_key else None
    async with ModelClient(api_key=key) as client:
        for url in settings.endpoints:
            yield await _model(client, Endpoint(url), settings.vllm_model)


async def _model(client: ModelClient, endpoint: Endpoint, wanted: str | None) -> Finding:
    """By name in /v1/models, and one token really generated, after instructions as long as agents get them."""
    what, model = f"model at {endpoint}", None
    try:
        model = await find(client, endpoint, wanted)
        await generate(client, endpoint, model.name, _instructions(), seconds=ONE_TOKEN_SECONDS)
    except ModelError as error:
        if model is not None and error.error_type is ErrorType.CONTEXT_TOO_LONG:
            return Finding(what, False, _too_short(model))
        return Finding(what, False, f"{advice(error)} ({error.error_type.value})")
    room = (
        ""
        if model.max_model_len is None
        else f", takes prompts and answers of up to {_tokens(model)} together"
    )
    return Finding(what, True, f"{model.name} generated a token{room}")


def _instructions() -> Sequence[Mapping[str, str]]:
    """The longest that Parley itself says to an agent, around next to no task."""
    role, now = max(prompts.ROLES, key=lambda name: len(prompts.ROLES[name])), format_timestamp(time.time())
    request = AgentRequested(
        task_id="doctor",
        agent_id="agent-doctor-001",
        agent_number=1,
        role=role,
        num_agents=2,
        task_description="ping",
        diversity=True,
        requested_at=now,
        deadline=now,
    )
    return prompts.compose(request).messages


def _too_short(model: ServedModel) -> str:
    room = (
        "its context"
        if model.max_model_len is None
        else f"the {_tokens(model)} it takes for prompt and answer together"
    )
    return f"{model.name}: Parley's own instructions do not fit into {room}; serve it with more (vLLM: --max-model-len)"


def _tokens(model: ServedModel) -> str:
    return f"{model.max_model_len:,} tokens"
