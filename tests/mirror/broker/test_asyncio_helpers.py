"""`gather` needs no task for one item, a capacity is counted and waited for, and a semaphore bounds bytes."""

import asyncio
import gc
import time

import pytest

from parley.broker import asyncio_helpers
from parley.broker.asyncio_helpers import (
    BackgroundLoop,
    Capacity,
    Turns,
    WeightedSemaphore,
    cancel_all,
    gather,
)
from parley.broker.core.errors import ParleyError


async def _task() -> "asyncio.Task[None] | None":
    return asyncio.current_task()


async def test_a_task_that_swallows_a_cancellation_ends_too() -> None:
    swallowed = 0

    async def ignores_two() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if swallowed == 2:
                    raise
                swallowed += 1

    async def fails() -> None:
        raise ValueError

    tasks = [asyncio.create_task(ignores_two()), asyncio.create_task(fails())]
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await cancel_all(tasks)
    assert (tasks[0].cancelled(), tasks[1].done(), swallowed) == (True, True, 2)


async def test_one_needs_no_task_of_its_own() -> None:
    assert await gather([_task()]) == [asyncio.current_task()]


async def test_several_run_at_once_and_answer_in_order() -> None:
    met = asyncio.Barrier(3)

    async def meet(name: str) -> str:
        async with asyncio.timeout(10), met:
            return name

    assert await gather(map(meet, "abc")) == ["a", "b", "c"]


async def test_nothing_to_gather_gives_an_empty_list() -> None:
    assert await gather([]) == []


@pytest.mark.parametrize("others", [0, 1, 2])
async def test_what_one_raises_is_raised(others: int) -> None:
    async def fail() -> None:
        raise LookupError("no")

    with pytest.raises(LookupError):
        await gather([*(asyncio.sleep(0) for _ in range(others)), fail()])


async def test_two_run_at_once_and_what_either_raises_is_raised() -> None:
    met = asyncio.Barrier(2)

    async def meet(name: str, fails: bool = False) -> str:
        async with asyncio.timeout(10), met:
            pass
        if fails:
            raise LookupError(name)
        return name

    assert await gather(map(meet, "ab")) == ["a", "b"]
    for fails in ((True, False), (False, True), (True, True)):
        with pytest.raises(LookupError):
            await gather([meet("a", fails[0]), meet("b", fails[1])])


async def test_of_two_that_fail_asyncio_reports_neither(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(after: float) -> None:
        await asyncio.sleep(after)
        raise LookupError("no")

    with pytest.raises(LookupError):
        await gather([fail(0.02), fail(0)])
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_a_cancellation_reaches_both_of_two_and_waits_for_their_ends() -> None:
    ended: list[str] = []

    async def endless(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(name)

    both = asyncio.create_task(gather(map(endless, "ab")))
    for _ in range(3):
        await asyncio.sleep(0)
    both.cancel()
    with pytest.raises(asyncio.CancelledError):
        await both
    assert sorted(ended) == ["a", "b"]


# ── capacity ──


async def waiting(capacity: Capacity) -> asyncio.Task[int]:
    """A waiter that has begun to wait."""
    task = asyncio.create_task(capacity.wait_free())
    await asyncio.sleep(0)
    return task


async def test_free_is_what_is_not_taken() -> None:
    capacity = Capacity(3)
    assert await capacity.wait_free() == 3
    capacity.take(2)
    assert await capacity.wait_free() == 1


async def test_a_waiter_waits_for_the_first_free_place() -> None:
    capacity = Capacity(2)
    capacity.take(2)
    waiter = await waiting(capacity)
    assert not waiter.done()
    capacity.give(1)
    assert await asyncio.wait_for(waiter, 5) == 1


async def test_nothing_is_free_when_all_is_taken() -> None:
    capacity = Capacity(2)
    capacity.take(2)
    assert capacity.free == 0


async def test_growing_wakes_a_waiter_and_nothing_is_free_below_what_is_taken() -> None:
    capacity = Capacity(0)
    waiter = await waiting(capacity)
    capacity.resize(4)
    assert await asyncio.wait_for(waiter, 5) == 4
    capacity.take(3)
    capacity.resize(2)
    assert capacity.free == 0
    capacity.give(1)
    assert capacity.free == 0
    capacity.give(1)
    assert await capacity.wait_free() == 1


async def test_a_place_given_and_taken_again_before_the_waiter_runs_is_not_free() -> None:
    capacity = Capacity(1)
    capacity.take(1)
    waiter = await waiting(capacity)
    capacity.give(1)
    capacity.take(1)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiter.done()
    capacity.give(1)
    assert await asyncio.wait_for(waiter, 5) == 1


# ── weighted semaphore ──


async def test_no_more_is_held_than_the_limit_and_each_holder_gets_its_turn() -> None:
    semaphore, most, done = WeightedSemaphore(10), 0, 0

    async def hold(weight: int) -> None:
        nonlocal most, done
        async with semaphore.holding(weight):
            most = max(most, semaphore.held)
            await asyncio.sleep(0)
            done += 1

    async with asyncio.timeout(5):
        await asyncio.gather(*(hold(weight) for weight in [3, 4, 5, 1, 10, 2] * 20))
    assert most <= 10
    assert (done, semaphore.held) == (120, 0)


async def test_one_heavier_than_the_limit_is_let_in_alone() -> None:
    semaphore = WeightedSemaphore(10)
    async with asyncio.timeout(5), semaphore.holding(99):
        assert semaphore.held == 99
    assert semaphore.held == 0


async def test_a_waiter_that_gives_up_holds_nothing() -> None:
    semaphore = WeightedSemaphore(10)
    async with semaphore.holding(10):
        waiting = asyncio.ensure_future(semaphore.holding(1).__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert semaphore.held == 0
    async with asyncio.timeout(5), semaphore.holding(10):
        pass


async def test_a_background_loop_starts_again_after_each_error_until_it_returns(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(asyncio_helpers, "RESTART_SECONDS", 0.0)
    errors: list[Exception] = [ParleyError("NATS is away"), ZeroDivisionError("a bug")]
    ended = asyncio.Event()

    async def loop() -> None:
        if errors:
            raise errors.pop(0)
        ended.set()

    background = BackgroundLoop(loop, "the loop")
    await ended.wait()
    background.cancel()
    first, second = caplog.records
    assert (first.levelname, first.getMessage(), first.exc_info) == (
        "WARNING", "the loop starts again: NATS is away", None
    )  # fmt: skip
    assert (second.levelname, second.getMessage()) == (
        "ERROR",
        "the loop failed through a bug and starts again",
    )
    assert second.exc_info is not None


async def test_an_error_that_comes_at_each_start_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(asyncio_helpers, "RESTART_SECONDS", 0.0)
    errors = [ParleyError("no right")] * 5 + [ParleyError("no stream")]
    ended = asyncio.Event()

    async def loop() -> None:
        if errors:
            raise errors.pop(0)
        ended.set()

    background = BackgroundLoop(loop, "the loop")
    await ended.wait()
    background.cancel()
    assert caplog.messages == ["the loop starts again: no right", "the loop starts again: no stream"]


async def test_a_background_loop_that_is_cancelled_does_not_start_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    starts: list[int] = []
    failed = asyncio.Event()

    async def loop() -> None:
        starts.append(1)
        failed.set()
        raise ParleyError("NATS is away")

    monkeypatch.setattr(asyncio_helpers, "RESTART_SECONDS", 0.01)
    background = BackgroundLoop(loop, "the loop")
    await failed.wait()
    await asyncio.sleep(0)  # the end is noticed
    background.cancel()
    await asyncio.sleep(0.05)
    assert starts == [1]


# ── turns ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_pieces_begin_one_a_round_of_the_loop() -> None:
    turns, rounds, began = Turns(), [0], list[int]()

    def count() -> None:
        rounds[0] += 1
        asyncio.get_running_loop().call_soon(count)

    async def piece() -> None:
        assert await turns.wait(10)
        began.append(rounds[0])

    count()
    await asyncio.gather(*(piece() for _ in range(10)))
    assert len(set(began)) == 10


async def test_after_a_long_piece_others_have_as_much_time() -> None:
    turns, long = Turns(), 4 * asyncio_helpers.LONG_SECONDS
    ended = list[float]()

    async def piece() -> float:
        assert await turns.wait(10)
        began = time.monotonic()
        time.sleep(long)  # noqa: ASYNC251  # it keeps the loop busy: that is what is tested
        ended.append(time.monotonic())
        return began

    first, second = await asyncio.gather(piece(), piece())
    assert second - ended[0] >= 0.9 * long > first - second


async def test_a_turn_that_does_not_come_in_time_is_given_up() -> None:
    turns = Turns()
    assert await turns.wait(10)
    time.sleep(0.2)  # noqa: ASYNC251  # it keeps the loop busy: that is what is tested
    assert not await turns.wait(0.05)
    assert await turns.wait(10)


async def test_many_short_pieces_are_waited_for_however_many_they_are() -> None:
    turns = Turns()
    assert all(await asyncio.gather(*(turns.wait(0.001) for _ in range(500))))
