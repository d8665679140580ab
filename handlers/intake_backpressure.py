"""Takes in no more requests while the bucket of tallies is filling: what waits in REQUESTS costs no tally.

Every step of a deliberation, its ending too, writes its tally. In a full bucket an ending could not even be recorded,
so a part of its limit is for tallies that exist. When REQUESTS is full as well, NATS refuses a client's request.
"""

import logging
from typing import Any

from parley.broker.jetstream import topology
from parley.broker.jetstream.provision import Findings
from parley.broker.jetstream.tally_store import TallyStore
from parley.handlers.delivery import Delivery, Retry, Settlement
from parley.handlers.settle import Handle

log = logging.getLogger("parley.handlers")

# Of the bucket's limit. A tally grows by what its decision needs, two fifths of the smallest, and by its outcomes,
# each of which is ten times as large in AGENT_RESPONSES and so bounded there.
OPEN_SHARE = 0.6
# Under this much it counts as having room again: near the first it is closed and open in turns.
CALM_SHARE = 0.5
# Before a request that was not taken in is looked at again.
WAIT_SECONDS = 1.0


class Admission:
    """Around `handle`, which takes a request in. `tallies`: through which it does."""

    def __init__(self, tallies: TallyStore, handle: Handle) -> None:
        self._tallies = tallies
        self._handle = handle
        # How much the bucket may hold before it is closed, and what it held at the last look, in bytes.
        self._limit: float = float("inf")
        self._stored = 0
        # What this process had created by then.
        self._created = 0
        # Whether the log said last that it is filling.
        self._told = False

    async def on_look(self, found: Findings) -> None:
        bucket = found.streams[topology.TALLIES]
        if bucket is None:
            return
        limit = bucket.config.max_bytes or -1
        self._limit = OPEN_SHARE * limit if limit > 0 else float("inf")
        self._stored, self._created = bucket.state.bytes, self._tallies.created_bytes
        if not self.open and not self._told:
            self._tell(True, "is filling: requests wait until tallies are forgotten", limit)
        elif self._told and (limit <= 0 or self._stored < CALM_SHARE * limit):
            self._tell(False, "takes in requests again", limit)

    def _tell(self, filling: bool, state: str, limit: int) -> None:
        self._told = filling
        log.warning("the bucket of tallies %s (%d of %d bytes)", state, self._stored, limit)

    @property
    def open(self) -> bool:
        return self._stored + self._tallies.created_bytes - self._created < self._limit

    async def handle(self, delivery: Delivery[Any]) -> Settlement:
        return await self._handle(delivery) if self.open else Retry(WAIT_SECONDS)
