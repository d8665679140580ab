"""One read for all that wait, kept by weight, and nobody's cancellation is another's."""

import asyncio

import pytest

from parley.workers.shared_reads import SharedReads


def ANY(message: str) -> bool:  # noqa: N802  # a constant
    return True


class Stream:
    """Messages of 10 bytes, each its own number; reads wait until they may go on."""

    def __init__(self) -> None:
        self.reads: list[int] = []
        self.open = asyncio.Event()
        self.open.set()

    async def read(self, seq: int) -> tuple[str, int] | None:
        self.reads.append(seq)
        await self.open.wait()
        if seq == 13:
            raise OSError("away")
        return (f"message {seq}", 10) if seq else None


async def test_it_is_read_once_for_all_that_wait_and_kept() -> None:
    stream = Stream()
    stream.open.clear()
    shared = SharedReads(stream.read, 100)
    waiting = [asyncio.create_task(shared.get(1, ANY)) for _ in range(3)]
    await asyncio.sleep(0)
    stream.open.set()
    assert await asyncio.gather(*waiting) == ["message 1"] * 3
    assert await shared.get(1, ANY) == "message 1"
    assert stream.reads == [1]


async def test_what_is_not_there_and_what_failed_are_asked_for_again() -> None:
    stream = Stream()
    shared = SharedReads(stream.read, 100)
    assert await shared.get(0, ANY) is None
    assert await shared.get(0, ANY) is None
    for _ in range(2):
        with pytest.raises(OSError, match="away"):
            await shared.get(13, ANY)
    assert stream.reads == [0, 0, 13, 13]


async def test_one_that_is_cancelled_cancels_no_other() -> None:
    stream = Stream()
    stream.open.clear()
    shared = SharedReads(stream.read, 100)
    first, second = (asyncio.create_task(shared.get(1, ANY)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    stream.open.set()
    assert await second == "message 1"
    assert stream.reads == [1]


async def test_what_is_not_what_was_looked_for_is_read_anew() -> None:
    """After a store was lost a sequence is another message's."""
    stream = Stream()
    shared = SharedReads(stream.read, 100)
    await shared.get(1, ANY)
    assert await shared.get(1, lambda message: message == "another") is None
    assert await shared.get(1, ANY) == "message 1"
    assert stream.reads == [1, 1]
    shared.forget()
    await shared.get(1, ANY)
    assert stream.reads == [1, 1, 1]


async def test_only_so_many_bytes_are_kept() -> None:
    stream = Stream()
    shared = SharedReads(stream.read, 25)
    for seq in (1, 2, 3, 3, 1):
        await shared.get(seq, ANY)
    assert stream.reads == [1, 2, 3, 1]
    small = SharedReads(stream.read, 5)
    assert await small.get(4, ANY) == await small.get(4, ANY) == "message 4"
    assert stream.reads[-2:] == [4, 4]
