"""`parley doctor`: one finding for NATS, its streams, each process of the service, and what the settings here name.

The processes answer for themselves (`deliberation.service`). Ray and the model servers are looked at from here only
where the settings here name them.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from parley.broker.core.errors import RightMissing, Unavailable
from parley.broker.core.messages import ErrorType, ServiceProcess
from parley.broker.core.reply_subjects import SERVICE_INBOX
from parley.broker.jetstream.connection import check_server, close, connect
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.nats_client import NatsClient
from parley.broker.jetstream.provision import Extent, provision
from parley.broker.jetstream.store_probe import StoreProbe
from parley.client import connect_with as connect_client
from parley.handlers.routes import Part
from parley.settings import Settings
from parley.workers import prompts
from parley.workers.model.endpoint_address import Endpoint
from parley.workers.model.model_client import ModelCalls
from parley.workers.model.model_error import ModelError
from parley.workers.model.model_list import ServedModel
from parley.workers.model.model_server import ModelServer
from parley.workers.model.model_servers import ModelServers
from parley.workers.model.readiness import ONE_TOKEN_SECONDS, generate, look_up, names_others
from parley.workers.model.server_access import VLLM_NAMES
from parley.workers.pool.ray_errors import RayUnavailable
from parley.workers.pool.ray_reachability import check_form, check_head, is_local

# A server with such a list may serve a model all the same.
_LIST_IS_NO_USE = frozenset(
    {ErrorType.MODEL_NOT_FOUND, ErrorType.MALFORMED_ANSWER, ErrorType.SERVER_ERROR, ErrorType.BAD_REQUEST}
)


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    ok: bool
    detail: str
    skipped: bool = False  # there is nothing to check
    has_others: bool = False  # a model server without the model that was asked for


async def examine(settings: Settings) -> AsyncIterator[Finding]:
    """Check what `settings` name, in the order in which a service needs it."""
    async for finding in _nats(settings):
        yield finding
    if settings.ray_address is not None:
        yield await _ray(settings)
    async for finding in _models(settings):
        yield finding


async def _nats(settings: Settings) -> AsyncIterator[Finding]:
    if settings.nats_url is None:
        unset = "NATS_URL is not set and no `parley up` runs here: set it, or run `parley up`"
        yield Finding("NATS", False, unset)
        return
    try:
        nc = await connect(settings.nats_url, "parley-doctor", SERVICE_INBOX, settings.nats_access)
    except Unavailable as error:
        yield Finding("NATS", False, str(error))
        return
    try:
        server = await _server(nc, settings.nats_url)
        yield server
        # A question of a client's: it is answered at clients' inboxes only.
        async with connect_client(settings.nats_url, settings.nats_access) as client:
            processes = await client.processes()
        for finding in serving(processes):
            yield finding
        if server.skipped:
            return
        jetstream = JetStream(nc)
        # A process looks at the streams by its own settings, which may differ from those here.
        missing = [] if processes else await provision(jetstream.js, settings.wanted, extent=Extent.LOOK)
        if not processes:
            listed = f"missing: {', '.join(missing)}; start a service, it creates them"
            yield Finding("streams", not missing, listed if missing else "as declared")
        if not missing:
            refusal = await StoreProbe(jetstream).probe()
            yield Finding("store", refusal is None, refusal or "stores what is published")
    except Unavailable as error:
        yield Finding("streams", False, str(error))
    finally:
        await close(nc)


async def _server(nc: NatsClient, url: str) -> Finding:
    """Raises Unavailable. A client's user may not look at JetStream: the processes of the service do, each for itself."""
    try:
        version, clock = await check_server(nc, url), JetStream(nc).clock
    except RightMissing as error:
        return Finding("NATS", True, f"connected; not looked at more closely: {error}", skipped=True)
    await clock.measure()
    note = f"; {clock.note}" if clock.note else ""
    return Finding("NATS", True, f"version {version} with JetStream{note}")


def serving(processes: Sequence[ServiceProcess]) -> Iterator[Finding]:
    """A finding for each part of the service that no process serves, and for each process that runs."""
    if not processes:
        remedy = "start one with `parley up` or `parley serve`"
        yield Finding("service", False, f"no process of the service answers; {remedy}")
        return
    served = {part for process in processes for part in process.parts}
    for part in Part:
        if part not in served:
            remedy = f"start one: `parley serve --parts {part}`"
            yield Finding(f"part {part}", False, f"no process serves it; {remedy}")
    versions = sorted({process.version for process in processes})
    if len(versions) > 1:
        mixed = f"several run: {', '.join(versions)}; they work side by side, end the rollout when you can"
        yield Finding("version", True, mixed)
    for process in processes:
        yield Finding(f"process {process.process}", not process.problems, _description(process))


def _description(process: ServiceProcess) -> str:
    words = [f"{','.join(process.parts)}, version {process.version}, since {process.started_at}"]
    if process.slots or process.model:
        model = f"{process.model} at {' '.join(process.endpoints)}"
        words.append(f"{process.busy} of {process.slots} agents at work, asking {model}")
    words.extend(f"{name}: {note}" for name, note in process.notes.items())
    words.extend(f"{name}: {problem}" for name, problem in process.problems.items())
    return "; ".join(words)


async def _ray(settings: Settings) -> Finding:
    """Whether the cluster that the settings here name can be reached."""
    if settings.pool == "local":
        return Finding("Ray", True, "not used (PARLEY_POOL=local)", skipped=True)
    address = settings.ray_address
    if address is None or is_local(address):
        return Finding("Ray", True, "a local Ray is started with the service", skipped=True)
    try:
        check_form(address)
        if address == "auto":
            return Finding("Ray", True, "`auto`: found by the service at its start", skipped=True)
        await check_head(address)
    except RayUnavailable as error:
        return Finding("Ray", False, str(error))
    return Finding("Ray", True, f"{address} answers as a Ray head does")


async def _models(settings: Settings) -> AsyncIterator[Finding]:
    if not settings.has_servers:
        return
    servers = settings.servers
    async with ModelServers(servers, stream=settings.vllm_stream) as client:
        found = await asyncio.gather(
            *(_model(client, each.endpoint, settings.vllm_model) for each in servers)
        )
        served = any(finding.ok for finding in found)
        for server, finding in zip(servers, found, strict=True):
            # A server may be there for its own models alone, which panels name.
            for_panels = served and finding.has_others
            own = await _for_panels(client, server.endpoint, finding) if for_panels else finding
            yield replace(own, detail="; ".join((own.detail, *_special(server))))


def _special(server: ModelServer) -> Iterator[str]:
    """What the file of PARLEY_ENDPOINTS says of it alone."""
    if server.access.names is not VLLM_NAMES:
        yield server.access.names.url
    if server.models is not None:
        yield f"asked for {', '.join(server.models)}"
    if server.concurrency is not None:
        yield f"{server.concurrency:,} calls at once, of all workers together"
    if server.tokens_per_minute is not None:
        yield f"{server.tokens_per_minute:,} tokens a minute, of all workers together"
    if server.weight != 1.0:
        yield f"weight {server.weight:g}"


async def _model(client: ModelCalls, endpoint: Endpoint, wanted: str | None) -> Finding:
    """Have the model generate one token, after instructions as long as an agent's. The list of models is a hint."""
    what, model = f"model at {endpoint}", None
    try:
        model, unlisted = await look_up(client, endpoint, wanted)
        await generate(client, endpoint, model.name, unlisted, _instructions(), seconds=ONE_TOKEN_SECONDS)
    except ModelError as error:
        if model is not None and error.error_type is ErrorType.CONTEXT_TOO_LONG:
            return Finding(what, False, _too_short(model))
        remedy = "; set VLLM_MODEL to go without its list" if model is None and wanted is None else ""
        remedy = remedy if error.error_type in _LIST_IS_NO_USE else ""
        has_others = wanted is not None and names_others(error)
        return Finding(what, False, f"{error}{remedy} ({error.error_type.value})", has_others=has_others)
    limit = ""
    if model.max_model_len is not None:
        limit = f", takes prompts and answers of up to {_tokens(model)} together"
    # Without a status the list names other models, perhaps hundreds.
    why = "" if unlisted is None or unlisted.status is None else f" ({unlisted})"
    note = "" if unlisted is None else f"; its list does not show it{why}"
    return Finding(what, True, f"{model.name} generated a token{limit}{note}")


async def _for_panels(client: ModelCalls, endpoint: Endpoint, finding: Finding) -> Finding:
    """A server without the model that has others, while another server has it."""
    own = await _model(client, endpoint, None)
    detail = (
        f"{finding.detail}. {own.detail}: for requests that name its models" if own.ok else finding.detail
    )
    return Finding(finding.what, own.ok, detail)


def _instructions() -> Sequence[Mapping[str, str]]:
    """The messages of an agent with Parley's longest instructions and a task of one word."""
    role = max(prompts.ROLES, key=lambda name: len(prompts.ROLES[name]))
    return prompts.preview("ping", role, agents=2, diversity=True)


def _too_short(model: ServedModel) -> str:
    limit = "its context"
    if model.max_model_len is not None:
        limit = f"the {_tokens(model)} it takes for prompt and answer together"
    remedy = "serve it with more (vLLM: --max-model-len)"
    return f"{model.name}: Parley's own instructions do not fit into {limit}; {remedy}"


def _tokens(model: ServedModel) -> str:
    return f"{model.max_model_len:,} tokens"
