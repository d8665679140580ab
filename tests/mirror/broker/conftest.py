"""Fixtures: each test that asks gets a new account with Parley's streams."""

from collections.abc import AsyncIterator

import pytest

from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.nats_client import NatsClient as Nats
from tests.mirror.broker import Accounts, provisioned


@pytest.fixture
def url(server: Accounts) -> str:
    return server.fresh_url()


@pytest.fixture
async def nc(url: str) -> AsyncIterator[Nats]:
    async with provisioned(url) as client:
        yield client


@pytest.fixture
async def wire(nc: Nats) -> JetStream:
    return JetStream(nc)
