"""Fixtures: a real nats-server, a simulated model server in its own process, the whole service on either pool."""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

# A shell has its background jobs ignore Ctrl-C, and so would each command that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# `nohup` has SIGHUP ignored, and tests of a terminal that is closed would wait for ever.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
# Before ray is imported: if `uv run` has started the tests, Ray must not start its workers through uv too.
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
for name in ("NATS_URL", "RAY_ADDRESS", "VLLM_URL", "VLLM_MODEL", "VLLM_API_KEY"):
    os.environ.pop(name, None)  # a developer's own settings must not reach the tests

from parley.broker.jetstream.connection import connect
from parley.broker.jetstream.embedded import EmbeddedNats, embedded_nats
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.nats_client import NatsClient as Nats
from tests.harness import ModelServer, Running, model_server, running

# `make quick` leaves these out, as it does tests with Ray: they wait for seconds, or need a browser, a network or many
# processes. By the beginning of their ids.
SLOW = (
    "tests/examples",
    "tests/faults",
    "tests/packaging",
    "tests/simulation",
    "tests/integration/test_backpressure.py",
    "tests/integration/test_breakers.py",
    "tests/integration/test_dashboard_against_prometheus.py",
    "tests/integration/test_full_store.py",
    "tests/integration/test_helm_chart.py",
    "tests/integration/test_nats_",
    "tests/integration/test_permissions.py",
    "tests/integration/test_room_for_endings.py",
    "tests/mirror/benchmarks/test_scenarios.py::test_judges_are_measured_beside_bare_calls",
    "tests/mirror/benchmarks/test_soak.py",
    "tests/mirror/broker/jetstream/test_connection.py",
    "tests/mirror/broker/jetstream/test_opening_client.py",
    "tests/mirror/broker/jetstream/test_provision.py",
    "tests/mirror/broker/jetstream/test_quorum.py::test_two_of_three_servers_gone_is_said_as_no_quorum",
    "tests/mirror/broker/jetstream/test_store_probe.py",
    "tests/mirror/broker/jetstream/test_tally_cache.py",
    "tests/mirror/broker/jetstream/test_tally_store.py::test_without_the_bucket_nothing_is_decided",
    "tests/mirror/handlers/test_deadline_rearm.py",
    "tests/mirror/handlers/test_ending_publisher.py",
    "tests/mirror/handlers/test_lost_tally_ending.py",
    "tests/mirror/handlers/test_old_consumers.py",
    "tests/mirror/handlers/test_pull.py",
    "tests/mirror/handlers/test_service_responder.py",
    "tests/mirror/handlers/test_settle.py::test_a_message_is_never_given_up_because_nats_is_away",
    "tests/mirror/monitoring/test_asyncapi.py",
    "tests/mirror/parley/test_app.py",
    "tests/mirror/parley/test_cli.py",
    "tests/mirror/parley/test_cli_asking.py",
    "tests/mirror/parley/test_cli_deadletters.py",
    "tests/mirror/parley/test_cli_results.py",
    "tests/mirror/parley/test_cli_waiting.py",
    "tests/mirror/parley/test_doctor.py",
    "tests/mirror/parley/test_shutdown.py",
    "tests/mirror/parley/test_stream_keeper.py",
    "tests/mirror/parley/test_terminal.py",
    "tests/mirror/parley/test_tiny_model_process.py",
    "tests/mirror/workers/model/test_breaker.py::test_no_order_of_events_breaks_a_rule",
    "tests/mirror/workers/model/test_call_errors.py",
    "tests/mirror/workers/model/test_model_client.py",
    "tests/mirror/workers/model/test_readiness.py",
)


# Only in `make faults`: other tests show the same of a shorter way, or of the other pool.
LONG = (
    "tests/faults/test_deadly_messages.py::test_a_message_that_ends_its_process_is_counted_as_one_that_raises",
    "tests/faults/test_weight.py::test_no_weight_of_requests_ends_a_part_or_makes_others_late[64 bad requests of 0.9 MB-parts apart]",
    "tests/mirror/benchmarks/test_soak.py::test_a_run_of_seconds_ends_well_and_shows_its_samples",
    "tests/integration/test_breakers.py::test_a_dead_server_beside_a_live_one_gets_only_probes[ray]",
    "tests/integration/test_breakers.py::test_deliberations_survive_a_restart_of_the_only_server[ray]",
    "tests/integration/test_breakers.py::test_with_the_only_server_gone_deliberations_fail_soon_and_name_it[ray]",
    "tests/integration/test_other_rays.py::test_a_replaced_head_is_noticed_and_told",
    "tests/integration/test_other_rays.py::test_an_actor_that_cannot_reach_nats_is_told_in_its_own_words",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.startswith(SLOW):
            item.add_marker(pytest.mark.slow)
        if item.nodeid in LONG and config.getoption("--faults") == "short":
            item.add_marker(pytest.mark.skip(reason="only in `make faults`"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--faults",
        choices=("short", "full"),
        default="short",
        help="full: every fault, 300 deliberations each",
    )
    parser.addoption(
        "--live",
        choices=("none", "auto", "required"),
        default="auto",
        help="tests with a real vLLM: none; auto: if it can be installed (2.3 GB into .vllm/, once); required",
    )
    parser.addoption(
        "--faults-table",
        default=None,
        metavar="FILE",
        help="write the table of results between the markers in FILE",
    )


@pytest.fixture(scope="session")
async def nats_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedNats]:
    async with embedded_nats(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
async def empty_nats(tmp_path: Path) -> AsyncIterator[EmbeddedNats]:
    """A server for this test alone, with nothing in it."""
    async with embedded_nats(tmp_path / "nats") as server:
        yield server


@pytest.fixture(scope="session")
async def nats(nats_server: EmbeddedNats) -> AsyncIterator[Nats]:
    nc = await connect(nats_server.url, "tests")
    yield nc
    await nc.close()


@pytest.fixture
async def wire(nats: Nats) -> JetStream:
    return JetStream(nats)


@pytest.fixture(scope="session")
async def model_process() -> AsyncIterator[ModelServer]:
    async with model_server() as server:
        yield server


@pytest.fixture
async def model(model_process: ModelServer) -> AsyncIterator[ModelServer]:
    """The simulated model server, quick and without faults unless a test changes that. No call outlives its test."""
    await model_process.behave()
    yield model_process
    await model_process.idle()


@pytest.fixture(scope="session")
async def local_service(
    nats_server: EmbeddedNats,
    nats: Nats,
    model_process: ModelServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Running]:
    home = tmp_path_factory.mktemp("home-local")
    async with running(nats_server.url, model_process, home, nats, pool="local") as started:
        yield started


@pytest.fixture(scope="session")
async def ray_service(
    model_process: ModelServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Running]:
    """With its own NATS: two services on one would share the work."""
    async with embedded_nats(tmp_path_factory.mktemp("nats-ray")) as server:
        nc = await connect(server.url, "tests-ray")
        try:
            home = tmp_path_factory.mktemp("home-ray")
            async with running(server.url, model_process, home, nc, pool="ray") as started:
                yield started
        finally:
            await nc.close()


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def on(request: pytest.FixtureRequest, model: ModelServer) -> Running:
    """The whole service: once with agents in this process, once with Ray actors."""
    assert model is not None
    started: Running = request.getfixturevalue(f"{request.param}_service")
    return started
