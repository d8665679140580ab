"""The requests that jobs refer to, read from the stream REQUESTS once for all agents of a deliberation.

Small requests travel in each job. A large one would be copied up to 256 times, so its jobs name its place instead.
"""

import asyncio

from cachetools import LRUCache

from parley.broker.core import errors
from parley.broker.core.errors import InvalidMessage
from parley.broker.core.headers_and_ids import own_name
from parley.broker.core.messages import AgentRequested, DeliberationRequested, decode
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream

# Requests kept, by the size of their messages. They are kept decoded, at about twice that.
KEPT_BYTES = 16 * 1024 * 1024
# What a job that names its request leaves out.
LEFT_OUT = (
    "task_description", "constraints", "diversity", "metadata", "model", "temperature", "max_tokens", "seed", "stop",
)  # fmt: skip


class RequestGone(errors.ParleyError):
    """The request that a job refers to is not where it should be: a purge, or a stream made anew."""

    def __init__(self, task_id: str, seq: int) -> None:
        super().__init__(task_id, seq)
        self.task_id = task_id
        self.seq = seq

    def __str__(self) -> str:
        return f"the request of {self.task_id}, message {self.seq} of {topology.REQUESTS}, is not stored any more"


class RequestReader:
    def __init__(self, jetstream: JetStream) -> None:
        self._jetstream = jetstream
        # By sequence: the deliberation's name and its request, read lately.
        self._kept: LRUCache[int, tuple[str, DeliberationRequested, int]] = LRUCache(
            KEPT_BYTES, getsizeof=lambda kept: kept[2]
        )
        # By sequence: the reads that are under way. One for all jobs that wait for it.
        self._reading: dict[int, asyncio.Task[tuple[str, DeliberationRequested, int] | None]] = {}

    async def complete(self, work: AgentRequested) -> AgentRequested:
        """The work with all that it left out. Raises RequestGone, BrokerUnavailable."""
        seq = work.request_seq
        if seq is None:
            return work
        found = self._kept.get(seq) or await self._read_once(seq)
        if found is None or found[0] != work.task_id:
            raise RequestGone(work.task_id, seq)
        return work.model_copy(update={name: getattr(found[1], name) for name in LEFT_OUT})

    async def _read_once(self, seq: int) -> tuple[str, DeliberationRequested, int] | None:
        reading = self._reading.get(seq)
        if reading is None:
            reading = self._reading[seq] = asyncio.create_task(self._read(seq))
            reading.add_done_callback(lambda _: self._reading.pop(seq, None))
        return await asyncio.shield(reading)  # one job that is cancelled does not cancel it for the others

    async def _read(self, seq: int) -> tuple[str, DeliberationRequested, int] | None:
        stored = await self._jetstream.get(topology.REQUESTS, seq)
        if (
            stored is None
        ):  # what 0.1.0 left is in the other stream; the sequences of REQUESTS begin where those end
            stored = await self._jetstream.get(topology.DELIBERATIONS, seq)
        if stored is None or stored.subject != topology.REQUESTED:
            return None
        try:
            request = decode(DeliberationRequested, stored.data)
        except InvalidMessage:
            return None
        found = (request.task_id or own_name(seq), request, len(stored.data))
        if found[2] <= KEPT_BYTES:
            self._kept[seq] = found
        return found
