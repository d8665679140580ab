"""What the tests of broker and handlers share: a server each module, on which each test has an account of its own."""

from collections.abc import AsyncIterator

import pytest

from tests.mirror.broker import Accounts, accounts


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Accounts]:
    async with accounts(tmp_path_factory.mktemp("nats")) as started:
        yield started
