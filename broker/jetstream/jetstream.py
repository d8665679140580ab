"""The JetStream verbs everything else uses: publish, broadcast, schedule, read back, keep an object.

Knows headers and limits. Does not know what a deliberation is. nats-py's errors are translated here, once.
"""

import asyncio
import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import nats.errors
import nats.js.errors
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg

from parley.broker.core.errors import BrokerUnavailable, Conflict, PayloadTooLarge
from parley.broker.core.messages import ResultsRef
from parley.broker.core.timestamps import format_timestamp
from parley.broker.core.urls import masked
from parley.broker.jetstream.connection import PUBLISH_TIMEOUT_SECONDS, reason
from parley.broker.jetstream.nats_client import NatsClient

# JetStream stores the size of a message's headers in 16 bits.
MAX_HEADER_BYTES = 65_535
# JetStream's errors for a refused compare-and-set. A stream with replicas says 10164 while another write is being agreed on.
_WRONG_LAST_SEQUENCE = frozenset({10071, 10164})
# Its codes are HTTP's: from here on it is the server's trouble and may pass.
_SERVER_TROUBLE = 500
JSON_HEADER = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as the stream holds it."""

    seq: int
    subject: str
    data: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PubAck:
    """Where a published message is. `duplicate`: JetStream had its Msg-Id already, and kept whatever came with it then."""

    seq: int
    duplicate: bool = False


class JetStream:
    """The verbs. Made from an open connection, which stays its opener's to close."""

    def __init__(self, nc: NatsClient) -> None:
        self.nc = nc
        self.js: JetStreamContext = nc.jetstream(timeout=PUBLISH_TIMEOUT_SECONDS)

    @property
    def connected(self) -> bool:
        return bool(self.nc.is_connected)

    @property
    def closed(self) -> bool:
        """Closed for good: nats-py does not come back from most errors that a server states (a token that is no longer right)."""
        return bool(self.nc.is_closed)

    @property
    def max_payload(self) -> int:
        """Bytes one message may have, headers included, as the server says."""
        return int(self.nc.max_payload)

    async def publish(
        self,
        subject: str,
        body: bytes,
        *,
        msg_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> PubAck:
        """Store a message. With a `msg_id` seen before nothing is stored, and the place is the first one's.

        Raises PayloadTooLarge, Conflict (only with an expected sequence in `headers`), or BrokerUnavailable when no PubAck came:
        the message may or may not be stored, so whatever led to it must be safe to do again. A server that cannot store now
        (disk full, no leader: its 5xx) is unavailable too; what it calls our mistake (4xx) is raised as nats-py's APIError.
        """
        out = {**JSON_HEADER, **(headers or {})}
        if msg_id is not None:
            out["Nats-Msg-Id"] = msg_id
        self._check_size(subject, body, out)
        await self._wait_connected()
        try:
            ack = await self.js.publish(subject, body, headers=out)
        except nats.js.errors.APIError as error:
            if error.err_code in _WRONG_LAST_SEQUENCE:
                raise Conflict(subject) from error
            if error.code is None or error.code < _SERVER_TROUBLE:
                raise
            raise BrokerUnavailable(self._where(), reason(error)) from error
        except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as error:
            raise BrokerUnavailable(self._where(), reason(error)) from error
        return PubAck(int(ack.seq), duplicate=bool(ack.duplicate))

    async def broadcast(self, subject: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send over core NATS: to whoever listens now, at most once."""
        out = {**JSON_HEADER, **(headers or {})}
        self._check_size(subject, body, out)
        await self._wait_connected()
        try:
            await self.nc.publish(subject, body, headers=out)
        except nats.errors.Error as error:
            raise BrokerUnavailable(self._where(), reason(error)) from error

    async def _wait_connected(self) -> None:
        """Wait for a connection. Raises BrokerUnavailable when none comes in the time a PubAck may take.

        nats-py would keep what is written meanwhile and send it on its return, beside whatever had been written again by then:
        listeners of core NATS heard every fourth ending twice after a minute's absence (measured).
        """
        if self.connected:
            return
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT_SECONDS):
                await self.nc.wait_connected()
        except (TimeoutError, nats.errors.ConnectionClosedError) as error:
            raise BrokerUnavailable(self._where(), "not connected") from error

    async def schedule(self, timer: str, target: str, at: float, body: bytes) -> None:
        """Have the server store `body` under `target` at the instant `at`. A second order under `timer` replaces the first."""
        # Up to the next millisecond: a timer must not fire before its time.
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
            # Any replica answers a direct get, one that lags too (nats-server#4710). The leader knows. And its answer is not made
            # of the message's own headers, which may be none that nats-py can read, or look like the server's own refusal.
            return await self.js.get_msg(stream, seq=seq)

    async def get_last(self, stream: str, subject: str) -> StoredMessage | None:
        """The newest message under `subject` as the stream's leader has it, or None. A direct get would be served by any
        replica, a stale one too (nats-server#4710)."""
        with self.translate_errors():
            try:
                raw = await self.js.get_msg(stream, subject=subject)
            except nats.js.errors.NotFoundError:
                return None
        return _stored(raw, int(raw.seq or 0))

    async def put_object(self, bucket: str, name: str, data: bytes) -> ResultsRef:
        """Claim-check: keep `data` in an object store and say where. The same name again replaces it. Raises BrokerUnavailable."""
        with self.translate_errors():
            store = await self.js.object_store(bucket)
            info = await store.put(name, data)
        digest = info.digest or f"SHA-256={hashlib.sha256(data).hexdigest()}"
        return ResultsRef(bucket=bucket, name=name, size=len(data), digest=digest)

    async def get_object(self, ref: ResultsRef) -> bytes:
        """What `put_object` kept. nats-py checks the digest. Raises BrokerUnavailable, also for what is no longer kept."""
        with self.translate_errors():
            store = await self.js.object_store(ref.bucket)
            return (await store.get(ref.name)).data or b""

    async def delete_object(self, bucket: str, name: str) -> None:
        """Forget what `put_object` kept; nothing, if it is not kept. Raises BrokerUnavailable."""
        with self.translate_errors(), suppress(nats.js.errors.NotFoundError):
            store = await self.js.object_store(bucket)
            await store.delete(name)

    @contextmanager
    def translate_errors(self) -> Iterator[None]:
        """nats-py's errors in the block are raised as BrokerUnavailable; also for who uses `js` or `nc` beside these verbs."""
        try:
            yield
        except (nats.errors.Error, TimeoutError) as error:
            raise BrokerUnavailable(self._where(), reason(error)) from error

    def _check_size(self, subject: str, body: bytes, headers: Mapping[str, str]) -> None:
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
        seq=seq, subject=raw.subject or "", data=raw.data or b"", headers=dict(raw.headers or {})
    )
