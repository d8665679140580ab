"""The JetStream operations that Parley uses: publish, broadcast, schedule, read back.

Knows headers, limits and the streams' subjects, and nothing of deliberations. Translates nats-py's errors into Parley's.
"""

import asyncio
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import nats.errors
import nats.js.errors
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg

from parley.broker.core.errors import (
    BrokerUnavailable,
    Conflict,
    NoQuorum,
    PayloadTooLarge,
    ServiceSilent,
    StoreFull,
    StreamSilent,
    Unacknowledged,
    Unanswered,
    Unavailable,
)
from parley.broker.core.timestamps import format_timestamp
from parley.broker.core.url_masking import masked
from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import PUBLISH_TIMEOUT_SECONDS, reason, unavailable
from parley.broker.jetstream.forgery_counts import Forgery
from parley.broker.jetstream.nats_client import NatsClient
from parley.broker.jetstream.quorum import Quorum, could_store, is_replicated
from parley.broker.jetstream.server_clock import ServerClock
from parley.broker.jetstream.store_health import StoreHealth
from parley.broker.jetstream.subject_streams import may_acknowledge, stream_of

# JetStream stores the size of a message's headers in 16 bits.
MAX_HEADER_BYTES = 65_535
# JetStream's error codes for a refused compare-and-set. 10164: the stream's replicas have not yet agreed on an earlier
# write.
_WRONG_LAST_SEQUENCE = frozenset({10071, 10164})
# JetStream's status codes are HTTP's. From here on the fault is the server's and may pass.
_SERVER_TROUBLE = 500
# The replicas have not yet agreed on an earlier publish with this `msg_id`.
_IN_PROCESS = 10158
# A store without room: the account's limit (10002), the server's (10023, 10028, 10047), the stream's (10077).
_NO_ROOM = frozenset({10002, 10023, 10028, 10047, 10077})
# An acknowledgement that is given up so much later than it should be says nothing of the server.
STOOD_STILL_SECONDS = 0.5
# Whether a server that acknowledges no write answers at all.
_ANSWER_SECONDS = 1
JSON_HEADER = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message in a stream. `at`: when it was stored, by the server's clock; None: not told."""

    seq: int
    subject: str
    data: bytes
    headers: Mapping[str, str]
    at: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class PubAck:
    """Where a published message is stored. `duplicate`: at `seq` is an earlier message with the same Msg-Id, whatever
    its payload."""

    seq: int
    duplicate: bool = False


class JetStream:
    """Made from an open connection, which the opener closes."""

    def __init__(self, nc: NatsClient) -> None:
        self.nc = nc
        # All instants are the server's: what this says is compared with what messages say.
        self.clock = ServerClock(nc)
        # Whether the servers can decide.
        self.quorum = Quorum(nc)
        # What was stored and refused lately.
        self.health = StoreHealth()
        self.js: JetStreamContext = nc.jetstream(timeout=PUBLISH_TIMEOUT_SECONDS)

    @property
    def connected(self) -> bool:
        return bool(self.nc.is_connected)

    @property
    def closed(self) -> bool:
        """Closed for good. nats-py does not reconnect after most errors that a server reports (a token that is no
        longer valid)."""
        return bool(self.nc.is_closed)

    @property
    def max_payload(self) -> int:
        """The server's limit for one message in bytes, headers included."""
        return int(self.nc.max_payload)

    async def publish(
        self,
        subject: str,
        body: bytes,
        *,
        msg_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float = PUBLISH_TIMEOUT_SECONDS,
    ) -> PubAck:
        """Store a message. If the stream knows `msg_id`, nothing is stored, and the acknowledgement names the first
        message. `seconds`: how long the acknowledgement may take.

        Raises PayloadTooLarge; Conflict (only with an expected sequence in `headers`); StoreFull if there is no room
        (a limit; or a full disk, when the server answers questions and acknowledges nothing); BrokerUnavailable if no
        acknowledgement came (the message may or may not be stored, so the caller must be able to repeat) or the
        server cannot store now (no leader: its 5xx); nats-py's APIError for any other refusal (4xx).
        """
        out = {**JSON_HEADER, **(headers or {})}
        if msg_id is not None:
            out["Nats-Msg-Id"] = msg_id
        self._check_size(subject, body, out)
        await self._wait_connected()
        began, losses = asyncio.get_running_loop().time(), self.nc.losses
        try:
            ack = await self.js.publish(subject, body, timeout=seconds, headers=out)
        except nats.js.errors.APIError as error:
            if error.err_code in _WRONG_LAST_SEQUENCE:
                raise Conflict(subject) from error
            if error.err_code in _NO_ROOM:
                raise self._full(stream_of(subject) or "", error.description or str(error)) from error
            if error.err_code != _IN_PROCESS and (error.code is None or error.code < _SERVER_TROUBLE):
                raise
            raise unavailable(self._where(), error) from error
        except TimeoutError as error:  # nats-py's own is one, too
            raise await self._unacknowledged(subject, seconds, began, losses, error) from error
        except nats.js.errors.NoStreamResponseError as error:
            lacking = await self.quorum.problem(stream_of(subject) or "")
            if lacking is not None:
                raise NoQuorum(self._where(), lacking) from error
            raise StreamSilent(self._where(), subject) from error
        except (nats.errors.Error, nats.js.errors.Error) as error:
            raise unavailable(self._where(), error) from error
        if not may_acknowledge(ack.stream, subject):
            # It says nothing of where the message is, or whether it is stored: as if none had come.
            self.nc.forgeries.note(Forgery.ACKNOWLEDGEMENT, subject)
            raise BrokerUnavailable(self._where(), "the acknowledgement names another stream")
        self.health.stored(ack.stream)
        return PubAck(int(ack.seq), duplicate=bool(ack.duplicate))

    async def _unacknowledged(
        self, subject: str, seconds: float, began: float, losses: int, error: TimeoutError
    ) -> BrokerUnavailable:
        """What it means that no acknowledgement came within `seconds`. `began`: when the message was sent (the event loop's
        time). `losses`: of the connection, until then."""
        stream = stream_of(subject) or ""
        waited = asyncio.get_running_loop().time() - began
        if waited > seconds + STOOD_STILL_SECONDS:
            # This process stood still: the acknowledgement may wait to be read.
            return BrokerUnavailable(self._where(), "this process stood still")
        lacking = await self.quorum.problem(stream)
        if lacking is not None:
            return NoQuorum(self._where(), lacking)
        info = await self.quorum.stream_info(stream)
        if info and not could_store(info, waited):
            return Unacknowledged(self._where(), "the servers of its stream lost each other meanwhile")
        may_be_one_server = is_replicated(info) and not self.health.is_silent_again(stream, began)
        if info and not may_be_one_server and self.nc.losses == losses:
            # nats-server (2.15) says nothing of a full disk.
            return self._full(stream, f"it answers, and acknowledged no write within {seconds:g} s")
        if await self._is_there():
            return Unacknowledged(self._where(), reason(error))
        return unavailable(self._where(), error)

    def _full(self, stream: str, why: str) -> StoreFull:
        full = StoreFull(self._where(), stream, why)
        self.health.refused(stream, str(full))
        return full

    async def _is_there(self) -> bool:
        """Whether the server answers a PING, which needs no right."""
        if not self.connected:
            return False  # nats-py's flush returns at once while it reconnects
        try:
            await self.nc.flush(_ANSWER_SECONDS)
        except (nats.errors.Error, TimeoutError, OSError):
            return False
        return self.connected

    async def broadcast(self, subject: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send over core NATS: to the subscribers of this moment, at most once. Raises PayloadTooLarge,
        BrokerUnavailable."""
        out = {**JSON_HEADER, **(headers or {})}
        self._check_size(subject, body, out)
        await self._wait_connected()
        try:
            await self.nc.publish(subject, body, headers=out)
        except nats.errors.Error as error:
            raise unavailable(self._where(), error) from error

    async def anybody_answers(self, subject: str, body: bytes, seconds: float) -> bool:
        """Whether anybody answers this question over core NATS within `seconds`. At once False if nobody listens."""
        try:
            await self.nc.request(subject, body, timeout=seconds)
        except (nats.errors.Error, TimeoutError):
            return False
        return True

    async def _wait_connected(self) -> None:
        """Wait for a connection, as long as an acknowledgement may take. Raises BrokerUnavailable.

        Without this nats-py would keep messages while NATS is away and send them when it is back, beside their
        repetitions: subscribers of core NATS got every fourth ending twice after a minute's absence (measured).
        """
        if self.connected:
            return
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT_SECONDS):
                await self.nc.wait_connected()
        except (TimeoutError, nats.errors.ConnectionClosedError) as error:
            raise BrokerUnavailable(self._where(), "not connected") from error

    async def schedule(self, timer: str, target: str, at: float, body: bytes) -> None:
        """Have the server publish `body` to `target` at the instant `at`. A schedule under the same `timer` is
        replaced."""
        # Rounded up to a millisecond: a timer must not fire early.
        when = format_timestamp(math.ceil(at * 1000) / 1000)
        await self.publish(
            timer, body, headers={"Nats-Schedule": f"@at {when}", "Nats-Schedule-Target": target}
        )

    async def get(self, stream: str, seq: int) -> StoredMessage | None:
        """The message at `seq`, or None if the stream no longer holds it."""
        with self.translate_errors():
            try:
                raw = await self._at(stream, seq)
            except nats.js.errors.NotFoundError:
                return None
        return _stored(raw, seq)

    async def _at(self, stream: str, seq: int) -> RawStreamMsg:
        try:
            return await self.js.get_msg(stream, seq=seq, direct=True)
        except (
            nats.js.errors.APIError,
            nats.errors.NoRespondersError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
        ):
            # Any replica answers a direct get, even one that lags (nats-server#4710), and the answer has the
            # message's own headers, which nats-py may not be able to read, or which may look like a refusal by the
            # server. Ask the leader instead.
            return await self.js.get_msg(stream, seq=seq)

    async def get_last(self, stream: str, subject: str) -> StoredMessage | None:
        """The newest message under `subject`, or None. It asks the stream's leader: a direct get may be answered by a
        stale replica (nats-server#4710)."""
        with self.translate_errors():
            try:
                raw = await self.js.get_msg(stream, subject=subject)
            except nats.js.errors.NotFoundError:
                return None
        return _stored(raw, int(raw.seq or 0))

    @contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Raises nats-py's errors in the block as BrokerUnavailable. Also for callers that use `js` or `nc`
        directly."""
        try:
            yield
        except (nats.errors.Error, TimeoutError) as error:
            if isinstance(error, TimeoutError) and self.connected:
                raise Unanswered(self._where(), reason(error)) from error
            raise unavailable(self._where(), error) from error

    async def why_silent(self, subject: str, seconds: float) -> Unavailable:
        """Why a service that listens did not answer a question within `seconds`. It needs no right but to ask."""
        if not await self._is_there():
            return BrokerUnavailable(self._where(), f"no answer within {seconds:g} s")
        lacking = await self.quorum.problem(stream_of(subject) or topology.DELIBERATIONS)
        own = self.nc.access.inbox_prefix
        return (
            ServiceSilent(self._where(), seconds, own)
            if lacking is None
            else NoQuorum(self._where(), lacking)
        )

    def _check_size(self, subject: str, body: bytes, headers: Mapping[str, str]) -> None:
        # With four bytes for each letter.
        head = 12 + 4 * (len("".join(headers)) + len("".join(headers.values())) + len(headers))
        if head <= MAX_HEADER_BYTES and head + len(body) <= self.max_payload:
            return
        # "NATS/1.0\r\n", then "key: value\r\n" each, then "\r\n".
        head = 12 + sum(len(key) + len(value.encode()) + 4 for key, value in headers.items())
        if head > MAX_HEADER_BYTES:
            raise PayloadTooLarge(subject, head, MAX_HEADER_BYTES)
        if head + len(body) > self.max_payload:
            raise PayloadTooLarge(subject, head + len(body), self.max_payload)

    def _where(self) -> str:
        url = self.nc.connected_url
        return masked(url.geturl()) if url is not None else "(disconnected)"


def _stored(raw: RawStreamMsg, seq: int) -> StoredMessage:
    return StoredMessage(
        seq=seq,
        subject=raw.subject or "",
        data=raw.data or b"",
        headers=dict(raw.headers or {}),
        at=raw.time.timestamp() if raw.time is not None else None,
    )
