"""The tallies that a process read or wrote last, bounded by the memory that they take."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from parley.broker.core.tally import Tally
from parley.broker.jetstream.jetstream import StoredMessage

MAX_BYTES = 32 * 1024 * 1024
# A tally that was not used for so long has probably been ended by another process.
UNUSED_SECONDS = 600.0
# What a tally takes in memory beside its JSON (measured with tracemalloc, rounded up): 2.5 KiB for itself, and for each of
# these. The JSON of 1,250 entries of metadata is 13 KiB, and they take 168 KiB.
_BASE, _ENTRY, _AGENT, _OUTCOME = 2_560, 140, 80, 600


@dataclass(frozen=True, slots=True)
class Entry:
    """A tally, and the revision it was read at. Revision 0: the key has never been written.

    `unreadable`: what is stored there and is no tally that this version can read.
    """

    tally: Tally | None
    revision: int
    unreadable: StoredMessage | None = None


class TallyCache:
    """The tallies used longest ago go first. `now`: seconds on a clock that never goes back."""

    def __init__(self, *, max_bytes: int = MAX_BYTES, now: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._now = now
        # By task_id, those used longest ago first: each with its weight, and when it was used last.
        self._entries: OrderedDict[str, tuple[Entry, int, float]] = OrderedDict()
        # The weights together.
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, task_id: str) -> Entry | None:
        found = self._entries.get(task_id)
        if found is None:
            return None
        entry, weight, _ = found
        self._entries[task_id] = entry, weight, self._now()
        self._entries.move_to_end(task_id)
        return entry

    def put(self, task_id: str, entry: Entry, json_bytes: int) -> None:
        """Keep `entry`, whose tally has `json_bytes` as JSON."""
        self.drop(task_id)
        now, weight = self._now(), _weight(entry, json_bytes)
        if weight <= self._max_bytes:
            self._entries[task_id] = entry, weight, now
            self.held_bytes += weight
        while self._entries and (self.held_bytes > self._max_bytes or self._is_unused(now)):
            _, (_, weight, _) = self._entries.popitem(last=False)
            self.held_bytes -= weight

    def _is_unused(self, now: float) -> bool:
        _, _, used = next(iter(self._entries.values()))
        return now - used > UNUSED_SECONDS

    def drop(self, task_id: str) -> None:
        """Forget this tally, if it is here."""
        found = self._entries.pop(task_id, None)
        if found is not None:
            self.held_bytes -= found[1]


def _weight(entry: Entry, json_bytes: int) -> int:
    tally = entry.tally
    if tally is None:
        return _BASE
    parts = sum(_AGENT * len(phase.agents) + _OUTCOME * len(phase.outcomes) for phase in tally.all_phases)
    return _BASE + json_bytes + _ENTRY * len(tally.metadata) + parts
