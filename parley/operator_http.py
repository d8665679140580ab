"""The HTTP port of a process, for operators: why it is not ready, its metrics, and the AsyncAPI document."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from importlib.metadata import version

from faststream.nats import NatsBroker

from parley.broker.core.errors import SettingsError
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream
from parley.handlers.routes import declare_all
from parley.monitoring import asyncapi, http
from parley.monitoring.check_runner import Check
from parley.monitoring.metrics import Metrics
from parley.settings import Settings
from parley.stream_keeper import StreamKeeper
from parley.workers.pool.pool import Pool

log = logging.getLogger("parley")

VERSION = version("parley-queue")


@asynccontextmanager
async def operator_port(
    settings: Settings,
    jetstream: JetStream,
    metrics: Metrics,
    pool: Pool | None,
    checks: Mapping[str, Check],
    keeper: StreamKeeper,
) -> AsyncIterator[str]:
    """Serve until the block ends; yields the URL. Raises SettingsError if the port is taken."""

    def alive() -> bool:
        return keeper.fatal_reason is None and (pool is None or pool.fatal_reason is None)

    async def refresh() -> None:
        if not jetstream.connected:
            # A missing number is better than an old one.
            metrics.backlog.clear()
            metrics.in_hand.clear()
        else:
            await asyncio.gather(*(_backlog(jetstream, metrics, durable) for durable in topology.DURABLES))

    app = http.application(metrics, checks, asyncapi_document(), refresh, alive, jetstream.clock.notes)
    async with AsyncExitStack() as stack:
        # Around the opening only: an OSError of the service itself is not about this port.
        with _port_errors(settings):
            url = await stack.enter_async_context(http.serving(app, settings.http_host, settings.http_port))
        yield url


def check_port(settings: Settings) -> None:
    """Raises SettingsError if the HTTP port is taken."""
    with _port_errors(settings):
        http.check_port(settings.http_host, settings.http_port)


@contextmanager
def _port_errors(settings: Settings) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        busy = f"cannot listen on {settings.http_host}:{settings.http_port} ({error.strerror})"
        remedy = "does another `parley up` or `serve` run here? 0 takes a free port"
        raise SettingsError([f"PARLEY_HTTP_PORT: {busy}; {remedy}"]) from error


async def _backlog(jetstream: JetStream, metrics: Metrics, durable: topology.Durable) -> None:
    try:
        info = await jetstream.js.consumer_info(durable.stream, durable.name, timeout=1.0)
    except Exception as error:  # a scrape must not fail because NATS is slow; /readyz reports that
        log.debug("backlog of %s unknown: %s", durable.name, error)
        return
    metrics.backlog.labels(durable.name).set(info.num_pending or 0)
    metrics.in_hand.labels(durable.name).set(info.num_ack_pending or 0)


def asyncapi_document() -> dict[str, object]:
    """The AsyncAPI document of the whole service, whichever parts run here. Opens no connection."""
    broker = NatsBroker(apply_types=False, logger=None)
    declare_all(broker)
    return asyncapi.document(broker, VERSION)
