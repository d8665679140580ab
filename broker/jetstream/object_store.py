"""Objects: data that is too large for a message, in chunks in a NATS object store (ADR-20).

nats-py's `put` needs the whole object at once, and its chunks of 128 KiB do not fit a small `max_payload`. Here an
object is written as its data comes. Object store clients in any language can read it.
"""

import asyncio
import base64
import hashlib
import json
import secrets
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from typing import Any

import nats.errors
import nats.js.errors

from parley.broker.core.backoff import backoff
from parley.broker.core.errors import (
    BrokerUnavailable,
    ObjectGone,
    ObjectNotStored,
    ParleyError,
    StoreFull,
    StreamNotFound,
)
from parley.broker.core.messages import ResultsRef
from parley.broker.jetstream.direct_reads import read_all, read_last
from parley.broker.jetstream.jetstream import JetStream, StoredMessage

# As other clients have it. Smaller where `max_payload` is.
CHUNK_BYTES = 128 * 1024
# A store that refuses is tried again for this long: a full one may get room, a stream's leader may be elected.
REFUSED_SECONDS = 3.0
# One that does not answer is asked twice at least: a busy server's acknowledgement may be late.
LEAST_TRIES = 2
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 0.05, 0.5
# An object that changes while it is read is read again.
READ_TRIES = 3


class ObjectWriter:
    """Writes one object, a chunk as soon as it is full. `close` makes it visible, `abandon` removes what was written.

    `refused_seconds`: how long each chunk is tried again while the store refuses it.
    """

    def __init__(
        self, jetstream: JetStream, bucket: str, name: str, *, refused_seconds: float = REFUSED_SECONDS
    ) -> None:
        self._jetstream = jetstream
        self._bucket = bucket
        self._name = name
        self._refused_seconds = refused_seconds
        # Half of `max_payload`: headers come beside it.
        self._chunk_bytes = min(CHUNK_BYTES, jetstream.max_payload // 2)
        # Names the chunks, so that those of an earlier object of this name stay readable.
        self._nuid = secrets.token_hex(11)
        # What does not fill a chunk yet.
        self._rest = bytearray()
        # Chunks and bytes written.
        self._chunks = self._size = 0
        self._digest = hashlib.sha256()

    async def write(self, data: bytes) -> None:
        """Add `data`. Raises ObjectNotStored, and BrokerUnavailable while NATS is away."""
        self._rest += data
        while len(self._rest) >= self._chunk_bytes:
            chunk = bytes(self._rest[: self._chunk_bytes])
            del self._rest[: self._chunk_bytes]
            await self._write(chunk)

    async def close(self) -> ResultsRef:
        """Write the rest, then the entry that names the chunks. Replaces an object of this name. Raises as `write`."""
        if self._rest:
            await self._write(bytes(self._rest))
            self._rest.clear()
        digest = f"SHA-256={base64.urlsafe_b64encode(self._digest.digest()).decode()}"
        ref = ResultsRef(bucket=self._bucket, name=self._name, size=self._size, digest=digest)
        before = await _entry(self._jetstream, self._bucket, self._name)
        if before is not None and (before.get("digest"), before.get("size")) == (digest, self._size):
            # Written before, by another process perhaps: clients may be reading those chunks.
            await self.abandon()
            return ref
        entry = {
            "name": self._name, "bucket": self._bucket, "nuid": self._nuid, "size": self._size, "chunks": self._chunks,
            "digest": digest, "mtime": datetime.now(UTC).isoformat(), "options": {"max_chunk_size": self._chunk_bytes},
        }  # fmt: skip
        subject = _entry_subject(self._bucket, self._name)
        await self._store(subject, json.dumps(entry).encode(), self._nuid, {"Nats-Rollup": "sub"})
        if before is not None and before.get("nuid"):
            await self._purge(str(before["nuid"]))
        return ref

    async def abandon(self) -> None:
        """Remove the chunks that were written. Raises nothing: what stays is removed with its stream's `max_age`."""
        await self._purge(self._nuid)

    async def _write(self, chunk: bytes) -> None:
        self._digest.update(chunk)
        msg_id = f"{self._nuid}:{self._chunks}"
        await self._store(_chunks_subject(self._bucket, self._nuid), chunk, msg_id, {})
        self._chunks += 1
        self._size += len(chunk)

    async def _store(self, subject: str, body: bytes, msg_id: str, headers: dict[str, str]) -> None:
        """Store one message; its Msg-Id makes it safe to try again. Raises ObjectNotStored, BrokerUnavailable."""
        headers["content-type"] = "application/octet-stream"
        loop, nc = asyncio.get_running_loop(), self._jetstream.nc
        began, reconnects, tries = loop.time(), nc.reconnects, 0
        while True:
            try:
                await self._jetstream.publish(subject, body, msg_id=msg_id, headers=headers)
                return
            except (BrokerUnavailable, nats.js.errors.APIError) as error:
                if not self._jetstream.connected:
                    raise  # all of NATS is away, not this store
                if nc.reconnects != reconnects:
                    began, reconnects = loop.time(), nc.reconnects
                tries += 1
                sure = tries >= LEAST_TRIES or isinstance(error, StoreFull)
                if sure and loop.time() - began >= self._refused_seconds:
                    raise ObjectNotStored(self._bucket, _reason(error)) from error
            await asyncio.sleep(backoff(tries, FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS))

    async def _purge(self, nuid: str) -> None:
        if not self._jetstream.connected:
            return
        with suppress(nats.errors.Error, TimeoutError):
            subject = _chunks_subject(self._bucket, nuid)
            await self._jetstream.js.purge_stream(_stream(self._bucket), subject=subject)


async def put_object(jetstream: JetStream, bucket: str, name: str, data: bytes) -> ResultsRef:
    """Claim-check: keep `data`; the reference says where. Replaces an object of this name. Raises ObjectNotStored,
    BrokerUnavailable."""
    writer = ObjectWriter(jetstream, bucket, name)
    try:
        await writer.write(data)
        return await writer.close()
    except ParleyError:
        await writer.abandon()
        raise


async def get_object(jetstream: JetStream, ref: ResultsRef) -> bytes:
    """The data of an object, whole. Raises ObjectGone if it is not kept (any more), BrokerUnavailable."""
    for _ in range(READ_TRIES):
        try:
            stored = await read_last(jetstream, _stream(ref.bucket), _entry_subject(ref.bucket, ref.name))
        except StreamNotFound as error:
            raise ObjectGone(ref.bucket, ref.name) from error
        entry = _usable(stored)
        if entry is None:
            raise ObjectGone(ref.bucket, ref.name)
        if not entry.get("size"):
            return b""
        # Direct reads: clients have no right to others.
        found = read_all(jetstream, _stream(ref.bucket), _chunks_subject(ref.bucket, str(entry.get("nuid"))))
        async with aclosing(found) as chunks:
            data = b"".join([chunk.data async for chunk in chunks])
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode()
        if str(entry.get("digest")).partition("=")[2].rstrip("=") == digest.rstrip("="):
            return data
    raise BrokerUnavailable(
        "the connected server", f"object {ref.bucket}/{ref.name} does not have its digest"
    )


async def delete_object(jetstream: JetStream, bucket: str, name: str) -> None:
    """Delete an object, if it is there. Raises BrokerUnavailable."""
    with jetstream.translate_errors(), suppress(nats.js.errors.NotFoundError):
        store = await jetstream.js.object_store(bucket)
        await store.delete(name)


async def _entry(jetstream: JetStream, bucket: str, name: str) -> dict[str, Any] | None:
    """What the store says of the object, None if it has none."""
    return _usable(await jetstream.get_last(_stream(bucket), _entry_subject(bucket, name)))


def _usable(stored: StoredMessage | None) -> dict[str, Any] | None:
    if stored is None:
        return None
    try:
        entry = json.loads(stored.data)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and not entry.get("deleted") else None


def _stream(bucket: str) -> str:
    return f"OBJ_{bucket}"


def _chunks_subject(bucket: str, nuid: str) -> str:
    return f"$O.{bucket}.C.{nuid}"


def _entry_subject(bucket: str, name: str) -> str:
    return f"$O.{bucket}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"


def _reason(error: Exception) -> str:
    if isinstance(error, BrokerUnavailable):
        return error.reason
    return str(getattr(error, "description", None) or error)
