"""Deadlines armed anew, for what may have been lost with a server's power or by an operator's hand.

An open deliberation ends by its deadline at the latest, and the deadline is a message that waits in the stream. Should the stream
have lost it (a purge, a write that was never synced), or should an ending have been decided and never marked as published, nothing
would come to remind anybody. The same where a message was in two hands at once: one acknowledged what the other then failed to carry
out. So at the start, whenever NATS came back, and now and then, every tally that is not finished has its deadline armed again. That
deadline then does what it always does: ends what is open, publishes what was decided, and nothing else.
"""

import asyncio
import logging
import re
import time
from contextlib import aclosing

from nats.aio.msg import Msg
from pydantic import ValidationError

from parley.broker.core.errors import ParleyError
from parley.broker.core.messages import TASK_ID_PATTERN, describe
from parley.broker.core.tally import Tally
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.scan import scan
from parley.handlers.effects import EffectRunner

log = logging.getLogger("parley.handlers")

# How often to look whether NATS went and came back.
LOOK_SECONDS = 1.0
# How often to sweep although nothing is known to have happened: the longest that a deliberation nobody is reminded of waits beyond
# its deadline. A sweep reads 20,000 tallies a second (docs/performance.md), so an hour's worth of a busy service costs seconds.
SWEEP_SECONDS = 600.0
# Tallies asked for at a time, about 1 KiB each. Whole: asked for headers only, nats-server 2.15.1 falls over a malformed one.
BATCH = 500
# Deadlines armed at a time.
AT_ONCE = 32
# What was decided and not marked may just be on its way. Longer than any handler's `ack_wait`, so that whoever has it comes first
# and no listener hears an ending twice for our haste.
MARKING_SECONDS = 10.0
# Others may write what they like under the bucket's subjects.
_TASK_ID = re.compile(TASK_ID_PATTERN)


class Recover:
    def __init__(self, wire: JetStream, performer: EffectRunner) -> None:
        self._wire = wire
        self._performer = performer

    async def run(self) -> None:
        """Sweep now, after every reconnect and every `SWEEP_SECONDS`, until cancelled."""
        swept, due = -1, 0.0
        while True:
            connects = self._wire.nc.stats["reconnects"]
            if self._wire.connected and (connects != swept or time.monotonic() >= due):
                try:
                    await self.sweep()
                    swept, due = connects, time.monotonic() + SWEEP_SECONDS
                except ParleyError as error:
                    log.warning("recovery is tried again: %s", error)
                except Exception:  # whatever it was, to recover nothing from now on would be worse
                    log.exception("recovery failed through a bug, and is tried again")
            await asyncio.sleep(LOOK_SECONDS)

    async def sweep(self) -> int:
        """Arm the deadline of every tally that is not finished; how many. Raises BrokerUnavailable."""
        began, armed, seen = time.monotonic(), 0, 0
        group: list[Tally] = []
        async with aclosing(
            scan(self._wire, topology.TALLIES, topology.tally_subject(">"), batch=BATCH)
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
        now = time.time()
        await asyncio.gather(*(self._performer.arm(tally, _due(tally, now)) for tally in tallies))
        return len(tallies)


def _unfinished(message: Msg) -> Tally | None:
    """The tally this message holds, if it is one and something is still to come of it."""
    # The last write of a tally has its time to live; markers of what was deleted say so. Neither costs a look inside.
    if {"Nats-TTL", "KV-Operation", "Nats-Marker-Reason"} & (message.headers or {}).keys():
        return None
    task_id = message.subject.removeprefix(topology.tally_subject(""))
    if not _TASK_ID.fullmatch(task_id):
        return None
    try:
        tally = Tally.model_validate_json(message.data)
    except (
        ValidationError
    ) as error:  # another version's, or nobody's of ours: no reason to leave the others alone
        log.error("the tally of %s cannot be read: %s", task_id, describe(error))
        return None
    return tally if tally.ending_unpublished or not tally.ended else None


def _due(tally: Tally, now: float) -> float:
    """When its deadline is to come. The same at every sweep, and never later than it was."""
    if tally.verdict is None:
        return tally.deadline
    due = max(now, tally.verdict.decided_at + MARKING_SECONDS)
    return min(due, tally.deadline) if tally.deadline > now else due
