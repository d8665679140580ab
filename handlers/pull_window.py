"""How many messages, and how many bytes of them, a pull subscriber may ask for now. Pure: no asyncio, no clock; callers
pass `now` in seconds.

The rule: what is held, what has arrived and what is asked for are together never more than the limits, in messages
and in bytes. A message that is larger than the limit in bytes is held alone.

Sizes are counted as the server counts them against a request's `max_bytes`: subject, reply subject, headers, payload.
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
# What the server's status 409 says of a request with `max_bytes`: it brought all its messages, and these bytes are
# left; or its next message is larger than the bytes that are left.
COMPLETED, TOO_LARGE = "Batch Completed", "Message Size Exceeds MaxBytes"
# A request for less than this part of the limit in bytes is not worth a round trip.
LEAST_PART = 16

Message = TypeVar("Message")


class PullWindow(Generic[Message]):
    """Counts one subscriber's messages: asked for, arrived, held.

    `limit`: of all together. `batch`: of one request. `limit_bytes`: of all together, in bytes; None: any.
    """

    def __init__(self, limit: int, batch: int, limit_bytes: int | None = None) -> None:
        self.limit = limit
        self.batch = batch
        self.limit_bytes = limit_bytes
        # Messages that the handler has and has not finished, and their bytes.
        self.held = self.held_bytes = 0
        # Messages requested that have not arrived: room that is promised. The bytes that they may have.
        self.asked = self.asked_bytes = 0
        # Messages that arrived and were not taken, and their bytes.
        self.arrived: list[Message] = []
        self.arrived_bytes = 0
        # The server's next message is larger than this: a request with so many bytes left did not bring it.
        self.too_small = 0
        # The server refused a request: the subscriber waits before the next one.
        self.refused = False
        # The subscriber stops: no more requests.
        self.closing = False
        # Each request of the last seconds: when it was made, for how many messages and bytes.
        self._requests: deque[tuple[float, int, int]] = deque()
        # The sums of those numbers.
        self._requested = self._requested_bytes = 0

    @property
    def free(self) -> int:
        """Messages that fit beside those which are held."""
        return self.limit - self.held

    @property
    def idle(self) -> bool:
        """Nothing is on its way and nothing waits to be handled: only freed room can change that."""
        return not self.asked and not self.arrived

    @property
    def has_room(self) -> bool:
        """There is room for a message beside those which are held, as far as is known of its size."""
        return self.free > 0 and self._has_bytes

    @property
    def _free_bytes(self) -> int:
        if self.limit_bytes is None:
            return 0
        return self.limit_bytes - self.held_bytes - self.arrived_bytes - self.asked_bytes

    @property
    def _has_bytes(self) -> bool:
        if self.limit_bytes is None or (self.idle and not self.held):
            return True
        return self._free_bytes > self.too_small and self._free_bytes >= self.limit_bytes // LEAST_PART

    @property
    def _alone(self) -> bool:
        """The next message is larger than all the room that there is: it is asked for by itself, without a bound."""
        return self.limit_bytes is not None and self.too_small >= self.limit_bytes

    def to_request(self, outside: int | None = None) -> int:
        """How many messages to request now, or 0. `outside`: free slots of the pool, where these are a second limit."""
        if self.closing or not self._has_bytes:
            return 0
        free = self.free if outside is None else min(self.free, outside)
        wanted = min(free, self.batch) - self.asked - len(self.arrived)
        # A top-up is worth a request from a quarter of a batch on.
        if wanted < 1 or (self.asked and wanted < self.batch // 4):
            return 0
        return 1 if self._alone else wanted

    def bytes_to_request(self) -> int | None:
        """How many bytes that request may bring. None: any.

        Half of what is free, so that the next request has some too; all of it for a message that is known to be large.
        """
        if self.limit_bytes is None or self._alone:
            return None
        return self._free_bytes if self.too_small else max(1, self._free_bytes // 2)

    def requested(self, count: int, now: float, max_bytes: int | None = None) -> None:
        """A request for `count` messages of at most `max_bytes` was sent."""
        promised = max_bytes if max_bytes is not None else (self.limit_bytes or 0)
        self._forget_requests(now)
        self.asked += count
        self.asked_bytes += promised
        self._requests.append((now, count, promised))
        self._requested += count
        self._requested_bytes += promised

    def arrive(self, message: Message, size: int = 0) -> None:
        """`size`: of the message in bytes."""
        if self.asked:
            self._ask_less(1, size)
        self.too_small = 0
        self.arrived.append(message)
        self.arrived_bytes += size

    def end_request(
        self, status: str, pending: int | None, pending_bytes: int = 0, description: str = ""
    ) -> None:
        """The server ended a request with a status. `pending`: messages that it still owed, None: it does not say.
        `pending_bytes`: what was left of its bytes."""
        self._ask_less(pending if pending is not None else self.asked, pending_bytes)
        if description == TOO_LARGE:
            self.too_small = max(1, pending_bytes)
        elif status not in (NO_MESSAGES, EXPIRED) and description != COMPLETED:
            self.refused = True

    def _ask_less(self, count: int, size: int) -> None:
        self.asked = max(0, self.asked - count)
        # Sizes are counted a little differently here and at the server; with nothing asked for, nothing is owed.
        self.asked_bytes = max(0, self.asked_bytes - size) if self.asked else 0

    def lose_connection(self) -> None:
        """The server forgets the requests of a connection that was lost."""
        self.asked = self.asked_bytes = 0
        self._requests.clear()
        self._requested = self._requested_bytes = 0

    def expire(self, now: float, late: float = 0.0) -> None:
        """Nothing came for a while: drop requests that must have expired. Their statuses were lost.

        `late`: seconds by which the caller woke later than it meant to. A process that stood still has yet to read what
        the server sent meanwhile, so its requests get that much more time.
        """
        if late > STOOD_STILL_SECONDS:
            self._requests = deque((at + late, count, size) for at, count, size in self._requests)
            return
        self._forget_requests(now)
        self.asked = min(self.asked, self._requested)
        self.asked_bytes = min(self.asked_bytes, self._requested_bytes)

    def _forget_requests(self, now: float) -> None:
        """Forget the requests that have ended by now."""
        while self._requests and now - self._requests[0][0] >= REQUEST_SECONDS + LOST_SECONDS:
            _, count, promised = self._requests.popleft()
            self._requested -= count
            self._requested_bytes -= promised

    def take(self) -> list[Message]:
        """All that arrived, to be handled: held from now on. Nothing once it is closing: `give_back` is for that."""
        if self.closing:
            return []
        messages, self.arrived = self.arrived, []
        self.held += len(messages)
        self.held_bytes += self.arrived_bytes
        self.arrived_bytes = 0
        return messages

    def settle(self, count: int, size: int = 0) -> None:
        """`count` messages that were held, of `size` bytes together, are finished."""
        self.held -= count
        self.held_bytes -= size

    def close(self) -> None:
        """Request nothing more. What was asked for may still arrive."""
        self.closing = True

    def give_back(self) -> list[Message]:
        """What arrived and was not taken, for the server to hand to another subscriber."""
        messages, self.arrived = self.arrived, []
        self.arrived_bytes = 0
        return messages
