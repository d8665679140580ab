"""Dead letters: messages that could not be handled, whole in the stream DEAD_LETTERS, with the reason and the origin
in headers.

`dead_letter` writes those headers (`broker.core.headers_and_ids`) and `DeadLetterInfo` reads them.
`parley.handlers.settle` decides which messages to give up. Headers of dead letters are not trusted: any sender that
may publish to `deadletter.>` can forge one.
"""

import re
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass

import nats.js.errors
from nats.aio.msg import Msg

from parley.broker.core import errors, headers_and_ids
from parley.broker.core.errors import (
    BrokerUnavailable,
    InvalidMessage,
    ObjectGone,
    PayloadTooLarge,
    StreamNotFound,
)
from parley.broker.core.messages import ResultsRef
from parley.broker.core.timestamps import format_timestamp
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream, PubAck
from parley.broker.jetstream.object_store import delete_object, get_object, put_object
from parley.broker.jetstream.scan import scan
from parley.broker.jetstream.topology import DEAD_LETTERS, RESULTS_BUCKET, Durable, dead_letter_subject

MAX_REASON_CHARACTERS = 500
# `newest` first reads this many sequences from the end, and four times as many each time that it has not found enough.
FIRST_WINDOW = 64
# Bounds of one pull request. Letters come whole: the server cannot be asked for headers only
# (`parley.broker.jetstream.scan`).
BATCH = 16
BATCH_BYTES = 16 * 1024 * 1024

# The subjects that a dead letter may be replayed to, each with its stream: those of our consumers, without wildcards.
# Not the endings, of which each deliberation has one, and not timers and deadlines, which the service sets by itself.
REPLAYABLE: Mapping[str, str] = {
    topology.REQUESTED: topology.REQUESTS,
    topology.CANCEL: topology.REQUESTS,
    topology.AGENT_REQUESTED: topology.AGENT_REQUESTS,
    topology.AGENT_COMPLETED: topology.AGENT_RESPONSES,
    topology.AGENT_FAILED: topology.AGENT_RESPONSES,
}

# The header names that nats-py can write (RFC 9110's tokens). It reads others too; those are left out.
_HEADER_KEY = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
# Subjects that can be published to. Under a wildcard a sender may use others, and longer ones.
_SUBJECT = re.compile(r"[A-Za-z0-9_$.-]{1,256}")
_TOKEN = r"(?:\*|[A-Za-z0-9_$-]+)"
_FILTER = re.compile(rf"(?:{_TOKEN}(?:\.{_TOKEN})*(?:\.>)?|>)")


class CannotReplay(errors.ParleyError):
    """This dead letter cannot be replayed. It stays in DEAD_LETTERS."""

    def __init__(self, seq: int, reason: str) -> None:
        super().__init__(seq, reason)
        self.seq = seq
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.seq}: {self.reason}"


@dataclass(frozen=True, slots=True)
class DeadLetterInfo:
    """`seq`: its sequence in DEAD_LETTERS; `stream`, `sequence`: the original's. A header that is missing is "" or
    None here.

    `size`: of the payload, in bytes. `put_aside`: the payload's name in the object store, if it did not fit into the
    letter. `headers`: the sender's own. `control_headers`: those that NATS acted upon; a replay leaves them out.
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
    put_aside: str | None
    headers: Mapping[str, str]
    control_headers: Mapping[str, str]

    @classmethod
    def of(cls, message: Msg) -> "DeadLetterInfo":
        """Read a message of DEAD_LETTERS. Keeps its payload's size and not the payload."""
        headers = message.headers or {}
        stream, consumer = headers.get(headers_and_ids.STREAM, ""), headers.get(headers_and_ids.CONSUMER, "")
        sequence = _number(headers.get(headers_and_ids.SEQUENCE))
        name = headers.get(headers_and_ids.PAYLOAD_NAME)
        # A forged letter may name any object, such as a deliberation's results. Only the name for its own origin is
        # accepted.
        own = _aside_name(stream, sequence, consumer) if sequence is not None else None
        aside = (
            headers.get(headers_and_ids.PAYLOAD_BUCKET) == RESULTS_BUCKET and name is not None and name == own
        )
        control = {key: value for key, value in headers.items() if key.startswith(headers_and_ids.ORIGINAL)}
        return cls(
            seq=message.metadata.sequence.stream,
            subject=message.subject.removeprefix(dead_letter_subject("")),
            reason=headers.get(headers_and_ids.REASON, ""),
            stream=stream,
            sequence=sequence,
            consumer=consumer,
            deliveries=_number(headers.get(headers_and_ids.DELIVERIES)),
            stored_at=headers.get(headers_and_ids.STORED_AT, ""),
            buried_at=message.metadata.timestamp.timestamp(),
            size=_number(headers.get(headers_and_ids.PAYLOAD_SIZE)) if aside else len(message.data),
            put_aside=name if aside else None,
            headers=_senders(headers),
            control_headers={
                key.removeprefix(headers_and_ids.ORIGINAL): value for key, value in control.items()
            },
        )


# ── writing one ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class OriginalMessage:
    """A message to be given up. `at`: when it was stored. `count`: which delivery this is, from 1."""

    subject: str
    data: bytes
    headers: Mapping[str, str]
    seq: int
    at: float
    count: int


async def dead_letter(jetstream: JetStream, durable: Durable, message: OriginalMessage, reason: str) -> None:
    """Put a message into DEAD_LETTERS. Safe to repeat: the Msg-Id names the message's origin. Raises
    BrokerUnavailable."""
    one_line = " ".join(reason.split())
    ours = {
        headers_and_ids.REASON: one_line.encode("ascii", "replace").decode()[:MAX_REASON_CHARACTERS],
        headers_and_ids.STREAM: durable.stream,
        headers_and_ids.CONSUMER: durable.name,
        headers_and_ids.SEQUENCE: str(message.seq),
        headers_and_ids.DELIVERIES: str(message.count),
        headers_and_ids.STORED_AT: format_timestamp(message.at),
    }
    writable = _writable(message.headers).items()
    kept = {
        f"{headers_and_ids.ORIGINAL}{key}": value
        for key, value in writable
        if key.lower().startswith("nats-")
    }
    headers = {**_senders(message.headers), **kept, **ours}
    msg_id = f"dead:{durable.stream}:{message.seq}:{durable.name}"
    known = message.subject if _SUBJECT.fullmatch(message.subject) else durable.filter.rstrip(".*")
    subject = dead_letter_subject(known)
    try:
        await jetstream.publish(subject, message.data, msg_id=msg_id, headers=headers)
    except PayloadTooLarge:
        # The payload was deliverable, and does not fit beside our headers. It goes to the object store, and the
        # letter names it.
        name = _aside_name(durable.stream, message.seq, durable.name)
        ref = await put_object(jetstream, RESULTS_BUCKET, name, message.data)
        aside = {headers_and_ids.PAYLOAD_BUCKET: ref.bucket, headers_and_ids.PAYLOAD_NAME: ref.name}
        aside[headers_and_ids.PAYLOAD_SIZE] = str(ref.size)
        await jetstream.publish(subject, b"", msg_id=msg_id, headers={**ours, **aside})


def _aside_name(stream: str, seq: int, consumer: str) -> str:
    # The bucket also has results under their task_id, which has no dots.
    return f"dead.letter.{stream}.{seq}.{consumer}"


def _writable(headers: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in headers.items() if _HEADER_KEY.fullmatch(key)}


def _senders(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that neither NATS nor Parley sets."""
    writable = _writable(headers).items()
    return {key: value for key, value in writable if not key.lower().startswith(("nats-", "parley-"))}


def _number(text: str | None) -> int | None:
    # No sequence or size has more digits. Python refuses to read some thousands of digits.
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,20}", text) else None


# ── all of them ───────────────────────────────────────────────────────────────────────────────────────────────────


class DeadLetters:
    """The dead letters of one NATS. `subject` selects by the original subject; wildcards are allowed.

    Every method raises StreamNotFound, BrokerUnavailable, and InvalidMessage for a malformed `subject`.
    """

    def __init__(self, jetstream: JetStream) -> None:
        self._jetstream = jetstream

    async def newest(self, limit: int, *, subject: str | None = None) -> list[DeadLetterInfo]:
        """At most `limit` letters, the newest first. Holds no more than `limit` letters, and no payloads, in memory."""
        _filter(subject)
        with self._jetstream.translate_errors():
            try:
                state = (await self._jetstream.js.stream_info(DEAD_LETTERS)).state
            except nats.js.errors.NotFoundError as error:
                raise StreamNotFound(DEAD_LETTERS) from error
        found: list[DeadLetterInfo] = []
        end, window = state.last_seq, max(limit, FIRST_WINDOW)
        while len(found) < limit and end >= max(1, state.first_seq):
            start = max(1, state.first_seq, end - window + 1)
            latest: deque[DeadLetterInfo] = deque(maxlen=limit - len(found))
            async with aclosing(self._scan(subject, first=start, last=end)) as letters:
                async for letter in letters:
                    latest.append(letter)
            found += reversed(latest)
            end, window = start - 1, 4 * window
        return found

    async def sequences(self, *, subject: str | None = None, before: float | None = None) -> list[int]:
        """The sequences of all letters, the oldest first. `before`: only of letters written before that instant."""
        found = []
        async with aclosing(self._scan(subject)) as letters:
            async for letter in letters:
                if before is not None and letter.buried_at >= before:
                    break
                found.append(letter.seq)
        return found

    async def find(self, seq: int) -> DeadLetterInfo | None:
        """The letter at `seq`, or None."""
        message = await self._at(seq)
        return DeadLetterInfo.of(message) if message is not None else None

    async def payload(self, letter: DeadLetterInfo) -> bytes | None:
        """The original's payload, or None if it is no longer kept."""
        if letter.put_aside is None:
            message = await self._at(letter.seq)
            return message.data if message is not None else None
        try:
            # The object's own digest is checked.
            ref = ResultsRef(bucket=RESULTS_BUCKET, name=letter.put_aside, size=0, digest="")
            return await get_object(self._jetstream, ref)
        except ObjectGone:
            return None

    async def replay(self, letter: DeadLetterInfo, *, keep: bool = False) -> PubAck:
        """Publish the payload to its original subject, with the sender's headers, then remove the letter unless `keep`.

        The letter has a Msg-Id of its own: JetStream may still remember the original's and drop the message. If the
        letter is replayed again within the stream's duplicate window (an hour for requests, two minutes for agents'
        messages), nothing is stored, and the acknowledgement names the first replay. Raises CannotReplay.
        """
        stream = REPLAYABLE.get(letter.subject)
        if stream is None:
            refusal = f"{letter.subject} takes no replays; only {', '.join(REPLAYABLE)} do"
            raise CannotReplay(letter.seq, refusal)
        payload = await self.payload(letter)
        if payload is None:
            raise CannotReplay(letter.seq, "its payload is no longer kept")
        # With its time: the sequences of a stream that was deleted and created again begin at 1.
        msg_id = f"replay:{letter.seq}:{round(letter.buried_at * 1000)}"
        subject, headers = letter.subject, letter.headers
        try:
            placed = await self._jetstream.publish(subject, payload, msg_id=msg_id, headers=headers)
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

    async def ago(self, seconds: float) -> float:
        """The instant that many seconds ago by the server's clock, which stamped the letters."""
        await self._jetstream.clock.measure()
        return self._jetstream.clock.now() - seconds

    async def erase(self, letter: DeadLetterInfo) -> bool:
        """Remove a letter, and its payload in the object store unless another letter names that. Returns whether it
        was there."""
        with self._jetstream.translate_errors():
            try:
                await self._jetstream.js.delete_msg(DEAD_LETTERS, letter.seq)
                there = True
            except nats.js.errors.APIError:
                # The server has several codes for a missing message, and some of them have other meanings too.
                if await self.find(letter.seq) is not None:
                    raise
                there = False
        if letter.put_aside is not None:
            await self._drop({letter.put_aside})
        return there

    async def purge(self, last: int, *, subject: str | None = None) -> None:
        """Remove all letters up to the sequence `last`, and their payloads in the object store unless another letter
        names them."""
        async with aclosing(self._scan(subject, last=last)) as letters:
            asides = {letter.put_aside async for letter in letters if letter.put_aside is not None}
        with self._jetstream.translate_errors():
            await self._jetstream.js.purge_stream(DEAD_LETTERS, seq=last + 1, subject=_filter(subject))
        await self._drop(asides)

    async def _drop(self, asides: set[str]) -> None:
        """Delete the payloads of removed letters. A removed letter may be a forgery that names the payload of another
        letter."""
        if not asides:
            return
        async with aclosing(self._scan(None)) as letters:
            kept = {letter.put_aside async for letter in letters if letter.put_aside in asides}
        for name in asides - kept:
            await delete_object(self._jetstream, RESULTS_BUCKET, name)

    async def _scan(
        self, subject: str | None, *, first: int = 1, last: int | None = None
    ) -> AsyncGenerator[DeadLetterInfo, None]:
        batch = _batch(self._jetstream.max_payload)
        found = scan(self._jetstream, DEAD_LETTERS, _filter(subject), first=first, batch=batch)
        async with aclosing(found) as messages:
            async for message in messages:
                if last is not None and message.metadata.sequence.stream > last:
                    return
                yield DeadLetterInfo.of(message)

    async def _at(self, seq: int) -> Msg | None:
        found = scan(self._jetstream, DEAD_LETTERS, _filter(None), first=seq, batch=1)
        async with aclosing(found) as messages:
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
