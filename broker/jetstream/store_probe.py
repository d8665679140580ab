"""A small write now and then into the streams that the promise needs, so that a full store is known without traffic.

A probe is a message of 4 KiB that the server removes after some seconds. Nothing is written where this process stored
something else meanwhile, so a busy service pays nothing.
"""

import asyncio

import nats.errors

from parley.broker.core.errors import BrokerUnavailable, RightMissing
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.topology import DELIBERATIONS, TALLIES, tally_subject, timer_subject

# Where tallies, deadlines and endings are stored. `!store` is no task_id: no deliberation has such a key or timer.
PROBED = {TALLIES: tally_subject("!store"), DELIBERATIONS: timer_subject("!store")}
# Seconds between two probes, and while the store refuses.
PROBE_SECONDS = 1.0
REFUSED_SECONDS = 0.5
# A full disk is told by silence: so long without an answer.
ANSWER_SECONDS = 1.5
# Bytes. More than a page of the disk, in which a small message may still find room; and, before the store counts as
# having room again, much more than what earlier probes leave behind when the server removes them.
WEIGHT, RESTORED_WEIGHT = 4_096, 32_768


class StoreProbe:
    def __init__(self, jetstream: JetStream) -> None:
        self._jetstream = jetstream
        # How much was stored in each stream when it was last looked at.
        self._seen = dict.fromkeys(PROBED, -1)
        # Why this user may not write, by stream.
        self._forbidden: dict[str, str] = {}
        jetstream.health.probed = frozenset(PROBED)

    @property
    def refusal(self) -> str | None:
        """Why tallies or endings cannot be stored now, or None."""
        return self._jetstream.health.refusal(PROBED) or next(iter(self._forbidden.values()), None)

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
        refuses = health.refusal([stream]) is not None
        if refuses or self._seen[stream] in (-1, health.count(stream)):
            # Readers of the bucket take a message without a body for a removed key, so the weight is in a header.
            headers = {"Nats-TTL": "5s", "Parley-Probe": "-" * (RESTORED_WEIGHT if refuses else WEIGHT)}
            try:
                await self._jetstream.publish(PROBED[stream], b"", headers=headers, seconds=ANSWER_SECONDS)
            except RightMissing as error:
                self._forbidden[stream] = str(error)
            except BrokerUnavailable:
                pass  # of a refusal, the JetStream object takes note
            else:
                self._forbidden.pop(stream, None)
                health.restored(stream)
        self._seen[stream] = health.count(stream)
