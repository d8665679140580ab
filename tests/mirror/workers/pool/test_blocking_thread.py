"""A blocking call is waited for without blocking the event loop, and may be abandoned."""

import asyncio
import threading

import pytest

from parley.workers.pool.blocking_thread import BlockingThread


async def test_a_call_is_waited_for_and_its_exception_is_raised() -> None:
    thread, done = BlockingThread("test"), []
    await thread.run(lambda: done.append(threading.current_thread().name))
    assert done == ["test"]
    with pytest.raises(ZeroDivisionError):
        await thread.run(lambda: 1 // 0)


async def test_all_calls_run_in_one_thread_that_outlives_them() -> None:
    """What Ray starts locally ends with the thread that started it."""
    thread, threads = BlockingThread("test"), set()
    for _ in range(3):
        await thread.run(lambda: threads.add(threading.current_thread()))
    (only,) = threads
    assert only.is_alive()
    assert only.daemon


async def test_a_call_that_does_not_return_can_be_abandoned_and_the_loop_goes_on() -> None:
    thread, forever = BlockingThread("test"), threading.Event()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await thread.run(forever.wait)
    later = asyncio.create_task(thread.run(lambda: None))
    await asyncio.sleep(0)
    assert not later.done()
    forever.set()
    await asyncio.wait_for(later, 10)
