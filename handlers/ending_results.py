"""The results of one ending as they are read: in memory while they fit into a message, then in an object."""

import logging

from parley.broker.core.errors import ObjectNotStored
from parley.broker.core.messages import AgentResult, ResultsRef
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.object_store import ObjectWriter

log = logging.getLogger("parley.handlers")


class EndingResults:
    """Results of one deliberation, added in the order of its agents. Holds at most `limit` bytes of them.

    `refused_seconds`: how long the object store is asked again while it refuses. Methods raise BrokerUnavailable while
    NATS is away.
    """

    def __init__(self, jetstream: JetStream, task_id: str, *, limit: int, refused_seconds: float) -> None:
        self._jetstream = jetstream
        self._task_id = task_id
        self._limit = limit
        self._refused_seconds = refused_seconds
        # How many there are, also of those for which there was no room.
        self.added = 0
        # All that were added, while they fit into a message.
        self._kept: list[AgentResult] = []
        # Bytes of `_kept`, or more; exact for those in `_encoded`.
        self._size = 0
        # The first of `_kept`, encoded to know their size.
        self._encoded: list[bytes] = []
        # The object, while there is one.
        self._writer: ObjectWriter | None = None
        # The object store took nothing.
        self._refused = False

    @property
    def kept(self) -> tuple[AgentResult, ...]:
        """All results, if they fit into a message; else none."""
        return tuple(self._kept)

    @property
    def lost(self) -> bool:
        """They do not fit into a message, and the object store takes nothing: more of them are of no use."""
        return self._refused and not self._kept

    async def add(self, result: AgentResult, size: int) -> None:
        """`size`: bytes of the outcome that it is from, which are more than its own."""
        self.added += 1
        if self.lost:
            return
        if self._writer is not None:
            await self._write(b"," + result.encode())
            return
        self._kept.append(result)
        self._size += size
        if self._size > self._limit:
            self._measure()
        if self._size > self._limit:
            await self._begin()
            self._kept, self._encoded = [], []

    async def refer(self) -> ResultsRef | None:
        """Have all results in an object, and return where. None if the object store takes nothing."""
        if self._writer is None and not self._refused:
            await self._begin()
        await self._write(b"]")
        if self._writer is None:
            return None
        try:
            return await self._writer.close()
        except ObjectNotStored as error:
            await self._give_up(error)
            return None

    async def abandon(self) -> None:
        """Remove what was written, if the work cannot go on."""
        if self._writer is not None:
            await self._writer.abandon()

    def _measure(self) -> None:
        self._encoded += [result.encode() for result in self._kept[len(self._encoded) :]]
        self._size = sum(len(result) + 1 for result in self._encoded)

    async def _begin(self) -> None:
        self._writer = ObjectWriter(
            self._jetstream, topology.RESULTS_BUCKET, self._task_id, refused_seconds=self._refused_seconds
        )
        self._measure()
        await self._write(b"[" + b",".join(self._encoded))

    async def _write(self, data: bytes) -> None:
        if self._writer is None:
            return
        try:
            await self._writer.write(data)
        except ObjectNotStored as error:
            await self._give_up(error)

    async def _give_up(self, error: ObjectNotStored) -> None:
        self._refused = True
        log.warning("the results of %s cannot be put aside: %s", self._task_id, error)
        await self.abandon()
        self._writer = None
