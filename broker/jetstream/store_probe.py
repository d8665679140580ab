"""A small write now and then into the streams that the promise needs, so that a full store is known without traffic.

A probe is an empty message that the server removes after some seconds. Nothing is written where this process stored
something else meanwhile, so a busy service pays nothing.
"""

import asyncio
from contextlib import suppress

import nats.errors

from parley.broker.core.errors import BrokerUnavailable
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.topology import DELIBERATIONS, TALLIES, tally_subject, timer_subject

# Where tallies, deadlines and endings are stored. `!store` is no task_id: no deliberation has such a key or timer.
PROBED = {TALLIES: tally_subject("!store"), DELIBERATIONS: timer_subject("!store")}
# Seconds between two probes, and while the store refuses.
PROBE_SECONDS = 2.0
REFUSED_SECONDS = 0.5
# A full disk is told by silence: so long without an answer.
ANSWER_SECONDS = 2.0
_HEADERS = {"Nats-TTL": "5s"}


class StoreProbe:
    def __init__(self, jetstream: JetStream) -> None:
        self._jetstream = jetstream
        # How much was stored in each stream when it was last looked at.
        self._seen = dict.fromkeys(PROBED, -1)

    @property
    def refusal(self) -> str | None:
        """Why tallies or endings cannot be stored now, or None."""
        return self._jetstream.health.refusal(PROBED)

    async def run(self) -> None:
        """Probe until the connection is closed for good."""
        while True:
            try:
                await self._jetstream.nc.wait_connected()
            except nats.errors.ConnectionClosedError:
                return
            await self.probe()
            await asyncio.sleep(PROBE_SECONDS if self.refusal is None else REFUSED_SECONDS)

    async def probe(self) -> str | None:
        """Write where nothing was stored since the last time. Returns why that is refused, or None."""
        await asyncio.gather(*map(self._probe, PROBED))
        return self.refusal

    async def _probe(self, stream: str) -> None:
        health = self._jetstream.health
        if health.count(stream) == self._seen[stream] or self._seen[stream] < 0:
            with suppress(BrokerUnavailable):  # of a refusal, the JetStream object takes note
                await self._jetstream.publish(PROBED[stream], b"", headers=_HEADERS, seconds=ANSWER_SECONDS)
        self._seen[stream] = health.count(stream)
