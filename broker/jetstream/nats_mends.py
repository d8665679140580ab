"""Faults of nats-py's client, mended. Nothing here changes nats-py for other users in the same process.

The bound on its version (pyproject.toml) and tests on a real server hold the private names that are used here and in
nats_client.py.
"""

import asyncio
import logging
import re
from types import FunctionType
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.protocol import parser

log = logging.getLogger("parley.nats")


class _Parser(parser.Parser):
    """nats-py (2.16.0) splits a protocol line at form feed and vertical tab, which the server allows in a subject. It
    does not recognise such a message, reconnects, gets the message again, and so on (measured: no deliberation ended
    any more).

    `parse` is nats-py's code with two other regexes among its globals. No upstream issue yet. Drop it when `MSG_RE`
    accepts \\x0b.
    """

    # Any: a class attribute cannot be typed as the method that it replaces.
    parse: Any = FunctionType(
        parser.Parser.parse.__code__,
        {
            **vars(parser),
            "MSG_RE": re.compile(
                rb"\AMSG[ \t]+([^ \t\r\n]+)[ \t]+([^ \t\r\n]+)[ \t]+(([^ \t\r\n]+)[ \t]+)?(\d+)\r\n"
            ),
            "HMSG_RE": re.compile(
                rb"\AHMSG[ \t]+([^ \t\r\n]+)[ \t]+([^ \t\r\n]+)[ \t]+(([^ \t\r\n]+)[ \t]+)?(\d+)[ \t]+(\d+)\r\n"
            ),
        },
        argdefs=parser.Parser.parse.__defaults__,
    )


class MendedClient(Client):
    """A nats-py client that survives eight faults of nats-py 2.16.0. `_Parser` mends one, each override below one more.
    Drop an override when its fault is mended.

    At most of them nats-py ends its reading task for good and still calls itself connected (nats.py#914): one
    malformed message on a subject that anybody may publish to would stop every process that consumes it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ps = _Parser(self)
        # What a server said before it hung up. It is not read at each attempt.
        self.last_words: nats.errors.Error | None = None

    async def _process_headers(self, headers: bytes | None) -> dict[str, str] | None:
        """Fault: headers that are not in nats-py's form end the reading. Here they count as none."""
        if not headers:
            return None
        try:
            return await super()._process_headers(headers)
        except Exception as error:
            log.warning("headers of a message cannot be read and are ignored: %s", error)
            return None

    @staticmethod
    def _parse_header_lines(raw: bytes) -> dict[str, str]:
        """No fault: nats-py's looks at each letter of each name, which was a tenth of what a deadline costs."""
        found = {}
        for line in raw.decode("utf-8", "replace").split("\r\n"):
            name, colon, value = line.partition(":")
            key = name.strip()
            if colon and key.isascii() and len(key.split()) < 2:
                found[key] = value.strip()
        return found

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Msg:
        """Fault: a subject that is not UTF-8 ends the reading. Here it is decoded with replacement characters."""
        return Msg(
            _client=self,
            subject=subject.decode(errors="replace"),
            reply=reply.decode(errors="replace"),
            data=data,
            headers=headers,
            _sid=sid,
        )

    async def _process_connect_init(self) -> None:
        """Fault: what a server says before it refuses a connection (it has too many) is lost if it hangs up before
        the client has spoken."""
        try:
            await super()._process_connect_init()
        except ConnectionError as error:
            # asyncio's reader raises the loss of the connection, and keeps what it had read.
            reader = getattr(self._transport, "_io_reader", None)
            said = bytes(getattr(reader, "_buffer", b""))
            if not said.startswith(b"-ERR"):
                raise
            self.last_words = nats.errors.Error(f"nats: {said[4:].strip().decode(errors='replace')}")
            raise self.last_words from error

    async def _send_ping(self, future: asyncio.Future[bool] | None = None) -> None:
        """Fault: a PING overtakes pending writes, so `flush` may return before a subscription has arrived (one in
        ten)."""
        if self._pending and self._transport is not None:
            self._transport.writelines(self._pending)
            self._pending, self._pending_data_size = [], 0
        await super()._send_ping(future)

    async def _process_pong(self) -> None:
        """Fault: the PONG for a `flush` that timed out ends the reading (compare nats.py#624)."""
        if self._pongs and self._pongs[0].done():
            self._pongs.pop(0)
            self._pongs_received += 1
            self._pings_outstanding = 0
            return
        await super()._process_pong()

    async def close(self) -> None:
        """Fault: nats-py first writes what is pending. Without a server that raises half-way, and the tasks of its
        subscriptions stay. Here pending writes are dropped where there is no server to take them."""
        if not self.is_connected:
            self._pending, self._pending_data_size = [], 0
        await super().close()

    async def _close(self, *arguments: Any, **options: Any) -> None:
        """Fault: who cancels it leaves the socket open, and nothing closes it later."""
        try:
            await super()._close(*arguments, **options)
        except asyncio.CancelledError:
            if self._transport is not None:
                self._transport.close()  # type: ignore[no-untyped-call]  # nats-py gives it no types
            raise
