"""`--faults full` runs every case with 300 deliberations each; without it, a few with a few."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.nats_client import NatsClient as Nats
from tests.faults.cases import CASES
from tests.faults.fleet import Fleet, fleet
from tests.faults.report import Row, table, write

ROWS: list[Row] = []


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    return str(request.config.getoption("--faults")) == "full"


@pytest.fixture(scope="package")
async def running_fleet(tmp_path_factory: pytest.TempPathFactory, full: bool) -> AsyncIterator[Fleet]:
    # Short form: another dispatcher takes over sooner.
    async with fleet(tmp_path_factory.mktemp("fleet"), ack_wait_seconds=30.0 if full else 5.0) as started:
        yield started


@pytest.fixture(scope="package")
async def observer(running_fleet: Fleet) -> AsyncIterator[Nats]:
    nc = await connect(running_fleet.nats_url, "faults")
    yield nc
    await close(nc)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        chosen = [case for case in CASES if case.short or metafunc.config.getoption("--faults") == "full"]
        metafunc.parametrize("case", chosen, ids=lambda case: case.name)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not ROWS:
        return
    terminalreporter.section("faults and their results")
    terminalreporter.write_line(table(ROWS))
    path = config.getoption("--faults-table")
    if path:
        write(Path(str(path)), ROWS)
