"""How many messages a pull subscriber may ask for now. Pure: no asyncio, no clock; callers pass `now` in seconds.

The rule: messages held, messages arrived and messages asked for are together never more than the limit.
"""

from collections import deque
from typing import Generic, TypeVar

# A pull request stays at the server this long. The server goes on sending to a process that stands still for as long.
REQUEST_SECONDS = 1.0
# The server's status that a request expired may be this late.
LOST_SECONDS = 1.0
# A caller that wakes later than this stood still.
STOOD_STILL_SECONDS = 0.05
# Statuses of a request that ended in normal operation. Any other refuses the request.
NO_MESSAGES, EXPIRED = "404", "408"

Message = TypeVar("Message")


class PullWindow(Generic[Message]):
    """Counts one subscriber's messages: asked for, arrived, held. `limit`: of all together. `batch`: of one request."""

    def __init__(self, limit: int, batch: int) -> None:
        self.limit = limit
        self.batch = batch
        # Messages that the handler has and has not finished.
        self.held = 0
        # Messages requested that have not arrived: room that is promised.
        self.asked = 0
        # Messages that arrived and were not taken.
        self.arrived: list[Message] = []
        # The server refused a request: the subscriber waits before the next one.
        self.refused = False
        # The subscriber stops: no more requests.
        self.closing = False
        # Each request of the last seconds: when it was made, and for how many messages.
        self._requests: deque[tuple[float, int]] = deque()
        # The sum of those numbers.
        self._requested = 0

    @property
    def free(self) -> int:
        """Messages that fit beside those which are held."""
        return self.limit - self.held

    @property
    def idle(self) -> bool:
        """Nothing is on its way and nothing waits to be handled: only freed room can change that."""
        return not self.asked and not self.arrived

    def to_request(self, outside: int | None = None) -> int:
        """How many messages to request now, or 0. `outside`: free slots of the pool, where these are a second limit."""
        if self.closing:
            return 0
        free = self.free if outside is None else min(self.free, outside)
        wanted = min(free, self.batch) - self.asked - len(self.arrived)
        # A top-up is worth a request from a quarter of a batch on.
        if wanted < 1 or (self.asked and wanted < self.batch // 4):
            return 0
        return wanted

    def requested(self, count: int, now: float) -> None:
        """A request for `count` messages was sent."""
        self._forget_requests(now)
        self.asked += count
        self._requests.append((now, count))
        self._requested += count

    def arrive(self, message: Message) -> None:
        if self.asked:
            self.asked -= 1
        self.arrived.append(message)

    def end_request(self, status: str, pending: int | None) -> None:
        """The server ended a request with a status. `pending`: messages that it still owed, None: it does not say."""
        self.asked = max(0, self.asked - pending) if pending is not None else 0
        if status not in (NO_MESSAGES, EXPIRED):
            self.refused = True

    def lose_connection(self) -> None:
        """The server forgets the requests of a connection that was lost."""
        self.asked = 0
        self._requests.clear()
        self._requested = 0

    def expire(self, now: float, late: float = 0.0) -> None:
        """Nothing came for a while: drop requests that must have expired. Their statuses were lost.

        `late`: seconds by which the caller woke later than it meant to. A process that stood still has yet to read what
        the server sent meanwhile, so its requests get that much more time.
        """
        if late > STOOD_STILL_SECONDS:
            self._requests = deque((at + late, count) for at, count in self._requests)
            return
        self._forget_requests(now)
        self.asked = min(self.asked, self._requested)

    def _forget_requests(self, now: float) -> None:
        """Forget the requests that have ended by now."""
        while self._requests and now - self._requests[0][0] >= REQUEST_SECONDS + LOST_SECONDS:
            self._requested -= self._requests.popleft()[1]

    def take(self) -> list[Message]:
        """All that arrived, to be handled: held from now on. Nothing once it is closing: `give_back` is for that."""
        if self.closing:
            return []
        messages, self.arrived = self.arrived, []
        self.held += len(messages)
        return messages

    def settle(self, count: int) -> None:
        """`count` messages that were held are finished."""
        self.held -= count

    def close(self) -> None:
        """Request nothing more. What was asked for may still arrive."""
        self.closing = True

    def give_back(self) -> list[Message]:
        """What arrived and was not taken, for the server to hand to another subscriber."""
        messages, self.arrived = self.arrived, []
        return messages
