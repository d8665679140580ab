"""nats-py's client, mended where a message or an hour of waiting would stop it. Knows NATS's protocol and nothing of ours.

All overrides of nats-py's private methods are here, held by the bound on its version (pyproject.toml) and by tests on a real server.
"""

import asyncio
import itertools
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.protocol import parser

log = logging.getLogger("parley.broker")

# nats-py (2.16.0) takes form feed and vertical tab for blanks, which the server takes for letters of a subject. A message on such
# a subject was an unknown protocol to it: it reconnected, got the message again, and so on (measured: no deliberation ended any more).
parser.MSG_RE = re.compile(
    rb"\AMSG[ \t]+([^ \t\r\n]+)[ \t]+([^ \t\r\n]+)[ \t]+(([^ \t\r\n]+)[ \t]+)?(\d+)\r\n"
)
parser.HMSG_RE = re.compile(
    rb"\AHMSG[ \t]+([^ \t\r\n]+)[ \t]+([^ \t\r\n]+)[ \t]+(([^ \t\r\n]+)[ \t]+)?(\d+)[ \t]+(\d+)\r\n"
)


class NatsClient(Client):
    """nats-py's client, except that headers it cannot parse are taken for none, a subject that is not UTF-8 is no end, nor is a PONG that
    comes too late, and a PING does not overtake what was written before it.

    nats-py (2.16.0) ends its reading task at such a message, for good, and still calls itself connected: one malformed message
    on a subject anybody may publish to, delivered again and again, would stop every process that consumes it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._tokens = itertools.count()
        self._inline: dict[int, Callable[[Msg], None]] = {}
        # Set and replaced at every change of the connection's state: whoever waits for one holds the event of his time.
        self._changed = asyncio.Event()

    # ── events of the connection ──────────────────────────────────────────────────────────────────────────────────

    async def connect(self, *arguments: Any, **options: Any) -> None:
        """As nats-py's, which knows connection events as callbacks only: they are set here, and awaited below."""
        for name in ("reconnected_cb", "disconnected_cb", "closed_cb"):
            options[name] = self._noting(options.get(name))
        await super().connect(*arguments, **options)
        self._note_change()

    def _noting(self, callback: Callable[[], Awaitable[None]] | None) -> Callable[[], Awaitable[None]]:
        async def note() -> None:
            self._note_change()
            if callback is not None:
                await callback()

        return note

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    @property
    def reconnects(self) -> int:
        """How often the connection was lost and made again."""
        return int(self.stats["reconnects"])

    async def wait_connected(self) -> None:
        """Return once connected. Raises nats-py's ConnectionClosedError when it is closed for good."""
        while not self.is_connected:
            if self.is_closed:
                raise nats.errors.ConnectionClosedError
            await self._changed.wait()

    async def wait_closed(self) -> None:
        """Return once the connection is closed for good: nats-py does not come back from most errors that a server states."""
        while not self.is_closed:
            await self._changed.wait()

    async def wait_disconnected(self) -> None:
        """Return once the connection is lost or closed."""
        while self.is_connected:
            await self._changed.wait()

    async def wait_reconnected(self, seen: int) -> int:
        """Return the count of reconnects once it differs from `seen` and the connection stands."""
        while self.reconnects == seen or not self.is_connected:
            await self._changed.wait()
        return self.reconnects

    async def _process_headers(self, headers: bytes | None) -> dict[str, str] | None:
        if not headers:
            return None
        try:
            return await super()._process_headers(headers)
        except Exception as error:
            log.warning("headers of a message cannot be read and are ignored: %s", error)
            return None

    async def _send_ping(self, future: asyncio.Future[bool] | None = None) -> None:
        # nats-py writes a PING past what waits to be written: `flush` came back before its subscriptions had arrived (one in ten).
        if self._pending and self._transport is not None:
            self._transport.writelines(self._pending)
            self._pending, self._pending_data_size = [], 0
        await super()._send_ping(future)

    async def _process_pong(self) -> None:
        # A PING that nobody waits for any more (a `flush` that took too long) is answered all the same; nats-py stopped reading at that.
        if self._pongs and self._pongs[0].done():
            self._pongs.pop(0)
            self._pongs_received += 1
            self._pings_outstanding = 0
            return
        await super()._process_pong()

    # nats-py puts each message into a queue, for a task of its subscription to take it out and call back; and what is asked for is
    # answered that way too, through `wait_for`, with a random token each. That was a third of what a publish cost (decision 10).

    async def subscribe_inline(self, subject: str, act: Callable[[Msg], None]) -> Subscription:
        """Subscribe, and have each message acted on as it is read: `act` must be quick and raise nothing."""
        subscription = await self.subscribe(subject, cb=_nothing)
        self._inline[subscription._id] = act
        return subscription

    async def _init_request_sub(self) -> None:
        await super()._init_request_sub()
        self._inline[self._sid] = self._answered

    async def _request_new_style(
        self, subject: str, payload: bytes, timeout: float = 1, headers: dict[str, Any] | None = None
    ) -> Msg:
        if not self._resp_sub_prefix:
            await self._init_request_sub()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Msg] = loop.create_future()
        token = str(next(self._tokens))
        inbox = bytes(self._resp_sub_prefix or b"").decode()
        self._resp_map[token] = answer
        timer = loop.call_later(timeout, _unanswered, answer)
        try:
            await self.publish(subject, payload, reply=inbox + token, headers=headers)
            return await answer
        finally:
            timer.cancel()
            del self._resp_map[token]

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        direct = self._inline.get(sid)
        if direct is not None:
            direct(self._build_message(sid, subject, reply, data, await self._process_headers(headers)))
        else:
            await super()._process_msg(sid, subject, reply, data, headers)

    def _answered(self, message: Msg) -> None:
        answer = self._resp_map.get(message.subject.rpartition(".")[2])
        if answer is not None and not answer.done():
            answer.set_result(message)

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Msg:
        return Msg(
            _client=self,
            subject=_readable(subject),
            reply=_readable(reply),
            data=data,
            headers=headers,
            _sid=sid,
        )


async def _nothing(_: Msg) -> None:
    """The callback of a subscription whose messages are acted on before they would come to it."""


def _unanswered(answer: "asyncio.Future[Msg]") -> None:
    if not answer.done():
        answer.set_exception(nats.errors.TimeoutError())


def _readable(subject: bytes) -> str:
    return subject.decode(errors="replace")
