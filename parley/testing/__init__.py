"""For the test-suite of a program that asks Parley: a running service, whose agents say what the test wants.

    def test_my_program(parley_service):
        parley_service.model.answer("42")
        assert my_program(parley_service.url) == "42"

pytest finds the fixture `parley_service` by itself where `parley-queue[server]` is installed. The service is the real one,
with a nats-server of its own and agents in the test's process; it starts once, in two or three seconds, and each test
finds it as new. docs/testing.md has the rest.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

# fmt: off
if TYPE_CHECKING:
    from parley.testing.running_service import RunningService
    from parley.testing.scripted_model import Asked, ScriptedModel

__all__ = ["Asked", "RunningService", "ScriptedModel"]
# fmt: on


@pytest.fixture(scope="session")
def parley_process() -> "Iterator[RunningService]":
    """The service of this session's tests. A test takes `parley_service`."""
    try:
        # Loaded with the first test that needs it: pytest loads this module in every project.
        from parley.testing.running_service import RunningService
    except ModuleNotFoundError as error:
        pytest.fail(f"parley_service needs pip install 'parley-queue[server]' ({error.name} is missing)")
    with RunningService.started() as running:
        yield running


@pytest.fixture
def parley_service(parley_process: "RunningService") -> "Iterator[RunningService]":
    """A running Parley service whose model says what the test wants. Each test finds it as new."""
    parley_process.begin_test()
    yield parley_process
    parley_process.end_test()


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name == "RunningService":
            from parley.testing.running_service import RunningService

            return RunningService
        if name in ("Asked", "ScriptedModel"):
            from parley.testing import scripted_model

            return getattr(scripted_model, name)
        raise AttributeError(f"module 'parley.testing' has no attribute {name!r}")
