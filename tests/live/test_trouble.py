"""A real vLLM that is locked, full, killed, stopped and frozen: what Parley's agents make of it."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from broker.messages import AgentCompleted, AgentFailed, DeliberationCompleted, Ending, ErrorType
from parley.client import Submitted
from tests.harness import until
from tests.live.server import MAX_TOKENS, Install
from tests.live.service import Front, front
from tests.live.stage import AT_WORK, KEY, QUEUED, Stage, stage

# About 10 s of work for a few at once: whatever is done to the server meets them at work.
LONG = MAX_TOKENS - 1_500
FIRST_BYTE_SECONDS, TOTAL_SECONDS = 1.5, 4.0
# One call, and short limits.
HURRY = {
    "PARLEY_RETRY_ATTEMPTS": "1",
    "PARLEY_VLLM_FIRST_BYTE_TIMEOUT_SECONDS": str(FIRST_BYTE_SECONDS),
    "PARLEY_VLLM_TOTAL_TIMEOUT_SECONDS": str(TOTAL_SECONDS),
}
PASSING = {ErrorType.CONNECTION_FAILED, ErrorType.CONNECTION_LOST, ErrorType.SERVER_ERROR}


@pytest.fixture(scope="module")
async def behind(install: Install, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with stage(install, tmp_path_factory.mktemp("stage")) as made:
        yield made


@pytest.fixture(scope="module")
async def fronts(behind: Stage, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator["Fronts"]:
    async with AsyncExitStack() as stack:
        yield Fronts(behind, tmp_path_factory, stack)


class Fronts:
    """Services in front of it, each started when it is first asked for."""

    def __init__(self, behind: Stage, folders: pytest.TempPathFactory, stack: AsyncExitStack) -> None:
        self._behind, self._folders, self._stack = behind, folders, stack
        self._made: dict[tuple[tuple[str, str], ...], Front] = {}

    async def __call__(self, *, stream: bool = False, key: str | None = KEY, **settings: str) -> Front:
        wanted = {"VLLM_API_KEY": key or "", "PARLEY_VLLM_STREAM": str(stream), **settings}
        name = tuple(sorted(wanted.items()))
        if name not in self._made:
            folder: Path = self._folders.mktemp("front")
            self._made[name] = await self._stack.enter_async_context(front(folder, [self._behind.url], **wanted))
        return self._made[name]


@pytest.mark.parametrize("key", [None, "not-the-key"])
async def test_a_missing_and_a_wrong_key_fail_at_once(behind: Stage, fronts: Fronts, key: str | None) -> None:
    server = await behind.up()
    on = await fronts(key=key)
    failed = await on.failed(await on.client.deliberate("x", agents=2))
    assert {(outcome.error_type, outcome.attempt) for outcome in failed} == {(ErrorType.UNAUTHORIZED, 1)}
    # vLLM's `error` is a plain string here, and an object everywhere else.
    assert {outcome.error for outcome in failed} == {"HTTP 401 from the model server: Unauthorized"}
    assert KEY not in on.serving.log.read_text()
    assert await server.figure("generation_tokens_total") == 0


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_what_a_full_server_turns_away_is_asked_again_until_all_have_answered(
    behind: Stage, fronts: Fronts, stream: bool
) -> None:
    server = await behind.up()
    on = await fronts(stream=stream)
    before = await server.figure("admission_rejections_total")
    asking = [on.client.deliberate("x", agents=3, max_tokens=40, timeout_seconds=90) for _ in range(4 * (AT_WORK + QUEUED) // 3)]
    endings = await asyncio.gather(*asking)
    turned_away = await server.figure("admission_rejections_total") - before
    outcomes = [outcome for ending in endings for outcome in await on.completed(ending)]
    tries = sum(outcome.attempt for outcome in outcomes)
    print(
        f"\n{len(outcomes)} agents, {tries} calls, {turned_away:.0f} turned away, slowest {max(e.duration_ms for e in endings)} ms"
    )
    assert turned_away > 0
    # Each was turned away and asked again; the breaker's probes are no attempts.
    assert len(outcomes) < tries <= len(outcomes) + turned_away


async def test_a_server_that_is_killed_and_started_again_costs_no_more_than_what_it_was_at(behind: Stage, fronts: Fronts) -> None:
    server = await behind.up()
    on = await fronts()
    running = [await on.client.submit("Go on", agents=2, max_tokens=LONG, timeout_seconds=90) for _ in range(2)]
    await server.running(4)
    await server.kill()
    killed = time.monotonic()
    meanwhile = [await on.client.submit("x", agents=2, max_tokens=16, timeout_seconds=90) for _ in range(4)]
    early = [await on.client.ending(each) for each in running]
    server = await behind.up()
    back = time.monotonic()
    for ending in [*early, *[await on.client.ending(each) for each in meanwhile]]:
        for outcome in await on.outcomes(ending.task_id):
            assert isinstance(outcome, AgentCompleted) or outcome.error_type in PASSING, outcome
    await whole(on, await on.client.submit("x", agents=3, max_tokens=16, timeout_seconds=30))
    print(f"\nback after {back - killed:.1f} s; asked and answered {time.monotonic() - back:.1f} s later")


async def whole(on: Front, submitted: Submitted) -> None:
    ending = await on.client.ending(submitted)
    assert isinstance(ending, DeliberationCompleted), ending
    assert not ending.degraded, ending


async def test_a_server_that_is_killed_and_soon_back_loses_nothing(behind: Stage, fronts: Fronts) -> None:
    server = await behind.up()
    on = await fronts(PARLEY_RETRY_ATTEMPTS="40")
    submitted = await on.client.submit("Go on", agents=3, max_tokens=400, timeout_seconds=90)
    await server.running(3)
    await server.kill()
    await behind.up()
    await whole(on, submitted)
    assert {outcome.attempt > 1 for outcome in await on.outcomes(submitted.task_id)} == {True}


async def test_an_engine_that_dies_ends_its_calls_as_server_errors_whole_or_streamed(behind: Stage, fronts: Fronts) -> None:
    server = await behind.up()
    plain, streamed = await fronts(**HURRY), await fronts(stream=True, **HURRY)
    asked = [(on, await on.client.submit("Go on", agents=2, max_tokens=LONG, timeout_seconds=60)) for on in (plain, streamed)]
    await server.running(4)
    (engine,) = [pid for pid in server.engines() if b"EngineCore" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(engine, signal.SIGKILL)
    found = [await on.failed(await on.client.ending(submitted)) for on, submitted in asked]
    assert {outcome.error_type for outcomes in found for outcome in outcomes} == {ErrorType.SERVER_ERROR}
    # The whole answers are HTTP 500. The streams had begun with 200: an error line, and then `[DONE]` as if all were well.
    assert all(outcome.error.startswith("HTTP 500") for outcome in found[0])
    assert all(outcome.error.startswith("the server broke off") for outcome in found[1])
    assert all("EngineCore" in outcome.error for outcomes in found for outcome in outcomes)
    await asyncio.wait_for(server.process.wait(), 30)


async def test_a_frozen_server_is_noticed_at_the_first_byte(behind: Stage, fronts: Fronts) -> None:
    server = await behind.up()
    on = await fronts(stream=True, **HURRY)
    server.process.send_signal(signal.SIGSTOP)
    try:
        ending = await on.client.deliberate("x", agents=2, timeout_seconds=60)
    finally:
        server.process.send_signal(signal.SIGCONT)
    failed = await on.failed(ending)
    assert {outcome.error_type for outcome in failed} == {ErrorType.FIRST_BYTE_TIMEOUT}
    assert FIRST_BYTE_SECONDS * 1000 <= ending.duration_ms < TOTAL_SECONDS * 1000


async def test_a_server_told_to_stop_leaves_its_callers_hanging_and_our_limit_ends_it(behind: Stage, fronts: Fronts) -> None:
    server = await behind.up()
    fast = [await fronts(**HURRY), await fronts(stream=True, **HURRY)]
    asked = [(on, await on.client.submit("Go on", agents=2, max_tokens=LONG, timeout_seconds=60)) for on in fast]
    await server.running(4)
    server.terminate()
    endings: list[Ending] = [await on.client.ending(submitted) for on, submitted in asked]
    for (on, _), ending in zip(asked, endings, strict=True):
        failed: list[AgentFailed] = await on.failed(ending)
        assert {outcome.error_type for outcome in failed} == {ErrorType.TOTAL_TIMEOUT}
        assert TOTAL_SECONDS * 1000 <= ending.duration_ms < (TOTAL_SECONDS + 2) * 1000
    # It only waited for them to leave.
    await until(lambda: server.process.returncode is not None, "the server has gone")
