"""Fixtures of the readers' tests: each test gets a new account with Parley's streams, and its reads are counted."""

from collections.abc import AsyncIterator

import pytest

from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.provision import provision
from tests.mirror.broker import Accounts, accounts
from tests.mirror.workers import Counting


@pytest.fixture(scope="package")
async def reader_nats(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Accounts]:
    async with accounts(tmp_path_factory.mktemp("nats-readers")) as server:
        yield server


@pytest.fixture
async def wire(reader_nats: Accounts) -> AsyncIterator[Counting]:
    nc = await connect(reader_nats.fresh_url(), "tests")
    await provision(nc.jetstream())
    yield Counting(nc)
    await close(nc)
