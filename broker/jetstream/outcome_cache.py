"""The outcomes of agents, read by their sequence in AGENT_RESPONSES, most of them without asking the server.

A process that counts an outcome remembers its bytes; composing the ending then finds most of them here.
"""

from contextlib import suppress

from cachetools import LRUCache

from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream

MAX_BYTES = 16 * 1024 * 1024
# Each entry takes about this much beside its payload, so empty outcomes are bounded too.
OVERHEAD_BYTES = 512


class OutcomeCache:
    """`max_bytes` bounds what is remembered; the outcomes used longest ago go first."""

    def __init__(self, jetstream: JetStream, *, max_bytes: int = MAX_BYTES) -> None:
        self._jetstream = jetstream
        # By sequence.
        self._recent: LRUCache[int, bytes] = LRUCache(max_bytes, getsizeof=_size)

    async def get(self, seq: int) -> bytes | None:
        """The payload of the outcome at `seq`, or None if the stream no longer holds it. Raises BrokerUnavailable."""
        data = self._recent.get(seq)
        if data is not None:
            return data
        message = await self._jetstream.get(topology.AGENT_RESPONSES, seq)
        return message.data if message is not None else None

    def remember(self, seq: int, data: bytes) -> None:
        """Keep the payload of an outcome that was just delivered."""
        with suppress(ValueError):  # larger than the whole cache
            self._recent[seq] = data

    def forget(self, seq: int) -> None:
        """No ending will need this outcome any more."""
        self._recent.pop(seq, None)


def _size(data: bytes) -> int:
    return OVERHEAD_BYTES + len(data)
