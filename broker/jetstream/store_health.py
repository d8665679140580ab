"""Whether JetStream stores what this process publishes, as the answers to its publishes say. No I/O.

`JetStream.publish` notes each answer, which costs one entry in a dictionary. `StoreProbe` writes where nothing else
does.
"""

import asyncio
import logging
import time
from collections.abc import Iterable

log = logging.getLogger("parley.broker")

# A stream at its own limit refuses and stores in turns, as what is settled leaves it. It stores again once it has
# refused nothing for this long.
CALM_SECONDS = 5.0


class StoreHealth:
    def __init__(self) -> None:
        # Messages stored, by stream.
        self._stored: dict[str, int] = {}
        # Why each stream that refuses does so.
        self._refusals: dict[str, str] = {}
        # When each of them refused last (monotonic).
        self._refused_at: dict[str, float] = {}
        # Since when each stream acknowledges nothing (monotonic).
        self._silent_since: dict[str, float] = {}
        # Streams whose refusal only `restored` ends: a small message may find room where a larger one does not.
        self.probed: frozenset[str] = frozenset()
        # How often a stream that refused stored again.
        self.restorations = 0
        # Set and replaced at each of them.
        self._restored = asyncio.Event()

    def stored(self, stream: str) -> None:
        self._stored[stream] = self._stored.get(stream, 0) + 1
        if self._silent_since:
            self._silent_since.pop(stream, None)
        if (
            stream in self._refusals
            and stream not in self.probed
            and time.monotonic() - self._refused_at[stream] >= CALM_SECONDS
        ):
            self.restored(stream)

    def restored(self, stream: str) -> None:
        """There is room again, if it was refused before."""
        if self._refusals.pop(stream, None) is not None:
            log.warning("JetStream stores again in %s", stream)
            self.restorations += 1
            self._restored.set()
            self._restored = asyncio.Event()

    def refused(self, stream: str, reason: str) -> None:
        """Logged once for as long as it lasts: every message that cannot be stored says the same."""
        if stream not in self._refusals:
            log.error("%s: %s", stream, reason)
        self._refusals[stream] = reason
        self._refused_at[stream] = time.monotonic()

    def is_silent_again(self, stream: str, began: float) -> bool:
        """Note that a write which began then (monotonic) was not acknowledged. Whether one before it was not either: of
        several servers, one that stood still may have kept a single write to itself."""
        return began > self._silent_since.setdefault(stream, time.monotonic())

    def count(self, stream: str) -> int:
        """How many messages this process has stored in `stream`."""
        return self._stored.get(stream, 0)

    def refusal(self, streams: Iterable[str]) -> str | None:
        """Why the first of these streams that refuses does so, or None."""
        return next((self._refusals[stream] for stream in streams if stream in self._refusals), None)

    async def wait_restored(self, seen: int) -> int:
        """Return the count of restorations once it differs from `seen`."""
        while self.restorations == seen:
            await self._restored.wait()
        return self.restorations
