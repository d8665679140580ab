"""What FastStream and nats-py raise around the service's connection is one line."""

import logging
from typing import Any, cast

import nats.errors
import pytest

from parley.broker.core.errors import LimitReached
from parley.broker.jetstream.nats_client import NatsClient
from parley.handlers.service_connection import disconnect, start


class FailingBroker:
    """FastStream's broker, whose subscribers cannot stop and whose start finds the connection closed."""

    async def start(self) -> None:
        raise nats.errors.ConnectionClosedError

    async def stop(self) -> None:
        inner = ExceptionGroup("subscribers", [nats.errors.ConnectionClosedError(), TimeoutError()])
        raise ExceptionGroup("Failed to stop subscribers", [inner])


class Connection:
    """A connection that is closed for good."""

    async def close(self) -> None:
        raise nats.errors.ConnectionClosedError


async def test_a_stop_that_fails_in_every_subscriber_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "parley"):
        await disconnect(cast(Any, FailingBroker()), cast(Any, Connection()))
    assert caplog.messages == ["disconnected without NATS: nats: connection closed"]
    assert caplog.records[0].exc_info is None


async def test_a_start_names_the_limit_that_closed_the_connection() -> None:
    client = NatsClient()
    client._status = NatsClient.CLOSED
    client._err = nats.errors.Error("nats: maximum subscriptions exceeded")
    with pytest.raises(LimitReached, match="raise max_subscriptions"):
        await start(cast(Any, FailingBroker()), client, "nats://secret@127.0.0.1:4222")
