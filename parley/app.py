"""The composition root: the one place where everything is wired together.

`service` runs the parts of one process for as long as an `async with` block lasts. Everything opened is closed in the
opposite order, however the block ends.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

from faststream.nats import NatsBroker

from parley.asked_servers import AskedServers
from parley.broker.asyncio_helpers import BackgroundLoop
from parley.broker.core.errors import BrokerUnavailable, SettingsError, Unavailable
from parley.broker.core.observer import Observer
from parley.broker.core.reply_subjects import SERVICE_INBOX
from parley.broker.core.timestamps import format_timestamp
from parley.broker.core.url_masking import masked
from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import check_server, close, connect, connect_options
from parley.broker.jetstream.crash_suspects import Suspects
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.outcomes_stream_room import FullStreams
from parley.broker.jetstream.provision import provision
from parley.broker.jetstream.store_probe import StoreProbe
from parley.broker.jetstream.tally_store import TallyStore
from parley.handlers.aggregate import Aggregate
from parley.handlers.cancel import Cancel
from parley.handlers.deadline_rearm import DeadlineRecovery
from parley.handlers.dispatch import Dispatch
from parley.handlers.effects import EffectRunner
from parley.handlers.ending_publisher import EndingPublisher
from parley.handlers.expire import Expire
from parley.handlers.faststream_private import ServiceBroker
from parley.handlers.intake import Bounds, Intake
from parley.handlers.intake_backpressure import Admission
from parley.handlers.lost_tally_ending import LostTally
from parley.handlers.old_consumers import OldConsumers, old_puller
from parley.handlers.overdue_deadlines import DeadlineWatch
from parley.handlers.pull import PullSubscriber
from parley.handlers.query import Query
from parley.handlers.query_responder import Answers
from parley.handlers.routes import Handlers, Part, declare
from parley.handlers.service_connection import disconnect, open_connection, start
from parley.handlers.service_responder import ServiceResponder
from parley.handlers.settle import Runner, Settler
from parley.handlers.stream_trimmer import Trimmer
from parley.monitoring.metrics import Metrics
from parley.operator_http import VERSION, check_port, operator_port
from parley.process_report import ProcessReport, process_name
from parley.readiness_checks import readiness_checks
from parley.rights_check import RightsCheck
from parley.settings import Settings
from parley.stream_keeper import OnLook, StreamKeeper
from parley.workers.model.model_error import ModelError
from parley.workers.model.model_servers import ModelServers
from parley.workers.model.readiness import find
from parley.workers.pool import ray_reachability
from parley.workers.pool.local_pool import LocalPool
from parley.workers.pool.pool import Pool

log = logging.getLogger("parley")

ALL_PARTS = frozenset(Part)
# For the server to say its time at the start.
CLOCK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Service:
    """A running service. `http_url`: where /metrics, /readyz and /docs are."""

    nats_url: str
    http_url: str
    metrics: Metrics
    pool: Pool | None
    wire: JetStream
    keeper: StreamKeeper
    asked: AskedServers | None

    async def read_endpoints_again(self) -> None:
        """Ask the model servers that the file of PARLEY_ENDPOINTS names now. Raises nothing."""
        if self.asked is not None:
            await self.asked.read_again(self.keeper.want_limits)

    @property
    def disabled(self) -> str | None:
        """Why this process can no longer work, or None. A supervisor then starts another process."""
        return self.keeper.fatal_reason or (self.pool.fatal_reason if self.pool is not None else None)


@asynccontextmanager
async def service(
    settings: Settings, parts: Collection[Part] = ALL_PARTS, *, say: Callable[[str], None] = log.debug
) -> AsyncIterator[Service]:
    """Run `parts` until the block ends. `say` hears of each step of the start.

    Raises Unavailable or SettingsError before anything is taken from a queue.
    """
    dispatches = Part.DISPATCH in parts
    nats_url = _checked(settings, dispatches)
    async with AsyncExitStack() as stack:
        opened = stack.enter_async_context
        say(f"NATS at {masked(nats_url)}: looking at its streams")
        await _prepare(settings, nats_url)
        model = await _model(settings) if dispatches else settings.vllm_model or ""
        if dispatches:
            say(f"model {model}; starting {_agents(settings)}")
        pool = await opened(_pool(settings, nats_url, model)) if dispatches else None
        say("agents are ready; connecting the service" if dispatches else "connecting the service")
        broker = _broker(settings, nats_url)
        jetstream = await open_connection(broker, nats_url)
        nc = jetstream.nc
        stack.push_async_callback(disconnect, broker, nc)
        await _wait_measured(jetstream, nats_url)
        stack.callback(BackgroundLoop(jetstream.clock.run, "the clock").cancel)
        metrics = Metrics(model)
        _watch_nats(metrics, jetstream)
        handlers, recover, old, looks = _handlers(settings, jetstream, parts, pool, metrics)
        asked = await opened(AskedServers(settings, model, pool)) if pool is not None else None
        probe = StoreProbe(jetstream) if {Part.INTAKE, Part.AGGREGATE} & set(parts) else None
        rights = RightsCheck(
            settings, jetstream, frozenset(parts), lambda: asked is not None and asked.limited
        )
        full = FullStreams()
        checks = readiness_checks(
            settings, jetstream, pool=pool, models=asked, rights=rights,
            refusal=lambda: (probe and probe.refusal) or full.problem,
        )  # fmt: skip
        report = ProcessReport(
            parts=parts,
            version=VERSION,
            started_at=format_timestamp(jetstream.clock.now()),
            model=model,
            asked=asked,
            pool=pool,
            checks=checks,
            notes=jetstream.clock.notes,
        )
        describe = ServiceResponder(jetstream, report, prefixes=settings.allowed_reply_prefixes)
        handlers = replace(handlers, describe=describe)
        slots = max(1, pool.slots) if pool is not None else 1
        for subscriber in declare(broker, handlers, pool=pool, slots=slots):
            metrics.watch_consumer(subscriber.durable.name, subscriber.held, subscriber.window.limit)
        if pool is not None:
            metrics.watch_pool(lambda: pool.slots, lambda: pool.busy)
            metrics.watch_breakers(lambda: pool.endpoint_statuses)
        on_loss = recover.sweep if Part.AGGREGATE in parts else None
        keeper = StreamKeeper(jetstream, settings.wanted, on_loss=on_loss, on_look=[full.on_look, *looks])
        url = await opened(operator_port(settings, jetstream, metrics, pool, checks, keeper))
        await start(broker, nc, nats_url)
        stack.enter_context(rights.watching())
        stack.callback(BackgroundLoop(keeper.run, "the keeper of the streams").cancel)
        if old:
            left = OldConsumers(jetstream, old)
            stack.push_async_callback(left.stop, settings.drain_seconds)
            stack.callback(BackgroundLoop(left.run, "taking in what 0.1.0 left").cancel)
        if probe is not None:
            stack.callback(BackgroundLoop(probe.run, "the store's probe").cancel)
            stack.callback(BackgroundLoop(recover.watch.run, "the watch over deadlines").cancel)
        if Part.AGGREGATE in parts:
            stack.callback(BackgroundLoop(recover.run, "recovery").cancel)
        yield Service(nats_url, url, metrics, pool, jetstream, keeper, asked)


def _checked(settings: Settings, dispatches: bool) -> str:
    """The URL of NATS. Raises SettingsError or Unavailable for what cannot go well, before anything is started."""
    if settings.nats_url is None:
        how = "`parley serve` connects to a NATS that runs already (`parley up` starts one)"
        raise SettingsError([f"NATS_URL: not set; {how}"])
    if dispatches and not settings.has_servers:
        how = "name an OpenAI-compatible server, or a file of them with PARLEY_ENDPOINTS (`parley up` simulates one)"
        raise SettingsError([f"VLLM_URL: not set; {how}"])
    if dispatches and settings.pool == "ray" and settings.ray_address is not None:
        ray_reachability.check_form(settings.ray_address)
    check_port(settings)
    return settings.nats_url


def _watch_nats(metrics: Metrics, jetstream: JetStream) -> None:
    nc = jetstream.nc
    metrics.watch_clock(lambda: jetstream.clock.offset)
    metrics.watch_nats(lambda: jetstream.connected, lambda: nc.losses)
    metrics.watch_forgeries(lambda: nc.forgeries.counts)


async def _wait_measured(jetstream: JetStream, nats_url: str) -> None:
    """Know the server's time before anything is pulled. Raises BrokerUnavailable."""
    try:
        async with asyncio.timeout(CLOCK_SECONDS):
            await jetstream.clock.wait_measured()
    except TimeoutError:
        raise BrokerUnavailable(masked(nats_url), "it does not say what time it is") from None


async def _prepare(settings: Settings, nats_url: str) -> None:
    """Check the server and provision the streams, on a connection of its own. Raises Unavailable."""
    nc = await connect(nats_url, "parley-provision", SERVICE_INBOX, settings.nats_access)
    try:
        await check_server(nc, nats_url)
        made = await provision(nc.jetstream(), settings.wanted)
    finally:
        await close(nc)
    if made:
        log.info("streams: %s", ", ".join(made))


async def _model(settings: Settings) -> str:
    """The name of the model: the configured one, or the first that the first server has."""
    if settings.vllm_model is not None:
        return settings.vllm_model
    server = settings.servers[0]
    first = server.endpoint
    async with ModelServers([server]) as client:
        try:
            return (await find(client, first)).name
        except ModelError as error:
            failed = f"cannot ask {first} for its models: {error}"
            raise Unavailable(f"{failed}. Set VLLM_MODEL to start without it.") from error


def _agents(settings: Settings) -> str:
    """Where the agents run, in words."""
    if settings.pool == "local":
        return "agents in this process"
    where = (
        f"Ray at {settings.ray_address}" if settings.ray_address else "a Ray on this machine (some seconds)"
    )
    return f"{settings.pool_actors} Ray actors: {where}"


@asynccontextmanager
async def _pool(settings: Settings, nats_url: str, model: str) -> AsyncIterator[Pool]:
    config = settings.worker_config(nats_url, model)
    if settings.pool == "local":
        async with LocalPool(config) as local:
            yield local
        return
    # Ray costs 60 MiB and half a second: only a process that runs it imports it.
    from parley.workers.pool.ray_pool import RayPool

    name, actors = process_name(), settings.pool_actors
    cpus, address = settings.ray_actor_cpus, settings.ray_address
    pool = RayPool(
        config,
        nats_url=nats_url,
        nats_access=settings.nats_access,
        name=name,
        actors=actors,
        address=address,
        actor_cpus=cpus,
        home=settings.home,
    )
    async with pool as cluster:
        yield cluster


def _broker(settings: Settings, nats_url: str) -> NatsBroker:
    # apply_types=False: a handler takes deliveries and decodes them itself; FastStream's injection would cost a
    # thread-pool hop a message. logger=None: payloads must not reach logs, and FastStream's logs hold them.
    options, limit = (
        connect_options(nats_url, "parley-service", SERVICE_INBOX),
        settings.drain_seconds or None,
    )
    return ServiceBroker(
        settings.nats_access, **options, apply_types=False, logger=None, graceful_timeout=limit
    )


def _handlers(
    settings: Settings, jetstream: JetStream, parts: Collection[Part], pool: Pool | None, observer: Observer
) -> tuple[Handlers, DeadlineRecovery, list[PullSubscriber], list[OnLook]]:
    """What the parts do, what finds lost deadlines, the subscribers of consumers that 0.1.0 may have left, and what
    watches how full the streams are."""
    tallies = TallyStore(jetstream, keep_seconds=settings.keep_seconds)
    claim_check_bytes = min(settings.claim_check_bytes, jetstream.max_payload // 2)
    endings = EndingPublisher(jetstream, tallies, observer, claim_check_bytes=claim_check_bytes)
    effects = EffectRunner(jetstream, tallies, endings)

    suspects = Suspects(jetstream)

    def settler(durable: topology.Durable) -> Settler:
        return Settler(jetstream, durable, observer, suspects=suspects)

    handlers = Handlers()
    old: list[PullSubscriber] = []
    looks: list[OnLook] = []
    bounds = Bounds(settings.max_agents, settings.timeout_seconds, settings.allowed_reply_prefixes)
    intake = Intake(effects, observer, bounds)
    lost = LostTally(jetstream, effects, intake)
    if Part.INTAKE in parts:
        giving_up = Settler(jetstream, topology.INTAKE, observer, give_up=intake.give_up, suspects=suspects)
        admission = Admission(tallies, intake.handle)
        looks.append(admission.on_look)
        handlers = replace(handlers, intake=Runner(giving_up, admission.handle))
        giving_up = Settler(jetstream, topology.OLD_INTAKE, observer, give_up=intake.give_up)
        old.append(old_puller(topology.OLD_INTAKE, Runner(giving_up, admission.handle)))
    if pool is not None:
        dispatch = Dispatch(jetstream, tallies, pool, settler(topology.DISPATCH))
        handlers = replace(handlers, dispatch=dispatch, drop=dispatch.cancel)
    if Part.AGGREGATE in parts:
        # A deadline that raises is never given up: in DEAD_LETTERS it would leave a deliberation without an ending.
        expire = Expire(effects, lost)
        looks.append(Trimmer(jetstream).on_look)
        expiry = Settler(
            jetstream,
            topology.EXPIRY,
            observer,
            give_up=expire.give_up,
            max_deliveries=None,
            suspects=suspects,
        )
        handlers = replace(
            handlers,
            aggregate=Runner(settler(topology.AGGREGATE), Aggregate(effects, observer).handle),
            expire=Runner(expiry, expire.handle, expire.prepare),
            cancel=Runner(settler(topology.CANCELLER), Cancel(jetstream, effects).handle),
        )
        cancel = Cancel(jetstream, effects, intake=topology.OLD_INTAKE)
        old.append(old_puller(topology.OLD_CANCELLER, Runner(settler(topology.OLD_CANCELLER), cancel.handle)))
    if Part.QUERY in parts:
        query = Query(jetstream, tallies)
        answers = Answers(jetstream, query, prefixes=settings.allowed_reply_prefixes)
        handlers = replace(handlers, query=answers)
    watch = DeadlineWatch(jetstream, effects, lost)
    return handlers, DeadlineRecovery(jetstream, effects, watch), old, looks
