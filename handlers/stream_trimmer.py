"""Keeps streams from filling with what is long done. `trim_rules` decides what nobody needs, this purges it."""

import logging
import time
from contextlib import aclosing

from nats.js.api import StreamInfo

from parley.broker.jetstream import topology
from parley.broker.jetstream.consumer_floor import consumer_floor
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.provision import Findings
from parley.broker.jetstream.scan import scan
from parley.broker.jetstream.topology import Durable
from parley.broker.jetstream.trim_rules import Needed, first_unsettled, is_filling
from parley.handlers.deadline_rearm import BATCH, unfinished_tally

log = logging.getLogger("parley.handlers")

# It reads every tally, at 20,000 a second: no more often than this.
TRIM_SECONDS = 15.0
CONSUMERS: dict[str, tuple[Durable, ...]] = {
    topology.REQUESTS: (topology.INTAKE, topology.CANCELLER),
    topology.AGENT_RESPONSES: (topology.AGGREGATE,),
}


class Trimmer:
    def __init__(self, jetstream: JetStream) -> None:
        self._jetstream = jetstream
        # When it trimmed last (monotonic).
        self._trimmed_at = -TRIM_SECONDS

    async def on_look(self, found: Findings) -> None:
        """`found`: how full the streams are. Raises BrokerUnavailable."""
        filling = {
            name: info
            for name, info in found.streams.items()
            if info is not None and is_filling(info.state.bytes, info.config.max_bytes)
        }
        if not filling or time.monotonic() - self._trimmed_at < TRIM_SECONDS:
            return
        self._trimmed_at = time.monotonic()
        if topology.DEAD_LETTERS in filling:
            state = filling[topology.DEAD_LETTERS].state
            await self._purge(topology.DEAD_LETTERS, state.first_seq + state.messages // 2 + 1)
        if not CONSUMERS.keys() & filling.keys():
            return
        needed = await self._needed(found)
        if needed is None:
            return
        for name, first in (
            (topology.REQUESTS, needed.first_request),
            (topology.AGENT_RESPONSES, needed.first_outcome),
        ):
            if name in filling and first > filling[name].state.first_seq:
                await self._purge(name, first)

    async def _needed(self, found: Findings) -> Needed | None:
        """What is still needed; None if a tally can't be read, and so may need anything."""
        needed = Needed(
            await self._first_unsettled(topology.REQUESTS, found.streams[topology.REQUESTS]),
            await self._first_unsettled(topology.AGENT_RESPONSES, found.streams[topology.AGENT_RESPONSES]),
        )
        everything = scan(self._jetstream, topology.TALLIES, topology.tally_subject(">"), batch=BATCH)
        async with aclosing(everything) as tallies:
            async for message in tallies:
                unfinished = unfinished_tally(message)
                if unfinished is None:
                    continue
                _, tally = unfinished
                if tally is None:
                    return None
                needed.add(tally)
        return needed

    async def _first_unsettled(self, stream: str, info: StreamInfo | None) -> int:
        floors = [await consumer_floor(self._jetstream, durable) for durable in CONSUMERS[stream]]
        return first_unsettled(floors, info.state.last_seq if info is not None else 0)

    async def _purge(self, stream: str, first: int) -> None:
        """Remove what is before the sequence `first`."""
        with self._jetstream.translate_errors():
            await self._jetstream.js.purge_stream(stream, seq=first)
        log.warning("%s was over half of its limit: what is before message %d is removed", stream, first)
