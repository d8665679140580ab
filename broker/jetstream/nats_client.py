"""nats-py's client, and what we do faster in it. Knows NATS's protocol and nothing of Parley's messages.

Every private name of nats-py that we use stands in this file and in nats_mends.py. The bound on its version
(pyproject.toml) and tests on a real server hold them. Nothing here changes nats-py for other users in the same process.
"""

import asyncio
import itertools
import logging
import os
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext

from parley.broker.core.errors import RIGHTS_ARE_IN
from parley.broker.jetstream.forgery_counts import Forgeries
from parley.broker.jetstream.header_block import encode_head
from parley.broker.jetstream.jetstream_client import JetStreamClient
from parley.broker.jetstream.nats_access import PLAIN, NatsAccess
from parley.broker.jetstream.opening_client import OpeningClient
from parley.broker.jetstream.rights import USER_INFO, Right, Verb, refused_right

log = logging.getLogger("parley.nats")

Callback = Callable[[], Awaitable[None]]
ErrorCallback = Callable[[Exception], Awaitable[None]]

# What the server says of a missing right, in lower case, as nats-py passes it on.
_REFUSED = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"')
_VERBS = {"publish": Verb.PUBLISH, "subscription": Verb.SUBSCRIBE}

# A subject.
_WRITABLE = re.compile(r"[^ \t\r\n]+").fullmatch

_NUMBER = re.compile(r"[0-9]+")
# For the server to say that it has read a question.
ASK_SECONDS = 5
# Different errors of a connection that are logged.
LOGGED_ERRORS = 100

# What goes wrong with a connection. Any other exception that nats-py reports is a bug in a callback.
_NETWORK_ERRORS = (nats.errors.Error, OSError)


class NotAllowed(nats.errors.Error):
    """The server refuses this connection the right to a subject."""

    def __init__(self, right: Right) -> None:
        super().__init__(right)
        self.right = right

    def __str__(self) -> str:
        return f"this NATS user has no right to {self.right}"


class NatsClient(OpeningClient):
    """The client that all of Parley uses: connection events to await, one log line an absence, and inline messages.

    nats-py puts each message into a queue, and a task of the subscription takes it out and calls back; replies to
    requests take the same way, through `wait_for`. That is a third of what a publish costs (docs/decisions, 10). Here
    an inline subscription acts on a message as it is read. Inline messages are not counted in `stats` and have no
    limits.
    """

    def __init__(self, access: NatsAccess = PLAIN) -> None:
        super().__init__(access)
        # What came here under a false name.
        self.forgeries = Forgeries()
        # What to do with each message, by subscription id.
        self._inline: dict[int, Callable[[Msg], None]] = {}
        # One a request: the last part of its reply subject.
        self._tokens = _request_tokens()
        # The reply subject of a request, without its token. Made with the first request.
        self._reply_prefix = ""
        # The requests that wait: subject and answer, by token.
        self._asked: dict[str, tuple[str, asyncio.Future[Msg]]] = {}
        # Set once the server has refused the subscription to replies: no request can be answered.
        self._deaf: NotAllowed | None = None
        # Set and replaced at every change of the connection's state. A waiter holds the event of the time when it
        # began to wait.
        self._changed = asyncio.Event()
        # The connection was lost and is not back.
        self._is_lost = False
        # How often it was lost.
        self.losses = 0
        # Another connection of this process says when NATS goes and comes back; this one says it at DEBUG.
        self.is_second = False
        # The rights that the server has refused, and when last (monotonic). At most LOGGED_ERRORS.
        self.refusals: dict[Right, float] = {}
        # The errors logged in this connection, with # for each number, so that one that repeats is logged once.
        self._logged_errors: set[str] = set()

    def jetstream(self, **options: Any) -> JetStreamContext:
        return JetStreamClient(self, **options)

    # ── connection events ─────────────────────────────────────────────────────────────────────────────────────────

    async def connect(self, *arguments: Any, **options: Any) -> None:
        """As nats-py's, which reports connection events only to callbacks given here. The caller's callbacks run
        too."""
        options["disconnected_cb"] = self._noting(self._log_lost, options.get("disconnected_cb"))
        options["reconnected_cb"] = self._noting(self._log_back, options.get("reconnected_cb"))
        options["closed_cb"] = self._noting(None, options.get("closed_cb"))
        options["error_cb"] = self._logging_errors(options.get("error_cb"))
        await super().connect(*arguments, **options)
        self._note_change()

    def _noting(self, write: Callable[[], None] | None, callback: Callback | None) -> Callback:
        async def note() -> None:
            self._note_change()
            if write is not None:
                write()
            if callback is not None:
                await callback()

        return note

    def _logging_errors(self, callback: ErrorCallback | None) -> ErrorCallback:
        async def note(error: Exception) -> None:
            is_ours = isinstance(error, _NETWORK_ERRORS)
            refused = _REFUSED.search(str(error)) if is_ours else None
            if refused is None:
                self._log_error(error)
            else:
                self._note_refusal(refused_right(_VERBS[refused[1]], refused[2]))
                self._fail_refused(_VERBS[refused[1]], refused[2])
            if callback is not None:
                await callback(error)

        return note

    async def _close(self, *arguments: Any, **options: Any) -> None:
        # nats-py closes without its callbacks when a server refuses a reconnect, or when closing fails half-way.
        try:
            await super()._close(*arguments, **options)
        finally:
            self._note_change()

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    @property
    def cluster(self) -> str | None:
        """The name of the cluster that the connected server is in, None for a server by itself."""
        name = self._server_info.get("cluster")
        return str(name) if name else None

    @property
    def domain(self) -> str | None:
        """The JetStream domain of the connected server, None without one."""
        name = self._server_info.get("domain")
        return str(name) if name else None

    @property
    def inbox_prefix(self) -> str:
        """What its inboxes begin with."""
        return self._inbox_prefix.decode()

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
        """Return once the connection is closed for good: nats-py does not come back from most errors that a server
        states."""
        while not self.is_closed:
            await self._changed.wait()

    async def wait_reconnected(self, seen: int) -> int:
        """Return the count of reconnects once it differs from `seen` and the connection stands."""
        while self.reconnects == seen or not self.is_connected:
            await self._changed.wait()
        return self.reconnects

    # ── the log: nats-py itself prints a traceback at each attempt to reconnect ───────────────────────────────────

    def _log_lost(self) -> None:
        was_lost, self._is_lost = self._is_lost, True
        if self.is_closed or was_lost:  # closed on purpose; or lost again before it was back
            return
        self.losses += 1
        log.log(self._level, "the connection to NATS is lost; trying to reconnect")

    def _log_back(self) -> None:
        self._is_lost = False
        self._logged_errors.clear()
        self.refusals.clear()
        log.log(self._level, "the connection to NATS is back")

    @property
    def _level(self) -> int:
        return logging.DEBUG if self.is_second else logging.WARNING

    def _log_error(self, error: Exception) -> None:
        if not isinstance(error, _NETWORK_ERRORS):
            log.error("a callback raised", exc_info=error)
            return
        # The loss of the connection is logged already, and a first `connect` raises its own errors. But what a server
        # says to a reconnecting client (a token that is no longer right) is said once.
        told = self.is_connected or (self._is_lost and isinstance(error, nats.errors.Error))
        if not told or isinstance(error, nats.errors.UnexpectedEOF):
            return
        kind = _NUMBER.sub("#", str(error))  # acknowledgements that are refused differ in their numbers
        if kind not in self._logged_errors and len(self._logged_errors) < LOGGED_ERRORS:
            self._logged_errors.add(kind)
            log.warning("%s", error)

    def _note_refusal(self, right: Right) -> None:
        """Logged once for each right, and not for each message."""
        if right not in self.refusals and len(self.refusals) >= LOGGED_ERRORS:
            return
        if right not in self.refusals and right.subject != USER_INFO:
            log.warning("%s (%s)", NotAllowed(right), RIGHTS_ARE_IN)
        self.refusals[right] = time.monotonic()

    # ── rights: a request that the server refuses fails now, not after its timeout ─────────────────────────────────

    def _fail_refused(self, verb: Verb, refused_subject: str) -> None:
        if verb is Verb.SUBSCRIBE:
            # nats-py writes the server's words in lower case.
            if not self._reply_prefix or not refused_subject.startswith(self._reply_prefix.lower()):
                return
            self._deaf = NotAllowed(self._right_to_inboxes)
        for subject, answer in self._asked.values():
            if answer.done():
                continue
            if self._deaf is not None:
                answer.set_exception(self._deaf)
            elif subject.lower() == refused_subject:
                answer.set_exception(NotAllowed(Right(Verb.PUBLISH, subject)))

    @property
    def _right_to_inboxes(self) -> Right:
        return Right(Verb.SUBSCRIBE, f"{self.inbox_prefix}.>")

    async def ask(self, subject: str, question: bytes, inbox: str) -> None:
        """Publish a question that is answered by any number of messages to `inbox`.

        Raises NotAllowed at once where the server refuses that, which `publish` does not. It costs a round trip.
        """
        began = time.monotonic()
        await self.publish(subject, question, reply=inbox)
        await self.flush(ASK_SECONDS)  # the server refuses before it answers the PING
        if any(right.verb is Verb.SUBSCRIBE and right.matches(inbox) for right in self.refusals):
            raise NotAllowed(self._right_to_inboxes)
        if self.refusals.get(refused_right(Verb.PUBLISH, subject), 0.0) >= began:
            raise NotAllowed(Right(Verb.PUBLISH, subject))

    # ── inline messages ───────────────────────────────────────────────────────────────────────────────────────────

    async def subscribe_inline(self, subject: str, act: Callable[[Msg], None]) -> Subscription:
        """Subscribe, and have each message acted on as it is read: `act` must be quick and raise nothing."""
        subscription = await self.subscribe(subject, cb=_ignore)
        self._inline[subscription._id] = act
        return subscription

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        super()._remove_sub(sid, max_msgs)
        self._inline.pop(sid, None)

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        act = self._inline.get(sid)
        if act is None:
            await super()._process_msg(sid, subject, reply, data, headers)
        else:
            parsed = await self._process_headers(headers) if headers else None
            act(self._build_message(sid, subject, reply, data, parsed))

    def new_inbox(self) -> str:
        """A subject that nobody can guess, under the connection's prefix. nats-py's are counters behind a prefix that
        other subjects of the connection tell."""
        return f"{self.inbox_prefix}.{secrets.token_hex(16)}"

    async def _init_request_sub(self) -> None:
        # As nats-py's. Requests that are made meanwhile already find the prefix.
        self._reply_prefix = f"{self.new_inbox()}."
        self._resp_sub_prefix = bytearray(self._reply_prefix.encode())
        subscription = await self.subscribe(f"{self._reply_prefix}*", cb=self._request_sub_callback)
        self._inline[subscription._id] = self._on_reply

    async def publish(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """As nats-py's, which takes three times as long: it builds a bytearray header by header, and makes a future for
        the task that writes each time."""
        if self.jetstream_domain is not None:
            subject = self.in_domain(subject)
        queue = self._flush_queue
        whole = len(payload) + self._pending_data_size
        if (
            not self.is_connected
            or self.is_draining
            or queue is None
            or whole > min(self._max_payload, self._max_pending_size)
        ):
            await super().publish(subject, payload, reply=reply, headers=headers)
            return
        if not _WRITABLE(subject) or (reply and not _WRITABLE(reply)):
            raise nats.errors.BadSubjectError
        if headers is None:
            command = f"PUB {subject} {reply} {len(payload)}\r\n".encode() + payload + b"\r\n"
        else:
            head = encode_head(headers)
            sizes = f"{len(head)} {len(head) + len(payload)}"
            command = b"".join((f"HPUB {subject} {reply} {sizes}\r\n".encode(), head, payload, b"\r\n"))
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += len(payload)
        self._pending.append(command)
        self._pending_data_size += len(command)
        if queue.empty():
            await self._flush_pending()

    async def _request_new_style(
        self, subject: str, payload: bytes, timeout: float = 1, headers: dict[str, Any] | None = None
    ) -> Msg:
        if not self._reply_prefix:
            await self._init_request_sub()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Msg] = loop.create_future()
        if self._deaf is not None:
            raise self._deaf
        subject = self.in_domain(subject)
        token = next(self._tokens)
        self._asked[token] = subject, answer
        timer = loop.call_later(timeout, _time_out, answer)
        try:
            # Raises ConnectionDrainingError and ConnectionClosedError.
            await self.publish(subject, payload, reply=self._reply_prefix + token, headers=headers)
            return await answer
        finally:
            timer.cancel()
            del self._asked[token]

    def _on_reply(self, message: Msg) -> None:
        asked = self._asked.get(message.subject.rpartition(".")[2])
        if asked is not None and not asked[1].done():
            asked[1].set_result(message)


def _request_tokens() -> Iterator[str]:
    """Unique by a counter, unpredictable by eight random bytes: a sender that has seen one reply subject cannot guess
    the next. The bytes are drawn for 256 tokens at a time (measured: 0.3 instead of 0.6 µs a token)."""
    for first in itertools.count(step=256):
        random = os.urandom(256 * 8).hex()
        for place in range(256):
            yield f"{first + place}{random[16 * place : 16 * place + 16]}"


def _time_out(answer: "asyncio.Future[Msg]") -> None:
    if not answer.done():
        answer.set_exception(nats.errors.TimeoutError())


async def _ignore(_: Msg) -> None:
    """The callback of an inline subscription: its messages never reach it."""
