"""For the tests of broker and handlers: one nats-server for each module, and an account for each test."""

from collections.abc import AsyncIterator

import pytest

from tests.mirror.broker import Accounts, accounts


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Accounts]:
    async with accounts(tmp_path_factory.mktemp("nats")) as started:
        yield started
