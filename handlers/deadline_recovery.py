"""Arms deadlines again that may have been lost, or whose effects may have been.

An open deliberation ends by its deadline at the latest, and the deadline is a message that waits in a stream. If the
stream loses it (a purge, a write that was never synced), or if an ending was decided and never marked as published,
no message is left to trigger the rest. The same holds where two processes had one message: one acknowledged it as a
no-op, the other failed to carry out what it decided. So at the start, after every reconnect and every ten minutes,
each unfinished tally gets its deadline again. That deadline ends what is open and publishes what was decided, as
always.
"""

import asyncio
import logging
import re
import time
from contextlib import aclosing, suppress

import nats.errors
from nats.aio.msg import Msg
from pydantic import ValidationError

from parley.broker.core.messages import TASK_ID_PATTERN, describe
from parley.broker.core.tally import Tally
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.scan import scan
from parley.handlers.effects import EffectRunner

log = logging.getLogger("parley.handlers")

# Seconds between two sweeps: the longest that a deliberation without a deadline waits beyond it. A sweep reads 20,000
# tallies a second (docs/performance.md), so an hour's worth of a busy service costs seconds.
SWEEP_SECONDS = 600.0
# Tallies per request, about 1 KiB each. With bodies: asked for headers only, nats-server 2.15.1 crashes at a
# malformed one.
BATCH = 500
# Deadlines armed at a time.
AT_ONCE = 32
# Seconds after a decision before its deadline comes again: the mark may just be on its way. Longer than any handler's
# `ack_wait`, so that the message which decided it comes first, and no listener of core NATS hears an ending twice
# without need.
MARKING_SECONDS = 10.0
# Any client may write under the bucket's subjects.
_TASK_ID = re.compile(TASK_ID_PATTERN)


class DeadlineRecovery:
    def __init__(self, jetstream: JetStream, effects: EffectRunner) -> None:
        self._jetstream = jetstream
        self._effects = effects

    async def run(self) -> None:
        """Sweep now, after every reconnect and every `SWEEP_SECONDS`, until the connection is closed for good.

        Raises BrokerUnavailable.
        """
        connection = self._jetstream.nc
        while True:
            try:
                await connection.wait_connected()
            except nats.errors.ConnectionClosedError:
                return
            reconnects = connection.reconnects
            await self.sweep()
            with suppress(TimeoutError):
                async with asyncio.timeout(SWEEP_SECONDS):
                    await connection.wait_reconnected(reconnects)

    async def sweep(self) -> int:
        """Arm the deadline of every unfinished tally and return how many there are. Raises BrokerUnavailable."""
        began, armed, seen = time.monotonic(), 0, 0
        group: list[Tally] = []
        async with aclosing(
            scan(self._jetstream, topology.TALLIES, topology.tally_subject(">"), batch=BATCH)
        ) as tallies:
            async for message in tallies:
                seen += 1
                tally = _unfinished(message)
                if tally is None:
                    continue
                group.append(tally)
                if len(group) == AT_ONCE:
                    armed += await self._arm_all(group)
                    group = []
        armed += await self._arm_all(group)
        log.info("recovery: %d of %d tallies unfinished, %.1f s", armed, seen, time.monotonic() - began)
        return armed

    async def _arm_all(self, tallies: list[Tally]) -> int:
        now = self._effects.now()
        await asyncio.gather(*(self._effects.arm(tally, _due(tally, now)) for tally in tallies))
        return len(tallies)


def _unfinished(message: Msg) -> Tally | None:
    """The tally that this message holds, or None if it holds none or a finished one."""
    # The last write of a tally has a time to live, and a marker of a deletion has a header: both are known without
    # decoding.
    if {"Nats-TTL", "KV-Operation", "Nats-Marker-Reason"} & (message.headers or {}).keys():
        return None
    task_id = message.subject.removeprefix(topology.tally_subject(""))
    if not _TASK_ID.fullmatch(task_id):
        return None
    try:
        tally = Tally.model_validate_json(message.data)
    except ValidationError as error:  # written by another version or another client: the sweep goes on
        log.error("the tally of %s cannot be read: %s", task_id, describe(error))
        return None
    return tally if tally.ending_unpublished or not tally.ended else None


def _due(tally: Tally, now: float) -> float:
    """When its deadline is to come: at the same instant at every sweep, and never later than the deadline."""
    if tally.verdict is None:
        return tally.deadline
    due = max(now, tally.verdict.decided_at + MARKING_SECONDS)
    return min(due, tally.deadline) if tally.deadline > now else due
