"""`parley doctor`: is everything there? Each line is ok, or what to do."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from broker import topology
from broker.connection import check_server, close, connect
from broker.errors import Unavailable
from parley.settings import Settings
from workers.vllm import ChatRequest, Endpoint, ModelError, VllmClient

# A model that needs longer than this for one token is not answering.
ONE_TOKEN_SECONDS = 30.0
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
        yield Finding("NATS", False, "NATS_URL is not set and no `parley up` runs here: set it, or run `parley up`")
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
        return Finding("Ray", True, "RAY_ADDRESS is not set: a local Ray is started with the service", skipped=True)
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
        return Finding("Ray", False, f"nothing listens at {address} ({reason}): is the head up, and is RAY_ADDRESS right?")
    return Finding("Ray", True, f"{address} is listening")


async def _models(settings: Settings) -> AsyncIterator[Finding]:
    if not settings.endpoints:
        yield Finding("model", False, "VLLM_URL is not set: name an OpenAI-compatible server; `parley up` simulates one")
        return
    key = settings.vllm_api_key.get_secret_value() if settings.vllm_api_key else None
    async with VllmClient(api_key=key) as client:
        for url in settings.endpoints:
            yield await _model(client, Endpoint(url), settings.vllm_model)


async def _model(client: VllmClient, endpoint: Endpoint, wanted: str | None) -> Finding:
    """By name in /v1/models, and one token really generated: `/health` can be 200 while workers are dead (vllm#16259)."""
    what = f"model at {endpoint}"
    try:
        names = await client.models(endpoint)
        name = wanted or (names[0] if names else None)
        if name is None or name not in names:
            return Finding(what, False, f"{wanted or 'no model'} is not served there; it serves {', '.join(names) or 'nothing'}")
        probe = ChatRequest(model=name, messages=[{"role": "user", "content": "ok"}], max_tokens=1)
        await client.complete(endpoint, probe, seconds=ONE_TOKEN_SECONDS)
    except ModelError as error:
        return Finding(what, False, f"{error} ({error.error_type.value})")
    return Finding(what, True, f"{name} generated a token")
