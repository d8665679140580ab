"""Looks after the tallies that somebody follows: all of them with one question, five times a second. Part of the client.

A watch of NATS's own would need the right to make consumers, which is a right to write anywhere. A direct get asks for
what has changed since the last look, so a look at many tallies that rest costs one small answer.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import suppress

from parley.broker.asyncio_helpers import cancel_all
from parley.broker.core.tally import Tally
from parley.broker.jetstream import topology
from parley.broker.jetstream.direct_reads import read_changed
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.tally_of_stored_message import tally_of

# Between two looks; and at least, where names are new.
LOOK_SECONDS, LEAST_SECONDS = 0.2, 0.02
# Tallies in one question: the server answers for at most 1,024 subjects.
NAMES_AT_ONCE = 500


class _Follower:
    """Who follows one tally. It holds the newest one only: who reads slowly misses what was between."""

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        self.tally: Tally | None = None
        # Where in the stream the newest tally is that it was told.
        self.seq = 0
        self.error: Exception | None = None
        self.changed = asyncio.Event()

    def tell(self, tally: Tally, seq: int) -> None:
        if seq != self.seq:
            self.tally, self.seq = tally, seq
            self.changed.set()

    def fail(self, error: Exception) -> None:
        self.error = error
        self.changed.set()


class TallyWatch:
    def __init__(self, jetstream: JetStream) -> None:
        self._jetstream = jetstream
        self._followers: dict[str, set[_Follower]] = {}
        # Names that no look has been at yet.
        self._new: set[str] = set()
        # Up to which place in the stream the other names have been looked at.
        self._seen = 0
        self._looking: asyncio.Task[None] | None = None
        # Set when a name is new: the next look does not wait.
        self._is_new = asyncio.Event()

    async def follow(self, task_id: str) -> AsyncGenerator[Tally, None]:
        """The tally now and whenever it has changed, until it names its ending. Raises StreamNotFound,
        BrokerUnavailable."""
        follower = _Follower(task_id)
        self._followers.setdefault(task_id, set()).add(follower)
        self._new.add(task_id)
        self._is_new.set()
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_on(), name="tally watch")
        try:
            while True:
                await follower.changed.wait()
                follower.changed.clear()
                if follower.error is not None:
                    raise follower.error
                tally, follower.tally = follower.tally, None
                if tally is not None:
                    yield tally
                    if tally.ending_seq is not None:
                        return
        finally:
            followers = self._followers.get(task_id, set())
            followers.discard(follower)
            if not followers:
                self._followers.pop(task_id, None)
                self._new.discard(task_id)

    async def close(self) -> None:
        if self._looking is not None:
            await cancel_all([self._looking])

    async def _look_on(self) -> None:
        """Look as long as anybody follows."""
        while self._followers:
            self._is_new.clear()
            try:
                await self._look()
            except Exception as error:
                for followers in self._followers.values():
                    for follower in followers:
                        follower.fail(error)
                self._followers.clear()
                self._new.clear()
                return
            await asyncio.sleep(LEAST_SECONDS)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS - LEAST_SECONDS):
                    await self._is_new.wait()

    async def _look(self) -> None:
        new, self._new = self._new, set()
        known = self._followers.keys() - new
        seen = self._seen
        try:
            first = await self._read(new, 0) if new else None
            later = await self._read(known, seen + 1) if known else None
        except BaseException:
            self._new |= new
            raise
        places = [place for place in (first, later) if place is not None]
        # What is stored between the two questions is read again, by the next look.
        self._seen = min(places, default=seen)

    async def _read(self, names: Iterable[str], since: int) -> int | None:
        """Tell who follows these names what is new. Returns up to which place that was looked at."""
        subjects = [topology.tally_subject(name) for name in sorted(names)]
        places = []
        for at in range(0, len(subjects), NAMES_AT_ONCE):
            changed, place = await read_changed(
                self._jetstream, topology.TALLIES, subjects[at : at + NAMES_AT_ONCE], since
            )
            places.append(place)
            for message in changed:
                if (tally := tally_of(message)) is not None:
                    for follower in self._followers.get(tally.task_id, ()):
                        follower.tell(tally, message.seq)
        return min(places, default=None)
