"""A bench for each test that asks: a NATS with our streams, and no handler running."""

from collections.abc import AsyncIterator

import pytest

from tests.mirror.broker import Accounts
from tests.mirror.handlers import Bench, bench_at


@pytest.fixture
async def bench(server: Accounts) -> AsyncIterator[Bench]:
    async with bench_at(server.fresh_url()) as made:
        yield made
