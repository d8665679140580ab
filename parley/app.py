"""The composition root: the one place where everything is wired together.

`service` runs the parts of one process between two lines of an `async with`. `embedded` starts what a single machine lacks: its
own nats-server, a simulated model server. Whoever opens something closes it, in the opposite order, however the block ends.
"""

import asyncio
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import nats.errors
from faststream.nats import NatsBroker

from parley.broker.core.errors import SettingsError, Unavailable
from parley.broker.core.observer import Observer
from parley.broker.host import child
from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import check_server, close, connect, connect_options
from parley.broker.jetstream.embedded import embedded_nats
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.nats_client import NatsClient
from parley.broker.jetstream.tally_store import TallyStore
from parley.handlers.aggregate import Aggregate
from parley.handlers.cancel import Cancel
from parley.handlers.dispatch import Dispatch
from parley.handlers.effects import EffectRunner
from parley.handlers.expire import Expire
from parley.handlers.intake import Bounds, Intake
from parley.handlers.pull import Room, ServiceBroker, flows
from parley.handlers.query import Query
from parley.handlers.recover import Recover
from parley.handlers.routes import Handlers, Part, declare
from parley.handlers.settle import Settler
from parley.monitoring import asyncapi, http
from parley.monitoring.health import Check
from parley.monitoring.metrics import Metrics
from parley.settings import Settings
from parley.workers.model.client import ModelClient
from parley.workers.model.endpoint import Endpoint
from parley.workers.model.readiness import ModelReadiness, find
from parley.workers.model.responses import ModelError
from parley.workers.pool.local_pool import LocalPool
from parley.workers.pool.pool import Pool

log = logging.getLogger("parley")

ALL_PARTS = frozenset(Part)
VERSION = version("parley-queue")


@dataclass(frozen=True, slots=True)
class Service:
    """A running service. `http_url`: where /metrics, /readyz and /docs are."""

    nats_url: str
    http_url: str
    metrics: Metrics
    pool: Pool | None
    wire: JetStream

    @property
    def disabled(self) -> str | None:
        """Why it cannot work any more in this process; None while it can. A supervisor starts another."""
        if self.wire.closed:
            return "NATS closed the connection for good (were credentials changed?)"
        return self.pool.fatal_reason if self.pool is not None else None


@asynccontextmanager
async def service(settings: Settings, parts: Collection[Part] = ALL_PARTS) -> AsyncIterator[Service]:
    """Run `parts` until the block ends. Raises Unavailable or SettingsError before anything is taken from a queue."""
    if settings.nats_url is None:
        raise SettingsError(
            [
                "NATS_URL: not set; `parley serve` connects to a NATS that runs already (`parley up` starts one)"
            ]
        )
    if Part.DISPATCH in parts and not settings.endpoints:
        raise SettingsError(
            ["VLLM_URL: not set; name an OpenAI-compatible server (`parley up` simulates one)"]
        )
    nats_url = settings.nats_url
    async with AsyncExitStack() as stack:
        await _prepare(settings, nats_url)
        model = await _model(settings) if Part.DISPATCH in parts else settings.vllm_model or ""
        pool = (
            await stack.enter_async_context(_pool(settings, nats_url, model))
            if Part.DISPATCH in parts
            else None
        )
        broker = _broker(settings, nats_url)
        nc = await broker.connect()
        assert isinstance(nc, NatsClient), "ServiceBroker makes one"
        wire = JetStream(nc)
        stack.push_async_callback(_leave, broker, wire)
        metrics = Metrics(model)
        handlers, recover = _handlers(settings, wire, parts, pool, metrics)
        room, slots = (_room(pool), pool.slots) if pool is not None else (None, 1)
        declare(broker, handlers, room=room, job_limit=max(1, slots))
        for subscriber in flows(broker):
            metrics.watch_consumer(subscriber.durable.name, subscriber.held, subscriber.budget.limit)
        if pool is not None:
            metrics.watch_pool(lambda: pool.slots, lambda: pool.busy)
            metrics.watch_breakers(lambda: pool.endpoint_statuses)
        discovery = (
            await stack.enter_async_context(_discovery(settings, model, pool)) if pool is not None else None
        )
        url = await stack.enter_async_context(_door(settings, wire, metrics, pool, discovery))
        await broker.start()
        if Part.AGGREGATE in parts:
            stack.callback(asyncio.create_task(recover.run(), name="recovery").cancel)
        yield Service(nats_url, url, metrics, pool, wire)


async def _prepare(settings: Settings, nats_url: str) -> None:
    """Check the server and make the streams so, on a connection of its own. Raises Unavailable."""
    nc = await connect(nats_url, "parley-provision")
    try:
        await check_server(nc, nats_url)
        made = await topology.provision(
            nc.jetstream(),
            replicas=settings.replicas,
            keep_seconds=settings.keep_seconds,
            ack_wait_seconds=settings.ack_wait_seconds,
        )
    finally:
        await close(nc)
    if made:
        log.info("created %s", ", ".join(made))


async def _model(settings: Settings) -> str:
    """The model to ask for: the configured one, or the first that the first server lists."""
    if settings.vllm_model is not None:
        return settings.vllm_model
    key = settings.vllm_api_key.get_secret_value() if settings.vllm_api_key else None
    first = Endpoint(settings.endpoints[0])
    async with ModelClient(api_key=key) as client:
        try:
            return (await find(client, first, None)).name
        except ModelError as error:
            raise Unavailable(
                f"cannot ask {first} for its models: {error}. Set VLLM_MODEL to start without it."
            ) from error


@asynccontextmanager
async def _discovery(settings: Settings, model: str, pool: Pool) -> AsyncIterator[ModelReadiness]:
    """Asks as the workers do: with their key and limits, and streamed where they stream."""
    config = settings.worker_config("", model)
    endpoints = [Endpoint(url) for url in config.endpoints]
    async with (
        ModelClient(
            api_key=config.api_key,
            timeouts=config.timeouts,
            stream=config.stream,
            connections=2 * len(endpoints),
        ) as client,
        ModelReadiness(client, endpoints, model, lambda: pool.endpoint_statuses) as discovery,
    ):
        yield discovery


@asynccontextmanager
async def _pool(settings: Settings, nats_url: str, model: str) -> AsyncIterator[Pool]:
    config = settings.worker_config(nats_url, model)
    if settings.pool == "local":
        async with LocalPool(config) as local:
            yield local
        return
    from parley.workers.pool.ray_pool import (
        RayPool,  # ray costs 60 MiB and half a second: only who runs it pays
    )

    name = f"{socket.gethostname()}-{os.getpid()}"
    async with RayPool(
        config,
        name=name,
        actors=settings.pool_actors,
        address=settings.ray_address,
        actor_cpus=settings.ray_actor_cpus,
    ) as cluster:
        yield cluster


def _room(pool: Pool) -> Room:
    async def room(wait: bool) -> int:
        return await pool.wait_free_slots() if wait else pool.free_slots()

    return room


def _broker(settings: Settings, nats_url: str) -> NatsBroker:
    # apply_types=False: a handler takes deliveries and decodes them itself; FastStream's injection would cost a thread-pool
    # hop a message. logger=None: payloads must not reach logs, and FastStream's logs hold them.
    return ServiceBroker(
        **connect_options(nats_url, "parley-service"),
        apply_types=False,
        logger=None,
        graceful_timeout=settings.drain_seconds or None,
    )


async def _leave(broker: NatsBroker, wire: JetStream) -> None:
    """Drain and close. While NATS is away there is nothing to drain: what was in hand is redelivered after `ack_wait`."""
    try:
        await broker.stop()
    except nats.errors.Error as error:
        log.warning("left without NATS: %s", error)
        await close(wire.nc)


def _handlers(
    settings: Settings, wire: JetStream, parts: Collection[Part], pool: Pool | None, observer: Observer
) -> tuple[Handlers, Recover]:
    ledger = TallyStore(wire, keep_seconds=settings.keep_seconds)
    performer = EffectRunner(
        wire, ledger, observer, claim_check_bytes=min(settings.claim_check_bytes, wire.max_payload // 2)
    )

    def settler(durable: topology.Durable) -> Settler:
        if durable is topology.EXPIRY:
            # A deadline put aside would leave a deliberation without an end: it is tried for as long as it takes.
            return Settler(wire, durable, observer, deliveries=None)
        return Settler(wire, durable, observer)

    bounds = Bounds(settings.max_agents, settings.timeout_seconds, settings.allowed_reply_prefixes)
    ends = Part.AGGREGATE in parts
    handlers = Handlers(
        intake=Intake(performer, settler(topology.INTAKE), observer, bounds)
        if Part.INTAKE in parts
        else None,
        dispatch=Dispatch(wire, ledger, pool, settler(topology.DISPATCH)) if pool is not None else None,
        aggregate=Aggregate(wire, performer, settler(topology.AGGREGATE), observer) if ends else None,
        expire=Expire(performer, settler(topology.EXPIRY)) if ends else None,
        cancel=Cancel(wire, performer, settler(topology.CANCELLER)) if ends else None,
        query=Query(wire, ledger) if Part.QUERY in parts else None,
    )
    return handlers, Recover(wire, performer)


@asynccontextmanager
async def _door(
    settings: Settings, wire: JetStream, metrics: Metrics, pool: Pool | None, discovery: ModelReadiness | None
) -> AsyncIterator[str]:
    async def connected() -> str | None:
        return None if wire.connected else "not connected"

    async def streams() -> str | None:
        if not wire.connected:
            return "cannot be asked for"
        missing = await topology.provision(
            wire.js,
            replicas=settings.replicas,
            keep_seconds=settings.keep_seconds,
            ack_wait_seconds=settings.ack_wait_seconds,
            create=False,
        )
        return f"missing: {', '.join(missing)}" if missing else None

    def alive() -> bool:
        return not wire.closed and (pool is None or pool.fatal_reason is None)

    async def slots() -> str | None:
        return pool.unready_reason if pool is not None else None

    async def refresh() -> None:
        if not wire.connected:
            # Better no figure than an old one.
            metrics.backlog.clear()
            metrics.in_hand.clear()
        else:
            await asyncio.gather(*(_backlog(wire, metrics, durable) for durable in topology.DURABLES))

    checks: dict[str, Check] = {"nats": connected, "streams": streams, "pool": slots}
    if discovery is not None:
        checks["models"] = discovery.unready_reason
    app = http.application(metrics, checks, documented(), refresh, alive)
    async with AsyncExitStack() as stack:
        try:  # around the opening only: an OSError or TimeoutError of the service's own has nothing to do with this port
            url = await stack.enter_async_context(http.serving(app, settings.http_host, settings.http_port))
        except OSError as error:
            where = f"{settings.http_host}:{settings.http_port}"
            raise SettingsError(
                [f"PARLEY_HTTP_PORT: cannot listen on {where} ({error.strerror}); 0 takes a free port"]
            ) from error
        yield url


async def _backlog(wire: JetStream, metrics: Metrics, durable: topology.Durable) -> None:
    try:
        info = await wire.js.consumer_info(durable.stream, durable.name, timeout=1.0)
    except Exception as error:  # a scrape must not fail because NATS is slow; readiness tells of that
        log.debug("backlog of %s unknown: %s", durable.name, error)
        return
    metrics.backlog.labels(durable.name).set(info.num_pending or 0)
    metrics.in_hand.labels(durable.name).set(info.num_ack_pending or 0)


def documented() -> dict[str, object]:
    """The AsyncAPI document of the whole service, whatever runs here. Opens no connection."""
    broker = NatsBroker(apply_types=False, logger=None)
    nobody = object()
    handlers = Handlers(nobody, nobody, nobody, nobody, nobody, nobody)  # type: ignore[arg-type]  # declared, never called
    declare(broker, handlers)
    return asyncapi.document(broker, VERSION)


# ── what one machine may lack ─────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def embedded(
    settings: Settings, folder: Path, *, simulated: Sequence[str] = ()
) -> AsyncIterator[Settings]:
    """The settings with whatever was missing started and filled in: a nats-server in `folder`, a simulated model server
    with the arguments `simulated`."""
    async with AsyncExitStack() as stack:
        found: dict[str, object] = {}
        if settings.nats_url is None:
            server = await stack.enter_async_context(embedded_nats(folder, port=_free(4222)))
            found["nats_url"] = server.url
        if settings.vllm_url is None:
            found["vllm_url"] = await stack.enter_async_context(simulator(*simulated))
        yield settings.model_copy(update=found)


@asynccontextmanager
async def simulator(*arguments: str) -> AsyncIterator[str]:
    """A simulated model server in a process of its own, on a free port of loopback. Yields its URL."""

    async def printed(process: asyncio.subprocess.Process) -> str:
        assert process.stdout is not None
        line = await process.stdout.readline()
        if not line:
            raise Unavailable("the simulated model server did not start")
        return line.decode().strip()

    # -P: the child finds modules in the installation only, not in the working directory.
    command = (sys.executable, "-P", "-m", "parley.workers.simulator", "--port", "0", *arguments)
    async with child(command, printed, stdout=asyncio.subprocess.PIPE, stderr=None) as (_, url):
        yield url


def _free(port: int) -> int:
    """`port` if nobody has it, else -1 (any)."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return -1
        return port
