"""The deadlines of the deliberations that this process recorded, counted for or armed in a sweep. Pure: callers pass `now`.

Most are dropped long before they are due, when the ending is marked. So an entry is removed from the dictionary at
once, and from the heap when it comes up, or when the heap is mostly such entries.
"""

import heapq
from typing import NamedTuple

# About 300 bytes each. Beyond it, new deadlines are the sweep's to look after.
MAX_WATCHED = 100_000
# A heap this much longer than what it must hold is made anew.
SLACK = 1_024


class Watched(NamedTuple):
    """`due`: when to look at it next. `request_seq`: its request's place in REQUESTS."""

    due: float
    request_seq: int


class DeadlineBook:
    """Instants are seconds since the epoch, by the server's clock."""

    def __init__(self, limit: int = MAX_WATCHED) -> None:
        self._limit = limit
        # By task_id, what is watched.
        self._watched: dict[str, Watched] = {}
        # When to look at which; with entries that are no longer watched.
        self._heap: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._watched)

    def add(self, task_id: str, due: float, request_seq: int) -> None:
        """Look at it once `due`; an earlier entry of that deliberation stays."""
        if task_id not in self._watched and len(self._watched) < self._limit:
            self._watched[task_id] = Watched(due, request_seq)
            heapq.heappush(self._heap, (due, task_id))

    def remove(self, task_id: str) -> None:
        """Its ending is marked."""
        if self._watched.pop(task_id, None) is not None and len(self._heap) > 2 * len(self._watched) + SLACK:
            self._heap = [(watched.due, name) for name, watched in self._watched.items()]
            heapq.heapify(self._heap)

    def take_due(self, now: float, most: int) -> list[tuple[str, Watched]]:
        """Remove and return up to `most` that are due, the earliest first."""
        taken: list[tuple[str, Watched]] = []
        while len(taken) < most and self._heap and self._heap[0][0] <= now:
            due, task_id = heapq.heappop(self._heap)
            watched = self._watched.get(task_id)
            if watched is not None and watched.due == due:
                del self._watched[task_id]
                taken.append((task_id, watched))
        return taken
