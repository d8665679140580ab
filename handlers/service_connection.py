"""Opens and closes the service's connection, and turns what FastStream and nats-py raise meanwhile into one line each."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import nats.errors
from faststream.nats import NatsBroker

from parley.broker.core.url_masking import masked
from parley.broker.jetstream.connection import close, unavailable
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.nats_client import NatsClient

log = logging.getLogger("parley")

_TROUBLE = (nats.errors.Error, TimeoutError, OSError)


async def open_connection(broker: NatsBroker, nats_url: str) -> JetStream:
    """Raises BrokerUnavailable."""
    with _translated(None, nats_url):
        nc = await broker.connect()
    assert isinstance(nc, NatsClient), "ServiceBroker makes one"
    return JetStream(nc)


async def start(broker: NatsBroker, nc: NatsClient, nats_url: str) -> None:
    """Start the subscribers. Raises BrokerUnavailable."""
    with _translated(nc, nats_url):
        await broker.start()


async def disconnect(broker: NatsBroker, nc: NatsClient) -> None:
    """Drain and close. While NATS is away there is nothing to drain: what was in hand is redelivered after
    `ack_wait`."""
    try:
        await broker.stop()
    except* _TROUBLE as group:  # FastStream groups what its subscribers raise
        log.warning("disconnected without NATS: %s", next(_leaves(group)))
        await close(nc)


@contextmanager
def _translated(nc: NatsClient | None, nats_url: str) -> Iterator[None]:
    try:
        yield
    except _TROUBLE as error:
        # A limit on subscriptions closes the connection; its last error says so.
        why = nc.last_error if nc is not None and nc.is_closed else None
        raise unavailable(masked(nats_url), why or error) from error


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
