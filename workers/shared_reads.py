"""Messages of a stream, read once for all jobs that need them at about the same time, and kept for those that come next."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from cachetools import LRUCache

Value = TypeVar("Value")


class SharedReads(Generic[Value]):
    """`read`: the message at a sequence, decoded, and its bytes; None if it is not there, or is none of these.
    `kept_bytes`: of messages that are kept, decoded, at about twice that. Those used longest ago go first."""

    def __init__(self, read: Callable[[int], Awaitable[tuple[Value, int] | None]], kept_bytes: int) -> None:
        self._read = read
        self._kept: LRUCache[int, tuple[Value, int]] = LRUCache(kept_bytes, getsizeof=lambda kept: kept[1])
        # By sequence: the reads that are under way. One for all jobs that wait for it.
        self._reading: dict[int, asyncio.Task[tuple[Value, int] | None]] = {}

    def forget(self) -> None:
        """Keep nothing of what was read: the stream may have been made anew, and its sequences begin again."""
        self._kept.clear()

    def keep(self, seq: int, value: Value, size: int) -> None:
        """Keep what the caller knows to be at `seq`. `size`: of its message in bytes."""
        if size <= self._kept.maxsize:
            self._kept[seq] = value, size

    async def get(self, seq: int, is_right: Callable[[Value], bool]) -> Value | None:
        """`is_right`: whether it is what the caller is looking for. What was kept is read anew if it is not. Raises what
        `read` raises."""
        value = self.kept(seq, is_right)
        if value is not None:
            return value
        reading = self._reading.get(seq)
        if reading is None:
            reading = self._reading[seq] = asyncio.create_task(self._read_and_keep(seq))
            reading.add_done_callback(lambda _: self._reading.pop(seq, None))
        found = await asyncio.shield(reading)  # one job that is cancelled does not cancel it for the others
        return found[0] if found is not None and is_right(found[0]) else None

    def kept(self, seq: int, is_right: Callable[[Value], bool]) -> Value | None:
        """As `get`, of what needs no reading."""
        found = self._kept.get(seq)
        if found is None:
            return None
        if is_right(found[0]):
            return found[0]
        del self._kept[seq]
        return None

    async def _read_and_keep(self, seq: int) -> tuple[Value, int] | None:
        found = await self._read(seq)
        if found is not None:
            self.keep(seq, *found)
        return found
