"""The endings that arrive in a client's inbox, each for the one who waits for it. Part of the client.

A program has one inbox for all that it asks. An ending may arrive before the acknowledgement of its request, or before
anybody waits for it: so many are kept.
"""

import asyncio
from weakref import WeakValueDictionary

from nats.aio.msg import Msg

from parley.broker.core.errors import InvalidMessage
from parley.broker.core.messages import Ending, decode_ending

# Endings kept that arrived before the program waited for them.
KEPT_ENDINGS = 1_000
# Their size as JSON together; one takes up to 1 MiB.
KEPT_BYTES = 32 * 1024 * 1024


class EndingInbox:
    def __init__(self) -> None:
        # By task_id: endings that are awaited, and at most KEPT_ENDINGS that arrived early.
        self._arrivals: dict[str, asyncio.Future[Ending]] = {}
        # By the name of its place: a request's rejection, for as long as the program keeps what it submitted.
        self._rejections: WeakValueDictionary[str, asyncio.Future[Ending]] = WeakValueDictionary()
        # By task_id: the bytes of each ending that arrived and was not taken, in the order of arrival; and their sum.
        self._arrived: dict[str, int] = {}
        self._arrived_bytes = 0

    def __contains__(self, task_id: str) -> bool:
        """Whether somebody waits for an ending of this name, or one has arrived."""
        return task_id in self._arrivals

    def arrival(self, task_id: str) -> asyncio.Future[Ending]:
        """Resolved when an ending of this name arrives."""
        # An ending may arrive before the PubAck of its request is read: whichever is first makes the future.
        if task_id not in self._arrivals:
            self._arrivals[task_id] = asyncio.get_running_loop().create_future()
        return self._arrivals[task_id]

    def rejection(self, own_name: str, task_id: str) -> asyncio.Future[Ending]:
        """Resolved when a request that has this place, and was asked under `task_id`, is rejected under the name of its
        place."""
        # It may have arrived before its PubAck.
        early = self._arrivals.pop(own_name, None) if task_id != own_name else self.arrival(own_name)
        rejection = early or asyncio.get_running_loop().create_future()
        self._rejections[own_name] = rejection
        return rejection

    def wait_again(self, task_id: str, arrival: asyncio.Future[Ending]) -> None:
        """Have this future resolved that was forgotten, unless another waits under the name."""
        self._arrivals.setdefault(task_id, arrival)

    def forget(self, task_id: str) -> None:
        self._arrivals.pop(task_id, None)
        self._arrived_bytes -= self._arrived.pop(task_id, 0)

    async def receive(self, message: Msg) -> None:
        """Take what the inbox was sent."""
        try:
            ending = decode_ending(message.data)
        except InvalidMessage:
            return  # not from the service
        arrival = self._rejections.get(ending.task_id) or self.arrival(ending.task_id)
        if not arrival.done():
            arrival.set_result(ending)
        self._arrived_bytes += len(message.data) - self._arrived.pop(ending.task_id, 0)
        self._arrived[ending.task_id] = len(message.data)
        while self._arrived and (len(self._arrivals) > KEPT_ENDINGS or self._arrived_bytes > KEPT_BYTES):
            # Bounds the memory of a program that submits and never waits. `find` still returns the ending.
            self.forget(next(iter(self._arrived)))
