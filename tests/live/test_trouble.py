"""A real vLLM that refuses the key, is full, killed, stopped or frozen: what the endings say."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from parley.broker.core.messages import ErrorType
from tests import present
from tests.live.service import Front, front
from tests.live.stage import AT_WORK, KEY, QUEUED, Stage
from tests.rig.vllm.server import MAX_TOKENS

# About 10 s of work for a few at once, so that a fault meets running calls.
LONG = MAX_TOKENS - 1_500
FIRST_BYTE_SECONDS, TOTAL_SECONDS = 1.5, 4.0
# One call, and short limits.
HURRIED = {
    "PARLEY_RETRY_ATTEMPTS": "1",
    "PARLEY_VLLM_FIRST_BYTE_TIMEOUT_SECONDS": str(FIRST_BYTE_SECONDS),
    "PARLEY_VLLM_TOTAL_TIMEOUT_SECONDS": str(TOTAL_SECONDS),
}
# At most a second between two attempts, and more attempts than a server takes seconds to start.
PATIENT = {"PARLEY_RETRY_ATTEMPTS": "90"}


@pytest.fixture(scope="module")
async def fronts(behind: Stage, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator["Fronts"]:
    async with AsyncExitStack() as stack:
        yield Fronts(behind, tmp_path_factory, stack)


class Fronts:
    """Services in front of `behind`, each started at its first use."""

    def __init__(self, behind: Stage, folders: pytest.TempPathFactory, stack: AsyncExitStack) -> None:
        self._behind, self._folders, self._stack = behind, folders, stack
        self._made: dict[tuple[tuple[str, str], ...], Front] = {}

    async def get(self, settings: Mapping[str, str], *, stream: bool = False, key: str | None = KEY) -> Front:
        wanted = {"VLLM_API_KEY": key or "", "PARLEY_VLLM_STREAM": str(stream), **settings}
        name = tuple(sorted(wanted.items()))
        if name not in self._made:
            folder: Path = self._folders.mktemp("front")
            awaited = "/readyz" if key == KEY else "/livez"
            self._made[name] = await self._stack.enter_async_context(
                front(folder, [self._behind.url], awaited, **wanted)
            )
        return self._made[name]

    async def both(self, settings: Mapping[str, str]) -> tuple[Front, Front]:
        """One that reads whole answers, one that reads streams."""
        return await self.get(settings), await self.get(settings, stream=True)


@pytest.mark.parametrize("key", [None, "not-the-key"])
async def test_a_missing_and_a_wrong_key_fail_at_once(behind: Stage, fronts: Fronts, key: str | None) -> None:
    server = await behind.up()
    on = await fronts.get(PATIENT, key=key)
    before = await server.figures()
    failed = await on.failed(await on.client.deliberate("x", agents=2))
    assert {(outcome.error_type, outcome.attempt) for outcome in failed} == {(ErrorType.UNAUTHORIZED, 1)}
    wants = "it wants a key, and VLLM_API_KEY is not set"
    advice = f"HTTP 401: {wants if key is None else 'it refuses the key, is VLLM_API_KEY right?'}"
    assert {outcome.error for outcome in failed} == {advice}
    assert KEY not in on.serving.log.read_text()
    await server.grew(before, prompt_tokens_total=0)
    async with server.http.get(f"{on.serving.http_url}/readyz") as response:
        assert (response.status, (await response.json())["problems"]) == (
            503,
            {"models": f"{behind.url}: {advice}"},
        )


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_calls_a_full_server_refused_are_retried(behind: Stage, fronts: Fronts, stream: bool) -> None:
    server = await behind.up()
    on = await fronts.get(PATIENT, stream=stream)
    before = await server.figure("admission_rejections_total")
    asking = [
        on.client.deliberate("x", agents=3, max_tokens=40, timeout_seconds=90)
        for _ in range(4 * (AT_WORK + QUEUED) // 3)
    ]
    endings = await asyncio.gather(*asking)
    turned_away = await server.figure("admission_rejections_total") - before
    outcomes = [outcome for ending in endings for outcome in await on.completed(ending)]
    tries = sum(outcome.attempt for outcome in outcomes)
    print(
        f"\n{len(outcomes)} agents, {tries} calls, {turned_away:.0f} turned away, slowest {max(e.duration_ms for e in endings)} ms"
    )
    assert turned_away > 0
    # Refused calls are retried. The breaker's probes are not attempts.
    assert len(outcomes) < tries <= len(outcomes) + turned_away


async def test_a_frozen_server_is_noticed_at_first_byte_or_limit(behind: Stage, fronts: Fronts) -> None:
    server = await behind.up()
    plain, streamed = await fronts.both(HURRIED)
    server.process.send_signal(signal.SIGSTOP)
    try:
        whole, stream = await asyncio.gather(
            *(on.client.deliberate("x", agents=2, timeout_seconds=60) for on in (plain, streamed))
        )
    finally:
        server.process.send_signal(signal.SIGCONT)
    assert {outcome.error_type for outcome in await plain.failed(whole)} == {ErrorType.TOTAL_TIMEOUT}
    assert TOTAL_SECONDS * 1000 <= whole.duration_ms < (TOTAL_SECONDS + 1) * 1000
    assert {outcome.error_type for outcome in await streamed.failed(stream)} == {ErrorType.FIRST_BYTE_TIMEOUT}
    assert FIRST_BYTE_SECONDS * 1000 <= stream.duration_ms < (FIRST_BYTE_SECONDS + 1) * 1000


async def test_a_killed_and_restarted_server_loses_no_agent(behind: Stage, fronts: Fronts) -> None:
    server = await behind.up()
    client, hurried = await fronts.get(PATIENT), await fronts.get(HURRIED)
    waiting = [await client.client.submit("Go on", agents=2, max_tokens=1_000, timeout_seconds=120)]
    failing = [await hurried.client.submit("Go on", agents=2, max_tokens=1_000, timeout_seconds=120)]
    await server.running(4)
    await server.kill()
    killed = time.monotonic()
    waiting += [
        await client.client.submit("x", agents=2, max_tokens=16, timeout_seconds=120) for _ in range(3)
    ]
    failing += [await hurried.client.submit("x", agents=2, max_tokens=16, timeout_seconds=120)]
    failed = [
        outcome for each in failing for outcome in await hurried.failed(await hurried.client.ending(each))
    ]
    # The first two lose their connection; the others find no listening server.
    assert [outcome.error_type for outcome in failed] == [ErrorType.CONNECTION_LOST] * 2 + [
        ErrorType.CONNECTION_FAILED
    ] * 2
    assert not any(present(each._arrival).done() for each in waiting)
    await behind.up()
    back = time.monotonic()
    answered = [
        outcome for each in waiting for outcome in await client.completed(await client.client.ending(each))
    ]
    soon = time.monotonic() - back
    assert len(answered) == 8
    await client.completed(await client.client.deliberate("x", agents=3, max_tokens=16, timeout_seconds=30))
    await hurried.completed(await hurried.client.deliberate("x", agents=3, max_tokens=16, timeout_seconds=30))
    calls = [outcome.attempt for outcome in answered]
    print(
        f"\naway for {back - killed:.1f} s; the last that waited was answered {soon:.1f} s after it was back; calls {calls}"
    )


async def test_an_engine_that_dies_is_an_error_after_a_200_too(behind: Stage, fronts: Fronts) -> None:
    server = await behind.up()
    asked = [
        (on, await on.client.submit("Go on", agents=2, max_tokens=LONG, timeout_seconds=60))
        for on in await fronts.both(HURRIED)
    ]
    await server.running(4)
    os.kill(server.engine(), signal.SIGKILL)
    plain, streamed = [await on.failed(await on.client.ending(submitted)) for on, submitted in asked]
    assert {outcome.error_type for outcome in (*plain, *streamed)} == {ErrorType.SERVER_ERROR}
    assert all("EngineCore encountered an issue" in outcome.error for outcome in (*plain, *streamed))
    assert all(outcome.error.startswith("HTTP 500") for outcome in plain)
    # A line with the error, then `[DONE]` as after a success.
    assert all(outcome.error.startswith("the server broke off") for outcome in streamed)
    await asyncio.wait_for(server.process.wait(), 30)


async def test_an_answer_that_a_stopping_server_cuts_off_is_no_answer(behind: Stage, fronts: Fronts) -> None:
    """At SIGTERM, without `--shutdown-timeout`, vLLM aborts its requests and kills the engine. Depending on which
    comes first, a caller gets the words so far with HTTP 200 and `finish_reason: abort`, or no answer at all."""
    server = await behind.up()
    asked = [
        (on, await on.client.submit("Go on", agents=2, max_tokens=LONG, timeout_seconds=60))
        for on in await fronts.both(HURRIED)
    ]
    await server.running(4)
    server.terminate()
    found = []
    for on, submitted in asked:
        ending = await on.client.ending(submitted)
        assert ending.duration_ms < (TOTAL_SECONDS + 1) * 1000
        found += [outcome.error_type for outcome in await on.failed(ending)]
    print(f"\nat SIGTERM: {', '.join(found)}")
    assert set(found) <= {ErrorType.SERVER_ERROR, ErrorType.TOTAL_TIMEOUT}
    # It waits only until the callers have closed their connections.
    await asyncio.wait_for(server.process.wait(), 30)
