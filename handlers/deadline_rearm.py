"""Arms deadlines again that may have been lost, or whose effects may have been.

An open deliberation ends by its deadline at the latest, and the deadline is a message that waits in a stream. If the
stream loses it (a purge, a write that was never synced), or if an ending was decided and never marked as published,
no message is left to trigger the rest. The same holds where two processes had one message: one acknowledged it as a
no-op, the other failed to carry out what it decided. So at the start and after every reconnect each unfinished tally
gets its deadline again. That deadline ends what is open and publishes what was decided, as always.

`DeadlineWatch` finds most of these sooner: this is for what no running process remembers. A sweep follows a store that
was full, too. In between, sweeps now and then arm only what is overdue, which is nothing as a rule.
"""

import asyncio
import logging
import math
import re
import time
from collections.abc import Coroutine
from contextlib import aclosing
from typing import Any

import nats.errors
from nats.aio.msg import Msg
from pydantic import ValidationError

from parley.broker.core.errors import StoreFull
from parley.broker.core.messages import TASK_ID_PATTERN, describe
from parley.broker.core.tally import Tally
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.scan import scan
from parley.handlers.effects import EffectRunner
from parley.handlers.overdue_deadlines import MARKING_SECONDS, OVERDUE_SECONDS, DeadlineWatch

log = logging.getLogger("parley.handlers")

# Seconds between two sweeps: the longest that a deliberation which no process remembers waits beyond its deadline. A
# sweep takes at most one part in SHARE of the time: with 100,000 tallies kept it takes 5 to 8 s (measured; 10,000 of
# them unfinished) and comes every four to seven minutes; with some thousands it comes every LEAST_SWEEP_SECONDS.
LEAST_SWEEP_SECONDS = 30.0
SWEEP_SECONDS = 600.0
# More than a sweep takes for one tally.
MOST_TALLY_SECONDS = 0.001
SHARE = 50
# Tallies per request, about 1 KiB each. With bodies: asked for headers only, nats-server 2.15.1 crashes at a
# malformed one.
BATCH = 500
# Deadlines armed at a time.
AT_ONCE = 32
# Any client may write under the bucket's subjects.
_TASK_ID = re.compile(TASK_ID_PATTERN)


class DeadlineRecovery:
    def __init__(self, jetstream: JetStream, effects: EffectRunner, watch: DeadlineWatch) -> None:
        self._jetstream = jetstream
        self._effects = effects
        self.watch = watch
        # Tallies of the last sweep.
        self._seen = 0

    async def run(self) -> None:
        """Sweep now, after every reconnect, once a full store has room again, and at an interval that a sweep's cost
        decides, until the connection is closed for good.

        Raises BrokerUnavailable.
        """
        connection, health = self._jetstream.nc, self._jetstream.health
        seen: tuple[int, int] | None = None
        while True:
            try:
                await connection.wait_connected()
            except nats.errors.ConnectionClosedError:
                return
            reconnects, restorations = connection.reconnects, health.restorations
            regular, seen = seen == (reconnects, restorations), (reconnects, restorations)
            began = time.monotonic()
            try:
                await self.watch.look()  # first: what it ends needs no deadline
                await self.sweep(only_overdue=regular)
            except StoreFull:
                pass  # logged once; what could not be armed is, once there is room
            # An answer that was lost is waited for, and costs nothing.
            cost = min(time.monotonic() - began, self._seen * MOST_TALLY_SECONDS)
            interval = min(SWEEP_SECONDS, max(LEAST_SWEEP_SECONDS, SHARE * cost))
            await _first(
                interval, connection.wait_reconnected(reconnects), health.wait_restored(restorations)
            )

    async def sweep(self, *, only_overdue: bool = False) -> int:
        """Arm the deadline of every unfinished tally, or of those that are overdue, and return of how many. Raises
        BrokerUnavailable."""
        began, armed, seen = time.monotonic(), 0, 0
        until = self._effects.now() - OVERDUE_SECONDS if only_overdue else math.inf
        group: list[tuple[str, Tally | None]] = []
        async with aclosing(
            scan(self._jetstream, topology.TALLIES, topology.tally_subject(">"), batch=BATCH)
        ) as tallies:
            async for message in tallies:
                seen += 1
                unfinished = unfinished_tally(message)
                if unfinished is None or _since(unfinished[1]) > until:
                    continue
                group.append(unfinished)
                if len(group) == AT_ONCE:
                    armed += await self._arm_all(group)
                    group = []
        armed += await self._arm_all(group)
        self._seen = seen
        say = log.debug if only_overdue and not armed else log.info
        say("recovery: armed %d deadlines for %d tallies, %.1f s", armed, seen, time.monotonic() - began)
        return armed

    async def _arm_all(self, found: list[tuple[str, Tally | None]]) -> int:
        now = self._effects.now()

        async def arm(task_id: str, tally: Tally | None) -> None:
            if tally is None:  # its deadline finds that it cannot be read, and ends it
                await self._effects.arm_for(task_id, None, now)
            else:
                if tally.verdict is None:
                    # The process that recorded it may be dead, and the timer be lost while the store is full.
                    self._effects.deadlines.add(task_id, tally.limit, tally.request_seq)
                await self._effects.arm(tally, _due(tally, now))

        await asyncio.gather(*(arm(task_id, tally) for task_id, tally in found))
        return len(found)


async def _first(seconds: float, *events: Coroutine[Any, Any, Any]) -> None:
    """Return once one of these has happened, or `seconds` have passed."""
    waiting = [asyncio.create_task(event) for event in events]
    try:
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()


def unfinished_tally(message: Msg) -> tuple[str, Tally | None] | None:
    """The task_id and the tally that this message holds, without the tally if it cannot be read; None if it holds
    none or a finished one."""
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
        return task_id, None
    return (task_id, tally) if tally.ending_unpublished or not tally.ended else None


def _since(tally: Tally | None) -> float:
    """From when on it is overdue; one that cannot be read always is."""
    if tally is None:
        return -math.inf
    return tally.limit if tally.verdict is None else tally.verdict.decided_at + MARKING_SECONDS


def _due(tally: Tally, now: float) -> float:
    """When its deadline is to come: at the same instant at every sweep, and never later than the deadline. An unfinished one's phase has a limit of its own."""
    if tally.verdict is None:
        return tally.limit
    due = max(now, tally.verdict.decided_at + MARKING_SECONDS)
    return min(due, tally.deadline) if tally.deadline > now else due
