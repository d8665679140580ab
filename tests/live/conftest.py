"""A real vLLM behind the whole service, with real NATS and Ray. Skipped, with the reason, if vLLM cannot be
installed."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.live.service import Front, front
from tests.live.stage import Stage, stage
from tests.rig.vllm.install import Unavailable, installed
from tests.rig.vllm.model import written
from tests.rig.vllm.server import Install, Vllm, vllm

HERE = Path(__file__).parent
# The first test includes the installation and a start.
FIRST_SECONDS = 1_200
SECONDS = 240
# Of the server that no test harms: it logs how each request is sampled, and tells what came from its cache.
ARGUMENTS = ("--enable-prefix-caching", "--enable-log-requests", "--enable-prompt-tokens-details")
# Only in `make live`: each starts a server, or waits for the end of one, for a quarter of a minute or more.
LONG = (
    "test_a_frozen_server_is_noticed_at_first_byte_or_limit",
    "test_a_killed_and_restarted_server_loses_no_agent",
    "test_a_missing_and_a_wrong_key_fail_at_once[None]",
    "test_all_agents_of_a_task_go_to_one_server_of_two_and_the_tasks_to_both",
    "test_an_answer_that_a_stopping_server_cuts_off_is_no_answer",
    "test_an_engine_that_dies_is_an_error_after_a_200_too",
    "test_words_at_random_are_whole_rankings",
    "test_words_at_random_have_the_form",
    "test_much_of_what_judges_read",
    "test_the_limit_of_a_phase",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ours = [item for item in items if item.path.is_relative_to(HERE)]
    option = config.getoption("--live")
    for place, item in enumerate(ours):
        item.add_marker(pytest.mark.live)
        item.add_marker(pytest.mark.timeout(SECONDS if place else FIRST_SECONDS))
        if option == "none":
            item.add_marker(pytest.mark.skip(reason="--live none: no real vLLM"))
        if option == "auto" and item.name.startswith(LONG):
            item.add_marker(pytest.mark.skip(reason="only in `make live`"))


@pytest.fixture(scope="session")
def install(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Install:
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def say(text: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\n{text}", flush=True)

    try:
        python = installed(say)
    except Unavailable as reason:
        if request.config.getoption("--live") == "required":
            raise
        pytest.skip(str(reason))
    return written(python, tmp_path_factory.mktemp("install"))


@pytest.fixture(scope="session")
async def shared(install: Install, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Vllm]:
    """The server that no test harms."""
    folder = tmp_path_factory.mktemp("vllm")
    async with vllm(install, folder, *ARGUMENTS) as server:
        yield server


@pytest.fixture(scope="session")
async def behind(install: Install, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """A server that tests kill and freeze. It is started again when the next test needs it."""
    async with stage(install, tmp_path_factory.mktemp("stage")) as made:
        yield made


@pytest.fixture(scope="session")
async def plain(shared: Vllm, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Front]:
    """The whole service in front of `shared`. It reads whole answers."""
    async with front(tmp_path_factory.mktemp("plain"), [shared.url]) as started:
        yield started


@pytest.fixture(scope="session")
async def streamed(shared: Vllm, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Front]:
    """The same, but it reads answers as streams."""
    async with front(tmp_path_factory.mktemp("streamed"), [shared.url], PARLEY_VLLM_STREAM="true") as started:
        yield started


@pytest.fixture(params=["plain", "streamed"])
def on(request: pytest.FixtureRequest) -> Front:
    """The whole service: once with plain calls, once with streams."""
    started: Front = request.getfixturevalue(request.param)
    return started
