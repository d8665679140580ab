"""Reads of a stream that make no consumer, for clients: the server answers each with messages.

A right to make consumers is a right to have the server write anywhere: a consumer's owner says where it delivers.
These need the right to `$JS.API.DIRECT.GET.<stream>` only. Any replica answers, so they may lag behind by a moment.
"""

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import nats.errors
from nats.aio.msg import Msg

from parley.broker.core.errors import BrokerUnavailable, StreamNotFound
from parley.broker.jetstream.connection import PUBLISH_TIMEOUT_SECONDS
from parley.broker.jetstream.jetstream import JetStream, StoredMessage

# Bounds of one answer. The server ends it before it passes the second.
BATCH = 256
BATCH_BYTES = 4 * 1024 * 1024

_NOT_FOUND = "404"
_END_OF_BATCH = "204"
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
    raise _refused(stream, status)


async def read_all(
    jetstream: JetStream, stream: str, subject: str, *, first: int = 1
) -> AsyncGenerator[StoredMessage, None]:
    """Every message under `subject` from the place `first` on, oldest first, up to the stream's end. Raises as
    `read_last`."""
    more = True
    while more:
        more = False
        async for message, pending in _batch(jetstream, stream, subject, first):
            first, more = message.seq + 1, pending > 0
            yield message


async def read_changed(
    jetstream: JetStream, stream: str, subjects: Sequence[str], since: int
) -> tuple[list[StoredMessage], int]:
    """The newest message under each of these subjects, at most 1,024, where it is at or after the place `since`; and up
    to which place the stream was looked at. Raises as `read_last`."""
    found: list[StoredMessage] = []
    upto: int | None = None
    more = True
    while more:
        asked: dict[str, Any] = {"multi_last": list(subjects), "seq": since, "batch": BATCH}
        if upto is not None:
            asked["up_to_seq"] = upto
        before = len(found)
        async for message in _answers(jetstream, stream, asked):
            headers = message.headers or {}
            if headers.get("Status") is None:
                found.append(_stored(message))
                since = found[-1].seq + 1
            elif headers["Status"] == _END_OF_BATCH:
                upto = upto or int(headers.get("Nats-UpTo-Sequence", "0"))
                more = int(headers.get("Nats-Num-Pending", "0")) > 0 and len(found) > before
            elif headers["Status"] == _NOT_FOUND:
                more = False
            else:
                raise _refused(stream, headers["Status"])
    return found, upto or since - 1


async def _batch(
    jetstream: JetStream, stream: str, subject: str, first: int
) -> AsyncGenerator[tuple[StoredMessage, int], None]:
    """Messages from `first` on, each with how many are left after it."""
    asked = {"seq": first, "next_by_subj": subject, "batch": BATCH, "max_bytes": BATCH_BYTES}
    async for message in _answers(jetstream, stream, asked):
        if (message.headers or {}).get("Status") is None:
            yield _stored(message), int((message.headers or {}).get("Nats-Num-Pending", "0"))


async def _answers(jetstream: JetStream, stream: str, asked: Mapping[str, Any]) -> AsyncGenerator[Msg, None]:
    """What the server answers to one question, the last with a status: the end of the answer, or that nothing is there."""
    inbox = jetstream.nc.new_inbox()
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
            yield message
            if status is not None:
                return
    finally:
        with suppress(nats.errors.Error):
            await subscription.unsubscribe()


def _refused(stream: str, status: str) -> BrokerUnavailable:
    return BrokerUnavailable("the connected server", f"reading {stream} was refused with status {status}")


def _stored(message: Msg) -> StoredMessage:
    headers = dict(message.headers or {})
    subject, seq = headers.get("Nats-Subject", ""), int(headers.get("Nats-Sequence", "0"))
    own = {key: value for key, value in headers.items() if key not in _OWN_HEADERS}
    return StoredMessage(seq=seq, subject=subject, data=message.data, headers=own)
