"""One worker's calls to a server with a limit that holds over all workers: each waits until there is room for it.

What all workers have taken is stored in NATS, and changed by compare-and-set (`shared_limit`). While NATS is away a
worker goes on within its share as long as that is its own, and then begins no more calls.
"""

import asyncio
import hashlib
import logging
import math
import random
import re
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from parley.broker.core.backoff import backoff
from parley.broker.core.errors import Conflict, Unavailable
from parley.workers.model.endpoint_address import Endpoint
from parley.workers.model.model_server import ModelServer
from parley.workers.model.shared_limit import (
    LEASE_SECONDS,
    PutRight,
    Taken,
    Turn,
    decoded,
    encoded,
    take_turn,
)

log = logging.getLogger("parley.workers")

# How often a share is renewed, how often it is asked whether another worker has let go of room, and how long at least
# between two turns: what happens meanwhile is told in one.
RENEW_SECONDS = 1.0
POLL_SECONDS = 0.2
GAP_SECONDS = 0.02
# Several workers that write at once wait for a random time before they try again, twice as long each time.
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.005, 0.5
# Calls that are not sure any more to be within the share, because it cannot be renewed, do not begin.
SURE_SECONDS = LEASE_SECONDS - 5.0
MAX_TRIES = 12


class _Busy(Exception):
    """Others write all the time: later."""


class Store(Protocol):
    """Where all workers see what each has taken. `LimitStore` is one."""

    async def read(self, name: str) -> tuple[bytes | None, int]: ...

    async def write(self, name: str, body: bytes, revision: int) -> int: ...


@dataclass(eq=False, slots=True)
class Place:
    """A call that waits, then runs. `tokens`: taken for it, at `second`. `used`: what it used, if its server said so."""

    tokens: int
    begun: asyncio.Future[None]
    second: int = 0
    used: int | None = None


class EndpointLimit:
    """Close it with `close`. `worker`: a name that no other worker has. `now`: since the epoch, by the NATS server."""

    def __init__(
        self,
        server: ModelServer,
        store: Store,
        worker: str,
        now: Callable[[], float],
    ) -> None:
        self._concurrency = server.concurrency
        self._tokens_per_minute = server.tokens_per_minute
        self._endpoint = server.endpoint
        self._name = stored_name(server.endpoint)
        self._store = store
        self._worker = worker
        self._now = now
        self._waiting: deque[Place] = deque()
        self._running = 0
        # What ended since the last turn.
        self._put_right: list[PutRight] = []
        # The share of the last turn, and until when it is sure.
        self._share = 0
        self._sure_until = -math.inf
        # What the others left at the last turn, and when there may be tokens again.
        self._room = 0
        self._tokens_at = -math.inf
        # What is stored, as far as it is known, and its revision.
        self._revision: int | None = None
        self._taken = Taken()
        # Something to be done before the next renewal.
        self._due = asyncio.Event()
        self._renewing: asyncio.Task[None] | None = None
        # Why it cannot be renewed; None while it can.
        self.problem: str | None = None

    async def close(self) -> None:
        """Let go of what is held. No call may begin after it."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
        self._waiting.clear()
        self._running = 0
        if self._worker in self._taken.shares or self._worker in self._taken.claims or self._put_right:
            with suppress(Unavailable):  # then it ends with its lease
                await self._turn()

    @property
    def has_room(self) -> bool:
        """Whether a call would begin soon, as far as this worker knows."""
        now = self._now()
        if now < self._tokens_at or (self._waiting and self._tokens_per_minute is not None):
            return False
        if self._concurrency is None:
            return True
        room = self._room if now < self._sure_until else self._concurrency
        return self._running + len(self._waiting) < room

    @asynccontextmanager
    async def place(self, tokens: int) -> AsyncIterator[Place]:
        """Room for one call that may use so many tokens. Waits for it; callers bound that."""
        place = Place(tokens, asyncio.get_running_loop().create_future())
        self._waiting.append(place)
        self._begin_waiting()
        if self._waiting:
            self._due.set()
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew(), name="endpoint-limit")
        try:
            await place.begun
            yield place
        finally:
            self._end(place)

    def _begin_waiting(self) -> None:
        """Begin what needs no turn: calls within the share of the last one. Tokens are taken in turns only."""
        while self._waiting and self._tokens_per_minute is None and self._running < self._share:
            if self._now() >= self._sure_until:
                return
            self._begin(self._waiting.popleft(), int(self._now()))

    def _begin(self, place: Place, second: int) -> None:
        """Begin it, unless its caller has left."""
        if place.begun.done():
            self._give_back(place, second, used=0)
            return
        place.second = second
        self._running += 1
        place.begun.set_result(None)

    def _end(self, place: Place) -> None:
        if not place.begun.done() or place.begun.cancelled():
            with suppress(ValueError):  # it was just taken out
                self._waiting.remove(place)
            return
        self._running -= 1
        if place.used is not None:
            self._give_back(place, place.second, place.used)
        self._begin_waiting()
        # Others may wait for room that is held here.
        is_over = self._concurrency is not None and self._running >= self._share
        if self._waiting or is_over:
            self._due.set()

    def _give_back(self, place: Place, second: int, used: int) -> None:
        if self._tokens_per_minute is not None:
            self._put_right.append(PutRight(second, used - min(place.tokens, self._tokens_per_minute)))

    # ── turns ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _renew(self) -> None:
        """Take turns while there is anything to begin, to hold or to put right, and one more to let go."""
        while True:
            self._due.clear()
            idle = not (self._running or self._waiting)
            pause = RENEW_SECONDS
            try:
                turn = await self._turn()
                self._tell(None)
                if self._waiting:
                    pause = POLL_SECONDS if turn.wait_seconds is None else min(pause, turn.wait_seconds)
            except _Busy:
                pause = POLL_SECONDS * (1 + random.random())
            except Unavailable as error:
                self._tell(str(error))
                await asyncio.sleep(RENEW_SECONDS)
            if idle and self.problem is None and not (self._running or self._waiting):
                return
            await asyncio.sleep(GAP_SECONDS)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._due.wait()

    async def _turn(self) -> Turn:
        """Raises Unavailable, and _Busy if others write all the time."""
        for tried in range(MAX_TRIES):
            if self._revision is None:
                body, self._revision = await self._store.read(self._name)
                self._taken = self._readable(body)
            waiting, put_right = list(self._waiting), list(self._put_right)
            began = self._now()
            turn = take_turn(
                self._taken,
                self._worker,
                running=self._running,
                waiting=[place.tokens for place in waiting],
                put_right=put_right,
                concurrency=self._concurrency,
                tokens_per_minute=self._tokens_per_minute,
                now=began,
            )
            # Until it is stored, no more than both shares allow.
            self._share = min(self._share, turn.share or 0)
            try:
                self._revision = await self._store.write(self._name, encoded(turn.taken), self._revision)
            except Conflict:
                self._revision = None
                longest = backoff(tried + 1, FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS)
                await asyncio.sleep(longest * random.random())
                continue
            except BaseException:
                # It may be stored. What was put right is not told again, where that would free tokens twice.
                self._revision = None
                self._put_right = [one for one in self._put_right if one not in put_right or one.tokens > 0]
                raise
            self._taken = turn.taken
            self._share, self._room = turn.share or 0, turn.room
            self._tokens_at = began + turn.wait_seconds if turn.wait_seconds is not None else -math.inf
            self._sure_until = began + SURE_SECONDS
            del self._put_right[: len(put_right)]
            if self._tokens_per_minute is None:
                self._begin_waiting()
                return turn
            for place in waiting[: turn.begin]:
                with suppress(ValueError):  # its caller has left
                    self._waiting.remove(place)
                self._begin(place, int(began))
            return turn
        raise _Busy

    def _readable(self, body: bytes | None) -> Taken:
        try:
            return decoded(body)
        except ValueError:
            log.warning("what is stored of the limit of %s cannot be read, and is replaced", self._endpoint)
            return Taken()

    def _tell(self, problem: str | None) -> None:
        if problem is not None and self.problem is None:
            log.warning("the limit of %s is not renewed: %s", self._endpoint, problem)
        elif problem is None and self.problem is not None:
            log.info("the limit of %s is renewed again", self._endpoint)
        self.problem = problem


def stored_name(endpoint: Endpoint) -> str:
    """The key of an endpoint's limit: legible, and without what its URL may hide."""
    legible = re.sub(r"[^A-Za-z0-9-]+", "-", endpoint.label).strip("-")
    return f"{legible}-{hashlib.blake2b(endpoint.identity.encode(), digest_size=6).hexdigest()}"
