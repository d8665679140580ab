"""The outcomes of agents, read by their sequence in AGENT_RESPONSES, most of them without asking the server.

A process that counts an outcome remembers it; composing the ending then finds most of them here, and decodes none again.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import NamedTuple

from cachetools import LRUCache

from parley.broker.asyncio_helpers import WeightedSemaphore, gather
from parley.broker.core.backoff import backoff
from parley.broker.core.errors import BrokerUnavailable, InvalidMessage
from parley.broker.core.messages import AgentCompleted, AgentFailed, AgentOutcome, decode
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream

log = logging.getLogger("parley.handlers")

MAX_BYTES = 32 * 1024 * 1024
# Each entry takes about this much beside its texts (measured), so empty outcomes are bounded too.
OVERHEAD_BYTES = 4_500
# Outcomes on their way from the server at one time, over all endings, and those of one ending.
READING_BYTES = 16 * 1024 * 1024
TOGETHER_BYTES = 4 * 1024 * 1024
MIN_TOGETHER, MAX_TOGETHER = 4, 64
# A read that fails is made again this often: beginning the whole ending again would add to the load that it failed by.
READ_TRIES = 4
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 0.1, 2.0


class StoredOutcome(NamedTuple):
    """`size`: of its message, in bytes."""

    outcome: AgentOutcome
    size: int


class OutcomeCache:
    """`max_bytes` bounds what is remembered; the outcomes used longest ago go first."""

    def __init__(self, jetstream: JetStream, *, max_bytes: int = MAX_BYTES) -> None:
        self._jetstream = jetstream
        # By sequence.
        self._recent: LRUCache[int, StoredOutcome] = LRUCache(max_bytes, getsizeof=_weight)
        # Bytes that are being read, as far as that is known before they come: from the largest outcome so far.
        self._reading = WeightedSemaphore(READING_BYTES)
        self._largest = OVERHEAD_BYTES

    async def get(self, seq: int) -> StoredOutcome | None:
        """The outcome at `seq`; None if the stream no longer holds it, or holds what this version cannot read. Raises
        BrokerUnavailable."""
        found = self._recent.get(seq)
        if found is not None:
            return found
        message = await self._jetstream.get(topology.AGENT_RESPONSES, seq)
        if message is None:
            return None
        self._largest = max(self._largest, len(message.data))
        try:
            return StoredOutcome(outcome_of(message.subject, message.data), len(message.data))
        except InvalidMessage as error:
            # Another version counted it and read it differently.
            log.error("outcome %d of %s cannot be read any more: %s", seq, topology.AGENT_RESPONSES, error)
            return None

    async def in_order(self, seqs: Sequence[int]) -> AsyncGenerator[StoredOutcome | None, None]:
        """The outcomes at `seqs`, in this order, as `get` has them. Reads ahead, by TOGETHER_BYTES at most.

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
                    found = self._recent.get(seq)
                    yield found if found is not None else await self._read(seq)
                continue
            async with self._reading.holding(asked * self._largest):
                for found in await gather(map(self._read, group)):
                    yield found

    def size(self, seqs: Sequence[int]) -> int | None:
        """How many bytes the outcomes at `seqs` have together; None if one is not remembered."""
        found = [self._recent.get(seq) for seq in seqs]
        return None if None in found else sum(one.size for one in found if one is not None)

    async def _read(self, seq: int) -> StoredOutcome | None:
        for tried in range(1, READ_TRIES):
            try:
                return await self.get(seq)
            except BrokerUnavailable:
                await asyncio.sleep(backoff(tried, FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS))
        return await self.get(seq)

    def remember(self, seq: int, outcome: AgentOutcome, size: int) -> None:
        """Keep an outcome that was just delivered. `size`: of its message, in bytes."""
        self._largest = max(self._largest, size)
        with suppress(ValueError):  # larger than the whole cache
            self._recent[seq] = StoredOutcome(outcome, size)

    def forget(self, seq: int) -> None:
        """No ending will need this outcome any more."""
        self._recent.pop(seq, None)


def outcome_of(subject: str, body: bytes) -> AgentOutcome:
    """The outcome, by its subject. Raises InvalidMessage."""
    return decode(AgentCompleted, body) if subject == topology.AGENT_COMPLETED else decode(AgentFailed, body)


def _weight(stored: StoredOutcome) -> int:
    return OVERHEAD_BYTES + stored.size
