"""Bounds the memory that large answers take: few calls of a worker have one at a time, from its reading until its outcome
is stored.

256 answers of 900 KB at once took 1.7 GiB (measured): each is in memory as bytes, as text, at four bytes a character if
one character needs them, and encoded. Answers of ordinary length cost nothing here.
"""

import asyncio
from contextvars import ContextVar

# Bytes of a body from which on a call waits for its turn. More than any answer of usual length: 60,000 tokens.
LARGE_BYTES = 256 * 1024
# Large answers in memory at a time, each of at most `MAX_ANSWER_BYTES` of `responses.py`.
AT_ONCE = 8


class LargeAnswer:
    """The place of one job among those with a large answer. Taken once, however often the model is called.

    `with LargeAnswer(places):` around the job: it, and every task that is created in the block, keep the place until the
    block ends.
    """

    __slots__ = ("_over", "_places", "_taken", "_token")

    def __init__(self, places: asyncio.Semaphore) -> None:
        self._places = places
        # Whether this job has a place, and whether it is over: a probe that it began may still read.
        self._taken = self._over = False

    def __enter__(self) -> None:
        self._token = _JOB.set(self)

    def __exit__(self, *exc: object) -> None:
        _JOB.reset(self._token)
        self._over = True
        if self._taken:
            self._taken = False
            self._places.release()

    async def take(self) -> None:
        if not self._wanted():
            return
        await self._places.acquire()
        if self._wanted():
            self._taken = True
        else:
            self._places.release()

    def _wanted(self) -> bool:
        return not self._taken and not self._over


# Of the job that the running task works for.
_JOB: ContextVar[LargeAnswer | None] = ContextVar("_JOB", default=None)


async def wait_turn(size: int) -> None:
    """Go on reading a body of which `size` bytes have come. Returns at once unless that is large."""
    answer = _JOB.get() if size >= LARGE_BYTES else None
    if answer is not None:
        await answer.take()
