"""What blocks is waited for without blocking anybody, and may be left to itself."""

import asyncio
import threading

import pytest

from parley.workers.pool.blocking import BlockingThread


async def test_work_is_waited_for_and_what_it_raises_is_raised() -> None:
    aside, done = BlockingThread("test"), []
    await aside.do(lambda: done.append(threading.current_thread().name))
    assert done == ["test"]
    with pytest.raises(ZeroDivisionError):
        await aside.do(lambda: 1 // 0)


async def test_everything_runs_in_one_thread_that_outlives_each_piece_of_work() -> None:
    """What Ray starts locally ends with the thread that started it."""
    aside, threads = BlockingThread("test"), set()
    for _ in range(3):
        await aside.do(lambda: threads.add(threading.current_thread()))
    (thread,) = threads
    assert thread.is_alive()
    assert thread.daemon


async def test_work_that_does_not_return_can_be_left_and_the_loop_goes_on() -> None:
    aside, forever = BlockingThread("test"), threading.Event()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await aside.do(forever.wait)
    later = asyncio.create_task(aside.do(lambda: None))
    await asyncio.sleep(0)
    assert not later.done()
    forever.set()
    await asyncio.wait_for(later, 10)
