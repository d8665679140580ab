"""Reads of a stream that make no consumer, for clients: the server answers each with messages.

A right to make consumers is a right to have the server write anywhere: a consumer's owner says where it delivers.
These need the right to `$JS.API.DIRECT.GET.<stream>` only. Any replica answers, so they may lag behind by a moment.
"""

import json
from collections.abc import AsyncGenerator
from contextlib import suppress

import nats.errors
from nats.aio.msg import Msg

from parley.broker.core.errors import BrokerUnavailable, StreamNotFound
from parley.broker.jetstream.connection import PUBLISH_TIMEOUT_SECONDS
from parley.broker.jetstream.jetstream import JetStream, StoredMessage

# Bounds of one answer. The server ends it before it passes the second.
BATCH = 256
BATCH_BYTES = 4 * 1024 * 1024

_NOT_FOUND = "404"
# What JetStream adds to a message that it reads directly.
_OWN_HEADERS = (
    "Nats-Stream",
    "Nats-Subject",
    "Nats-Sequence",
    "Nats-Time-Stamp",
    "Nats-Num-Pending",
    "Nats-Last-Sequence",
)


def _direct_subject(stream: str, subject: str = "") -> str:
    return f"$JS.API.DIRECT.GET.{stream}{f'.{subject}' if subject else ''}"


async def read_last(jetstream: JetStream, stream: str, subject: str) -> StoredMessage | None:
    """The newest message under `subject`, None without one. Raises StreamNotFound, BrokerUnavailable."""
    with jetstream.translate_errors():
        try:
            answer = await jetstream.nc.request(
                _direct_subject(stream, subject), b"", PUBLISH_TIMEOUT_SECONDS
            )
        except nats.errors.NoRespondersError as error:
            raise StreamNotFound(stream) from error
    status = (answer.headers or {}).get("Status")
    if status is None:
        return _stored(answer)
    if status == _NOT_FOUND:
        return None
    raise BrokerUnavailable("the connected server", f"reading {stream} was refused with status {status}")


async def read_all(jetstream: JetStream, stream: str, subject: str) -> AsyncGenerator[StoredMessage, None]:
    """Every message under `subject`, oldest first, up to the stream's end. Raises as `read_last`."""
    first, more = 1, True
    while more:
        more = False
        async for message, pending in _batch(jetstream, stream, subject, first):
            first, more = message.seq + 1, pending > 0
            yield message


async def _batch(
    jetstream: JetStream, stream: str, subject: str, first: int
) -> AsyncGenerator[tuple[StoredMessage, int], None]:
    """Messages from `first` on, each with how many are left after it."""
    inbox = jetstream.nc.new_inbox()
    asked = {"seq": first, "next_by_subj": subject, "batch": BATCH, "max_bytes": BATCH_BYTES}
    with jetstream.translate_errors():
        subscription = await jetstream.nc.subscribe(inbox)
    try:
        with jetstream.translate_errors():
            await jetstream.nc.ask(_direct_subject(stream), json.dumps(asked).encode(), inbox)
        while True:
            with jetstream.translate_errors():
                try:
                    message = await subscription.next_msg(timeout=PUBLISH_TIMEOUT_SECONDS)
                except nats.errors.NoRespondersError as error:
                    raise StreamNotFound(stream) from error
            status = (message.headers or {}).get("Status")
            if status == "503":
                raise StreamNotFound(stream)
            if status is not None:  # the end of this answer, or nothing under the subject
                return
            yield _stored(message), int((message.headers or {}).get("Nats-Num-Pending", "0"))
    finally:
        with suppress(nats.errors.Error):
            await subscription.unsubscribe()


def _stored(message: Msg) -> StoredMessage:
    headers = dict(message.headers or {})
    subject, seq = headers.get("Nats-Subject", ""), int(headers.get("Nats-Sequence", "0"))
    own = {key: value for key, value in headers.items() if key not in _OWN_HEADERS}
    return StoredMessage(seq=seq, subject=subject, data=message.data, headers=own)
