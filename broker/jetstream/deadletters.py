"""A dead letter: a message nobody could use, whole in DEAD_LETTERS, with why and where from in its headers.

The one place where those headers have their names: written by `bury`, read back as a `DeadLetter`. Why a message is given up is
`parley.handlers.settle`'s to decide, and what is in it nobody's here. A dead letter's headers are believed as little as any message's:
whoever may publish to `deadletter.>` can forge one.
"""

import re
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass

import nats.js.errors
from nats.aio.msg import Msg

from parley.broker.core.errors import (
    BrokerUnavailable,
    InvalidMessage,
    ParleyError,
    PayloadTooLarge,
    StreamNotFound,
)
from parley.broker.core.messages import ResultsRef
from parley.broker.core.timestamps import format_timestamp
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream, PubAck
from parley.broker.jetstream.scan import scan
from parley.broker.jetstream.topology import DEAD_LETTERS, RESULTS_BUCKET, Durable, dead_letter_subject

REASON = "Parley-Reason"
STREAM = "Parley-Stream"
CONSUMER = "Parley-Consumer"
SEQUENCE = "Parley-Sequence"
DELIVERIES = "Parley-Deliveries"
STORED_AT = "Parley-Stored-At"
PAYLOAD_BUCKET = "Parley-Payload-Bucket"
PAYLOAD_NAME = "Parley-Payload-Name"
PAYLOAD_SIZE = "Parley-Payload-Size"
# Before a header that the server would act upon, had it kept its name.
ORIGINAL = "Parley-Original-"

# A dead letter's headers say why, up to this length.
MAX_REASON_CHARACTERS = 500
# `newest` first looks at so many sequences from the end; where others were removed or another subject's, at ever more.
FIRST_WINDOW = 64
# Letters come whole, for the server cannot be asked for less (`parley.broker.jetstream.scan`): so many at a time, or so many bytes of them.
BATCH = 16
BATCH_BYTES = 16 * 1024 * 1024

# What a dead letter may be put back on, and the stream that takes it: what our consumers give up on, and nothing by wildcard.
# Not the endings, of which each deliberation has one; nor timers and deadlines, which the service keeps by itself.
REPLAYABLE: Mapping[str, str] = {
    topology.REQUESTED: topology.DELIBERATIONS,
    topology.CANCEL: topology.DELIBERATIONS,
    topology.AGENT_REQUESTED: topology.AGENT_REQUESTS,
    topology.AGENT_COMPLETED: topology.AGENT_RESPONSES,
    topology.AGENT_FAILED: topology.AGENT_RESPONSES,
}

# What nats-py will write (RFC 9110's tokens). It reads more than that; a header of any other name is left out.
_HEADER_KEY = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
# Subjects we take for what they are. Under a wildcard a sender may invent others, and longer ones than we could publish to.
_SUBJECT = re.compile(r"[A-Za-z0-9_$.-]{1,256}")
_TOKEN = r"(?:\*|[A-Za-z0-9_$-]+)"
_FILTER = re.compile(rf"(?:{_TOKEN}(?:\.{_TOKEN})*(?:\.>)?|>)")


class CannotReplay(ParleyError):
    """This dead letter cannot be put back. It stays where it is."""

    def __init__(self, seq: int, reason: str) -> None:
        super().__init__(seq, reason)
        self.seq = seq
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.seq}: {self.reason}"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """`seq`: its place in DEAD_LETTERS; `stream` and `sequence`: the original's. None or "" is what its headers do not say.

    `size`: of the payload in bytes, wherever that is; `put_object`: its name in the object store, if it did not fit in here.
    `headers`: the sender's own; `control_headers`: those that NATS acted upon, which a replay leaves out.
    """

    seq: int
    subject: str
    reason: str
    stream: str
    sequence: int | None
    consumer: str
    deliveries: int | None
    stored_at: str
    buried_at: float
    size: int | None
    put_object: str | None
    headers: Mapping[str, str]
    control_headers: Mapping[str, str]

    @classmethod
    def of(cls, message: Msg) -> "DeadLetter":
        """A message of DEAD_LETTERS. Its payload is not kept, only how long it is."""
        headers = message.headers or {}
        stream, sequence, consumer = (
            headers.get(STREAM, ""),
            _number(headers.get(SEQUENCE)),
            headers.get(CONSUMER, ""),
        )
        name = headers.get(PAYLOAD_NAME)
        # A forged one may name any object. Only a dead letter's is believed, of the origin it claims; never somebody's results.
        own = _aside_name(stream, sequence, consumer) if sequence is not None else None
        aside = headers.get(PAYLOAD_BUCKET) == RESULTS_BUCKET and name is not None and name == own
        return cls(
            seq=message.metadata.sequence.stream,
            subject=message.subject.removeprefix(dead_letter_subject("")),
            reason=headers.get(REASON, ""),
            stream=stream,
            sequence=sequence,
            consumer=consumer,
            deliveries=_number(headers.get(DELIVERIES)),
            stored_at=headers.get(STORED_AT, ""),
            buried_at=message.metadata.timestamp.timestamp(),
            size=_number(headers.get(PAYLOAD_SIZE)) if aside else len(message.data),
            put_object=name if aside else None,
            headers=_senders(headers),
            control_headers={
                key.removeprefix(ORIGINAL): value
                for key, value in headers.items()
                if key.startswith(ORIGINAL)
            },
        )


# ── writing one ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class OriginalMessage:
    """The message to be buried, as it was delivered for the `count`th time. `at`: when it was stored."""

    subject: str
    data: bytes
    headers: Mapping[str, str]
    seq: int
    at: float
    count: int


async def dead_letter(wire: JetStream, durable: Durable, message: OriginalMessage, reason: str) -> None:
    """Put a message into DEAD_LETTERS. Once, however often it is tried: its origin is its Msg-Id."""
    ours = {
        REASON: _header_safe(reason),
        STREAM: durable.stream,
        CONSUMER: durable.name,
        SEQUENCE: str(message.seq),
        DELIVERIES: str(message.count),
        STORED_AT: format_timestamp(message.at),
    }
    kept = {
        f"{ORIGINAL}{key}": value for key, value in _writable(message.headers).items() if _is_control(key)
    }
    msg_id = f"dead:{durable.stream}:{message.seq}:{durable.name}"
    known = message.subject if _SUBJECT.fullmatch(message.subject) else durable.filter.rstrip(".*")
    subject = dead_letter_subject(known)
    try:
        await wire.publish(
            subject, message.data, msg_id=msg_id, headers={**_senders(message.headers), **kept, **ours}
        )
    except PayloadTooLarge:
        # The payload fits, since it came; with our headers it does not. It is put aside whole, and the dead letter says where.
        ref = await wire.put_object(
            RESULTS_BUCKET, _aside_name(durable.stream, message.seq, durable.name), message.data
        )
        aside = {PAYLOAD_BUCKET: ref.bucket, PAYLOAD_NAME: ref.name, PAYLOAD_SIZE: str(ref.size)}
        await wire.publish(subject, b"", msg_id=msg_id, headers={**ours, **aside})


def _aside_name(stream: str, seq: int, consumer: str) -> str:
    # Results are kept in the same bucket under their task_id, which has no dots.
    return f"dead.letter.{stream}.{seq}.{consumer}"


def _header_safe(text: str) -> str:
    return " ".join(text.split()).encode("ascii", "replace").decode()[:MAX_REASON_CHARACTERS]


def _writable(headers: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in headers.items() if _HEADER_KEY.fullmatch(key)}


def _senders(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that are neither NATS's nor ours."""
    return {
        key: value
        for key, value in _writable(headers).items()
        if not _is_control(key) and not key.lower().startswith("parley-")
    }


def _is_control(key: str) -> bool:
    return key.lower().startswith("nats-")


def _number(text: str | None) -> int | None:
    # No sequence or size has more digits; Python would refuse to read some thousands of them.
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,20}", text) else None


# ── all of them ───────────────────────────────────────────────────────────────────────────────────────────────────


class DeadLetters:
    """Those that a NATS keeps. `subject`: the original one, wildcards allowed. Every method raises StreamNotFound, BrokerUnavailable,
    and InvalidMessage for what is no subject."""

    def __init__(self, wire: JetStream) -> None:
        self._wire = wire

    async def newest(self, limit: int, *, subject: str | None = None) -> list[DeadLetter]:
        """At most `limit`, the newest first. No more than `limit` are held, and no payloads, however many there are."""
        _filter(subject)
        with self._wire.translate_errors():
            try:
                state = (await self._wire.js.stream_info(DEAD_LETTERS)).state
            except nats.js.errors.NotFoundError as error:
                raise StreamNotFound(DEAD_LETTERS) from error
        found: list[DeadLetter] = []
        end, window = state.last_seq, max(limit, FIRST_WINDOW)
        while len(found) < limit and end >= max(1, state.first_seq):
            start = max(1, state.first_seq, end - window + 1)
            latest: deque[DeadLetter] = deque(maxlen=limit - len(found))
            async with aclosing(self._walk(subject, first=start, last=end)) as letters:
                async for letter in letters:
                    latest.append(letter)
            found += reversed(latest)
            end, window = start - 1, 4 * window
        return found

    async def sequences(self, *, subject: str | None = None, before: float | None = None) -> list[int]:
        """Of all there are, the oldest first. `before`: only of those buried before that instant."""
        found = []
        async with aclosing(self._walk(subject)) as letters:
            async for letter in letters:
                if before is not None and letter.buried_at >= before:
                    break
                found.append(letter.seq)
        return found

    async def find(self, seq: int) -> DeadLetter | None:
        """The one at `seq`, or None if there is none (any more)."""
        message = await self._at(seq)
        return DeadLetter.of(message) if message is not None else None

    async def payload(self, letter: DeadLetter) -> bytes | None:
        """The original's payload, or None if it is no longer kept."""
        if letter.put_object is None:
            message = await self._at(letter.seq)
            return message.data if message is not None else None
        try:
            # The digest is nats-py's to know and to check.
            return await self._wire.get_object(
                ResultsRef(bucket=RESULTS_BUCKET, name=letter.put_object, size=0, digest="")
            )
        except BrokerUnavailable as error:
            if isinstance(error.__cause__, nats.js.errors.NotFoundError):
                return None
            raise

    async def replay(self, letter: DeadLetter, *, keep: bool = False) -> PubAck:
        """Store its payload under its original subject, with the sender's headers, then remove it (unless `keep`).

        The Msg-Id is the dead letter's: the original's could be one that JetStream still remembers, and would swallow it.
        Replayed again within the stream's window for duplicates (an hour for requests, two minutes for agents' messages), nothing
        is stored and the place is the first one's. Raises CannotReplay.
        """
        stream = REPLAYABLE.get(letter.subject)
        if stream is None:
            raise CannotReplay(
                letter.seq, f"{letter.subject} takes no replays; only {', '.join(REPLAYABLE)} do"
            )
        payload = await self.payload(letter)
        if payload is None:
            raise CannotReplay(letter.seq, "its payload is no longer kept")
        # Its time too, for the numbers of a stream that was made anew begin at 1.
        msg_id = f"replay:{letter.seq}:{round(letter.buried_at * 1000)}"
        try:
            placed = await self._wire.publish(letter.subject, payload, msg_id=msg_id, headers=letter.headers)
        except BrokerUnavailable as error:
            if isinstance(error.__cause__, nats.js.errors.NoStreamResponseError):
                raise StreamNotFound(stream) from error
            raise
        except PayloadTooLarge as error:
            raise CannotReplay(letter.seq, str(error)) from error
        except nats.js.errors.APIError as error:
            raise CannotReplay(letter.seq, f"NATS refused it: {error.description}") from error
        if not keep:
            await self.erase(letter)
        return placed

    async def erase(self, letter: DeadLetter) -> bool:
        """Remove one, and what was put aside for it unless another names that too. Whether it was still there."""
        with self._wire.translate_errors():
            try:
                await self._wire.js.delete_msg(DEAD_LETTERS, letter.seq)
                there = True
            except nats.js.errors.APIError:
                # The server has several codes for a message that is not there, some of which also mean other things.
                if await self.find(letter.seq) is not None:
                    raise
                there = False
        if letter.put_object is not None:
            await self._drop({letter.put_object})
        return there

    async def purge(self, last: int, *, subject: str | None = None) -> None:
        """Remove all up to the sequence `last`, and what was put aside for them unless one that stays names that too."""
        async with aclosing(self._walk(subject, last=last)) as letters:
            asides = {letter.put_object async for letter in letters if letter.put_object is not None}
        with self._wire.translate_errors():
            await self._wire.js.purge_stream(DEAD_LETTERS, seq=last + 1, subject=_filter(subject))
        await self._drop(asides)

    async def _drop(self, asides: set[str]) -> None:
        """What was put aside for letters that are gone. One of them may have been forged, to take another's with it."""
        if not asides:
            return
        async with aclosing(self._walk(None)) as letters:
            kept = {letter.put_object async for letter in letters if letter.put_object in asides}
        for name in asides - kept:
            await self._wire.delete_object(RESULTS_BUCKET, name)

    async def _walk(
        self, subject: str | None, *, first: int = 1, last: int | None = None
    ) -> AsyncGenerator[DeadLetter, None]:
        batch = _batch(self._wire.max_payload)
        async with aclosing(
            scan(self._wire, DEAD_LETTERS, _filter(subject), first=first, batch=batch)
        ) as messages:
            async for message in messages:
                if last is not None and message.metadata.sequence.stream > last:
                    return
                yield DeadLetter.of(message)

    async def _at(self, seq: int) -> Msg | None:
        async with aclosing(scan(self._wire, DEAD_LETTERS, _filter(None), first=seq, batch=1)) as messages:
            async for message in messages:
                return message if message.metadata.sequence.stream == seq else None
        return None


def _batch(max_payload: int) -> int:
    return max(1, min(BATCH, BATCH_BYTES // max_payload))


def _filter(subject: str | None) -> str:
    if subject is None:
        return dead_letter_subject(">")
    if not _FILTER.fullmatch(subject):
        raise InvalidMessage(["subject: not one, nor a filter like agent.response.* or agent.>"])
    return dead_letter_subject(subject)
