"""A durable pull consumer of the modelled server: its pull requests, and the messages that are not acknowledged."""

import asyncio
import json
import random
from collections import deque
from collections.abc import Callable
from typing import Protocol

from parley.broker.jetstream import topology
from parley.broker.jetstream.topology import Durable
from parley.handlers.pull_window import COMPLETED, EXPIRED, TOO_LARGE
from tests.simulation.stream import Kept, Stream

# The status of a request that ends with bytes left, or with too few.
CONFLICT = "409"
# Of the reply subject of a delivery; the server counts it.
_REPLY_BYTES = 70


def size_of(kept: Kept) -> int:
    """What counts against the bytes of a request."""
    headers = sum(len(key) + len(value) + 4 for key, value in kept.headers.items())
    return len(kept.data) + len(kept.subject) + _REPLY_BYTES + 12 + headers


class Puller(Protocol):
    """One pull subscriber of one process."""

    def ask(self) -> None: ...

    def on_status(self, status: str, pending: int, pending_bytes: int, description: str) -> None: ...


class PullRequest:
    """A request that waits at the server. `left`: messages it may still bring, of `left_bytes` together (None: any)."""

    __slots__ = ("left", "left_bytes", "puller")

    def __init__(self, puller: Puller, left: int, left_bytes: int | None) -> None:
        self.puller = puller
        self.left = left
        self.left_bytes = left_bytes


class Unsettled:
    """A message that was delivered and is not settled. `count`: its deliveries. `timer`: its next one."""

    __slots__ = ("count", "timer")

    def __init__(self) -> None:
        self.count = 0
        self.timer: asyncio.TimerHandle | None = None


class Consumer:
    """`send` carries a delivery to a puller, and may lose it on the way."""

    def __init__(
        self,
        durable: Durable,
        stream: Stream,
        rng: random.Random,
        send: Callable[["Consumer", Puller, Kept, int], None],
    ) -> None:
        self.durable = durable
        self.stream = stream
        self.ack_wait = float(topology.consumer(durable).ack_wait or topology.ACK_WAIT_SECONDS)
        # The subscribers of living processes.
        self.pullers: list[Puller] = []
        # Pull requests that wait. One expires only where a fault makes the difference: otherwise its puller would at
        # once make the same request again.
        self.requests: list[PullRequest] = []
        self.handed: dict[int, Unsettled] = {}
        self.redelivered = 0
        self._waiting: deque[int] = deque()
        self._again: deque[int] = deque()
        self._delivered_to = 0
        # A status that ends a request may lead to another request at once.
        self._serving = False
        # It was deleted, and is not made again yet.
        self._lost = False
        self._rng = rng
        self._send = send

    def wants(self, subject: str) -> bool:
        wanted = self.durable.filter
        return subject.startswith(wanted[:-1]) if wanted.endswith("*") else subject == wanted

    @property
    def pending(self) -> int:
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        return not self._waiting and not self.handed and not self._lost

    @property
    def ack_floor(self) -> int:
        return min(self.handed) - 1 if self.handed else self._delivered_to

    def comes(self, after: Kept) -> bool:
        """Whether another message of this subject, stored later, is still unsettled."""
        unsettled = (self.stream.messages[seq] for seq in (*self.handed, *self._waiting) if seq > after.seq)
        return any(kept.subject == after.subject for kept in unsettled)

    def stored(self, seq: int) -> None:
        self._waiting.append(seq)
        self._serve()

    def lose(self) -> None:
        """It is deleted: what was delivered is as unknown as what was not."""
        self._lost = True
        for unsettled in self.handed.values():
            if unsettled.timer is not None:
                unsettled.timer.cancel()
        self.handed.clear()
        self._waiting.clear()
        self._again.clear()

    def make_again(self) -> None:
        """From the beginning of its stream, as `provision` does: what is older than a day is in no history."""
        self._lost = False
        self._delivered_to = 0
        self._waiting.extend(seq for seq, kept in self.stream.messages.items() if self.wants(kept.subject))
        self._waiting = deque(sorted(set(self._waiting)))
        self._serve()

    # ── pull requests ─────────────────────────────────────────────────────────────────────────────────────────────

    def request(self, puller: Puller, count: int, max_bytes: int | None = None) -> None:
        self.requests.append(PullRequest(puller, count, max_bytes))
        self._serve()

    def requested(self, puller: Puller) -> int:
        """Messages that a puller has requested and that were not sent."""
        return sum(request.left for request in self.requests if request.puller is puller)

    def expire(self, puller: Puller) -> None:
        """End the requests of a puller, with a status for it."""
        left = self.requested(puller)
        left_bytes = sum(request.left_bytes or 0 for request in self.requests if request.puller is puller)
        self.forget(puller)
        if left:
            puller.on_status(EXPIRED, left, left_bytes, "Request Timeout")

    def forget(self, puller: Puller) -> None:
        """Its connection is lost, and its requests with it."""
        self.requests = [request for request in self.requests if request.puller is not puller]

    def pump(self) -> None:
        """Subscribers ask for what they have room for, and the server sends what is there."""
        for puller in self.pullers:
            puller.ask()
        self._serve()

    def use(self, among: list[PullRequest], size: int = 0) -> Puller:
        """Send a message to one of these requests: to which puller it goes."""
        request = among[0] if len(among) == 1 else self._rng.choice(among)
        request.left -= 1
        if request.left_bytes is not None:
            request.left_bytes -= size
        if not request.left:
            self.requests.remove(request)
            if request.left_bytes:
                request.puller.on_status(CONFLICT, 0, request.left_bytes, COMPLETED)
        return request.puller

    def _serve(self) -> None:
        if self._serving or self._lost:
            return
        self._serving = True
        try:
            self._serve_all()
        finally:
            self._serving = False

    def _refuse_small(self) -> None:
        """End the requests whose bytes are too few for the next message."""
        kept = self.stream.messages.get((self._again or self._waiting)[0])
        size = size_of(kept) if kept is not None else 0
        for request in [one for one in self.requests if one.left_bytes is not None and one.left_bytes < size]:
            self.requests.remove(request)
            request.puller.on_status(CONFLICT, request.left, request.left_bytes or 0, TOO_LARGE)

    def _serve_all(self) -> None:
        while self.requests and (self._again or self._waiting):
            self._refuse_small()
            if not self.requests:
                return
            if self._again:
                seq = self._again.popleft()
            else:
                seq = self._waiting.popleft()
                self._delivered_to = seq
                self.handed[seq] = Unsettled()
            self._hand(seq)

    def _hand(self, seq: int) -> None:
        handed = self.handed.get(seq)
        kept = self.stream.messages.get(seq)
        if handed is None or kept is None:
            self.handed.pop(seq, None)
            return
        handed.count += 1
        self.redelivered += handed.count > 1
        self._due(seq, handed, self.ack_wait)
        self._send(self, self.use(self.requests, size_of(kept)), kept, handed.count)

    def _due(self, seq: int, handed: Unsettled, seconds: float) -> None:
        if handed.timer is not None:
            handed.timer.cancel()
        handed.timer = asyncio.get_running_loop().call_later(seconds, self._redeliver, seq)

    def _redeliver(self, seq: int) -> None:
        if seq in self.handed and seq not in self._again:
            self._again.append(seq)
            self._serve()

    def settle(self, seq: int, word: bytes) -> bool:
        """Apply an acknowledgement, a nak or a sign of progress; whether it acknowledged. One for a settled message
        does nothing."""
        handed = self.handed.get(seq)
        if handed is None:
            return False
        if word.startswith(b"-NAK"):
            delay = json.loads(word[5:])["delay"] / 1e9 if len(word) > 4 else 0.0
            self._due(seq, handed, delay)
            return False
        if word == b"+WPI":
            if seq not in self._again:
                self._due(seq, handed, self.ack_wait)
            return False
        if handed.timer is not None:
            handed.timer.cancel()
        del self.handed[seq]
        if seq in self._again:
            self._again.remove(seq)
        if self.stream.work_queue:
            self.stream.remove(seq)
        return True
