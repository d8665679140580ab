"""Done at a time; in order; and without a task where there is only one."""

import asyncio

import pytest

from parley.broker.concurrency import gather


async def _task() -> "asyncio.Task[None] | None":
    return asyncio.current_task()


async def test_one_needs_no_task_of_its_own() -> None:
    assert await gather([_task()]) == [asyncio.current_task()]


async def test_several_run_at_a_time_and_answer_in_order() -> None:
    met = asyncio.Barrier(3)

    async def meet(name: str) -> str:
        async with asyncio.timeout(10), met:
            return name

    assert await gather(map(meet, "abc")) == ["a", "b", "c"]


async def test_none_is_no_matter() -> None:
    assert await gather([]) == []


@pytest.mark.parametrize("others", [0, 2])
async def test_what_one_raises_is_raised(others: int) -> None:
    async def fail() -> None:
        raise LookupError("no")

    with pytest.raises(LookupError):
        await gather([*(asyncio.sleep(0) for _ in range(others)), fail()])
