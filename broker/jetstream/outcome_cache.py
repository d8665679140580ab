"""The outcomes of agents, read by their sequence in AGENT_RESPONSES, most of them without asking the server.

A process that counts an outcome remembers its bytes; composing the ending then finds most of them here.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress

from cachetools import LRUCache

from parley.broker.asyncio_helpers import WeightedSemaphore, gather
from parley.broker.core.backoff import backoff
from parley.broker.core.errors import BrokerUnavailable
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream

MAX_BYTES = 16 * 1024 * 1024
# Each entry takes about this much beside its payload, so empty outcomes are bounded too.
OVERHEAD_BYTES = 512
# Outcomes on their way from the server at one time, over all endings, and those of one ending.
READING_BYTES = 16 * 1024 * 1024
TOGETHER_BYTES = 4 * 1024 * 1024
MIN_TOGETHER, MAX_TOGETHER = 4, 64
# A read that fails is made again this often: beginning the whole ending again would add to the load that it failed by.
READ_TRIES = 4
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 0.1, 2.0


class OutcomeCache:
    """`max_bytes` bounds what is remembered; the outcomes used longest ago go first."""

    def __init__(self, jetstream: JetStream, *, max_bytes: int = MAX_BYTES) -> None:
        self._jetstream = jetstream
        # By sequence.
        self._recent: LRUCache[int, bytes] = LRUCache(max_bytes, getsizeof=_size)
        # Bytes that are being read, as far as that is known before they come: from the largest outcome so far.
        self._reading = WeightedSemaphore(READING_BYTES)
        self._largest = OVERHEAD_BYTES

    async def get(self, seq: int) -> bytes | None:
        """The payload of the outcome at `seq`, or None if the stream no longer holds it. Raises BrokerUnavailable."""
        data = self._recent.get(seq)
        if data is not None:
            return data
        message = await self._jetstream.get(topology.AGENT_RESPONSES, seq)
        if message is None:
            return None
        self._largest = max(self._largest, len(message.data))
        return message.data

    async def in_order(self, seqs: Sequence[int]) -> AsyncGenerator[bytes | None, None]:
        """The payloads at `seqs`, in this order, as `get` has them. Reads ahead, by TOGETHER_BYTES at most.

        Use `contextlib.aclosing` if it may be left early. Raises BrokerUnavailable.
        """
        place = 0
        while place < len(seqs):
            count = max(MIN_TOGETHER, min(MAX_TOGETHER, TOGETHER_BYTES // self._largest))
            group = seqs[place : place + count]
            place += count
            asked = sum(seq not in self._recent for seq in group)
            if not asked:
                for seq in group:
                    data = self._recent.get(seq)
                    yield data if data is not None else await self._read(seq)
                continue
            async with self._reading.holding(asked * self._largest):
                for data in await gather(map(self._read, group)):
                    yield data

    def size(self, seqs: Sequence[int]) -> int | None:
        """How many bytes the outcomes at `seqs` have together; None if one is not remembered."""
        found = [self._recent.get(seq) for seq in seqs]
        return None if None in found else sum(len(data) for data in found if data is not None)

    async def _read(self, seq: int) -> bytes | None:
        for tried in range(1, READ_TRIES):
            try:
                return await self.get(seq)
            except BrokerUnavailable:
                await asyncio.sleep(backoff(tried, FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS))
        return await self.get(seq)

    def remember(self, seq: int, data: bytes) -> None:
        """Keep the payload of an outcome that was just delivered."""
        self._largest = max(self._largest, len(data))
        with suppress(ValueError):  # larger than the whole cache
            self._recent[seq] = data

    def forget(self, seq: int) -> None:
        """No ending will need this outcome any more."""
        self._recent.pop(seq, None)


def _size(data: bytes) -> int:
    return OVERHEAD_BYTES + len(data)
