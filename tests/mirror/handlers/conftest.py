"""A bench for each test that asks: a NATS with our streams, and no handler running."""

from collections.abc import AsyncIterator

import pytest

from parley.handlers import settle
from tests.mirror.broker import Accounts
from tests.mirror.handlers import Bench, bench_at


@pytest.fixture
async def bench(server: Accounts, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """What is given back because of an error comes again soon."""
    monkeypatch.setattr(settle, "FIRST_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(settle, "LAST_RETRY_SECONDS", 0.05)
    async with bench_at(server.fresh_url()) as made:
        yield made
