"""Listens for HTTP, with a limit on all that a stranger can send or hold open: headers, bodies, connections, time.

uvicorn has no limit on how long a request's head may take, and waits without end for a reader that does not read.
"""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from http import HTTPStatus
from typing import Any

import uvicorn
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from parley.gateway.problems import Problem, try_again

# Of a request's head: its line and its headers.
MAX_HEAD_BYTES = 32 * 1024
HEAD_SECONDS = 10.0
BODY_SECONDS = 20.0
# Of all bodies that are being read or used, and after how long to try again where that is too much.
MAX_HELD_BYTES, HELD_SECONDS = 64 * 1024 * 1024, 1.0
# A reader that takes nothing for so long is cut.
READ_SECONDS = 30.0
# What the kernel holds of an answer that is not read yet.
SENT_BYTES = 128 * 1024
IDLE_SECONDS = 75.0
MAX_CONNECTIONS = 10_000
STOP_SECONDS = 10.0


class SlowReader(Exception):
    """Who asked takes nothing of the answer."""


class TimedProtocol(H11Protocol):
    """Closes a connection on which a request's head does not come in time."""

    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if getattr(self.cycle, "response_complete", True) is False:
            self._head_is_there()
        elif self._head is None:
            self._expect_head()

    def on_response_complete(self) -> None:
        self._head_is_there()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        self._head = self.loop.call_later(HEAD_SECONDS, self._cut)

    def _head_is_there(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _cut(self) -> None:
        self._head = None
        if not self.transport.is_closing():
            self.transport.close()


class Bounded:
    """Around the application: a body of at most `most_bytes`, in time; and a reader that reads."""

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self._app = app
        self._most = most_bytes
        # Bytes of the bodies that are being read or used.
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        parts: list[bytes] = []
        try:
            if await self._read(receive, parts):
                await self._answer(scope, receive, send, b"".join(parts))
        except Problem as problem:
            response = JSONResponse(
                problem.body(),
                problem.status.value,
                {**problem.headers, "Connection": "close"},
                "application/problem+json",
            )
            await response(scope, receive, send)
        finally:
            self._held -= sum(map(len, parts))

    async def _answer(self, scope: Scope, receive: Receive, send: Send, body: bytes) -> None:
        given: Message | None = {"type": "http.request", "body": body, "more_body": False}

        async def receive_whole() -> Message:
            nonlocal given
            message, given = given, None
            return message if message is not None else await receive()

        async def send_in_time(message: Message) -> None:
            try:
                async with asyncio.timeout(READ_SECONDS):
                    await send(message)
            except TimeoutError:
                raise SlowReader from None

        with suppress(SlowReader):  # an answer that is not whole closes the connection
            await self._app(scope, receive_whole, send_in_time)

    async def _read(self, receive: Receive, parts: list[bytes]) -> bool:
        """The whole body into `parts`; False if the caller has hung up. Raises Problem for one that is too large or too
        slow, and while others hold all that bodies may have together."""
        size = 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return False
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    self._held += len(parts[-1])
                    if size > self._most:
                        words = f"the body has more than {self._most} bytes"
                        raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, words)
                    if self._held > MAX_HELD_BYTES:
                        raise try_again(
                            HTTPStatus.SERVICE_UNAVAILABLE, "too many bodies at a time", HELD_SECONDS
                        )
                    if not message.get("more_body"):
                        return True
        except TimeoutError:
            words = f"the body did not come within {BODY_SECONDS:g} s"
            raise Problem(HTTPStatus.REQUEST_TIMEOUT, words) from None


class _Server(uvicorn.Server):
    """As uvicorn's, for a process that handles its signals itself."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def listening(app: ASGIApp, opened: socket.socket) -> AsyncIterator[None]:
    """Serve `app` at this socket until the block ends."""
    config = uvicorn.Config(
        app, http=TimedProtocol, ws="none", lifespan="off", log_config=None, access_log=False, server_header=False,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES, limit_concurrency=MAX_CONNECTIONS, timeout_keep_alive=int(IDLE_SECONDS),
        timeout_graceful_shutdown=int(STOP_SECONDS), proxy_headers=False,
    )  # fmt: skip
    # A stranger's bad request is no news, and errors of the application are in its own log.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    server = _Server(config)
    serving = asyncio.create_task(server.serve([opened]), name="gateway")
    try:
        while not server.started and not serving.done():  # noqa: ASYNC110  # uvicorn sets no event
            await asyncio.sleep(0.01)
        if serving.done():
            await serving
        yield
    finally:
        server.should_exit = True
        await asyncio.wait({serving}, timeout=STOP_SECONDS + 2)
        if not serving.done():
            serving.cancel()


def open_socket(host: str, port: int) -> socket.socket:
    """Port 0 takes a free one. Raises OSError if the port is taken."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Its connections have the same. Left to itself the kernel would hold up to 4 MiB for a reader that does not read.
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SENT_BYTES)
        opened.bind(address)
        opened.listen(1024)
        opened.setblocking(False)
    except OSError:
        opened.close()
        raise
    return opened
