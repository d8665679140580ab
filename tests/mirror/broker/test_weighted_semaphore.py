"""parley.broker.concurrency: bytes are bounded, and nobody waits for ever."""

import asyncio

from parley.broker.concurrency import WeightedSemaphore


async def test_no_more_is_held_than_the_limit_and_everybody_gets_their_turn() -> None:
    weighed, most, done = WeightedSemaphore(10), 0, 0

    async def hold(weight: int) -> None:
        nonlocal most, done
        async with weighed.holding(weight):
            most = max(most, weighed.held)
            await asyncio.sleep(0)
            done += 1

    async with asyncio.timeout(5):
        await asyncio.gather(*(hold(weight) for weight in [3, 4, 5, 1, 10, 2] * 20))
    assert most <= 10
    assert (done, weighed.held) == (120, 0)


async def test_one_heavier_than_the_limit_is_let_in_alone() -> None:
    weighed = WeightedSemaphore(10)
    async with asyncio.timeout(5), weighed.holding(99):
        assert weighed.held == 99
    assert weighed.held == 0


async def test_whoever_gives_up_waiting_leaves_nothing_held() -> None:
    weighed = WeightedSemaphore(10)
    async with weighed.holding(10):
        waiting = asyncio.ensure_future(weighed.holding(1).__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert weighed.held == 0
    async with asyncio.timeout(5), weighed.holding(10):
        pass
