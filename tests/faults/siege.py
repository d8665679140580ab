"""Send hostile messages to a service, and check what became of each of them."""

import asyncio
import hashlib
import itertools
import json
from collections import Counter, deque
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass, field

from parley.broker.core.errors import InvalidMessage
from parley.broker.core.headers_and_ids import own_name
from parley.broker.core.messages import (
    AgentCompleted,
    AgentFailed,
    AgentRequested,
    DeliberationCancel,
    DeliberationDeadline,
    DeliberationRequested,
    DeliberationStatus,
    Message,
    ResultsRef,
    decode,
    decode_ending,
)
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.object_store import get_object
from parley.broker.jetstream.scan import scan
from parley.broker.jetstream.topology import Durable
from parley.handlers.intake import readable_task_id
from tests.faults.hostile import LIVE, NEW, Hostile, Kind
from tests.faults.raw import Raw
from tests.harness import fresh, until

# A PubAck or an answer that takes longer never comes.
ANSWER_SECONDS = 20.0
# The consumer of each kind, and its payload's type. Timers have no consumer: the server turns them into deadlines.
CONSUMED: dict[Kind, tuple[Durable, type[Message]]] = {
    Kind.REQUEST: (topology.INTAKE, DeliberationRequested),
    Kind.CANCEL: (topology.CANCELLER, DeliberationCancel),
    Kind.DEADLINE: (topology.EXPIRY, DeliberationDeadline),
    Kind.WORK: (topology.DISPATCH, AgentRequested),
    Kind.COMPLETED: (topology.AGGREGATE, AgentCompleted),
    Kind.FAILED: (topology.AGGREGATE, AgentFailed),
}


@dataclass(frozen=True, slots=True)
class Sent:
    """A message that was sent, and the reply: a PubAck, an answer, a refusal, or None for a broadcast."""

    kind: Kind
    subject: bytes
    body: bytes
    back: bytes

    @property
    def seq(self) -> int | None:
        """Its sequence in its stream; None if the server did not store it."""
        try:
            said = json.loads(self.back)
        except ValueError:
            return None
        return None if "error" in said or said.get("duplicate") else said.get("seq")

    @property
    def readable(self) -> bool:
        try:
            decode(CONSUMED[self.kind][1], self.body)
        except InvalidMessage:
            return False
        return True


@dataclass(slots=True)
class Siege:
    """`live`: task_ids of running deliberations, the newest last."""

    raw: Raw
    live: deque[str]
    sent: list[Sent] = field(default_factory=list)
    _names: "itertools.count[int]" = field(default_factory=itertools.count)
    _prefix: str = field(default_factory=lambda: fresh("h"))

    async def send(self, messages: Iterable[Hostile]) -> None:
        """Send all at once. Returns when each is stored, answered or refused."""
        self.sent += await asyncio.gather(*map(self._send, messages))

    async def _send(self, message: Hostile) -> Sent:
        number = next(self._names)
        names = {NEW: f"{self._prefix}-{number}".encode(), LIVE: self.live[number % len(self.live)].encode()}

        def named(text: bytes) -> bytes:
            for mark, name in names.items():
                text = text.replace(mark, name)
            return text

        subject, body = named(message.subject), named(message.body)
        headers = named(message.headers) if message.headers is not None else None
        if message.kind is Kind.STOP:
            await self.raw.tell(subject, body, headers)
            return Sent(message.kind, subject, body, b"")
        async with asyncio.timeout(ANSWER_SECONDS):
            return Sent(message.kind, subject, body, await self.raw.ask(subject, body, headers))


async def backlog(wire: JetStream) -> dict[str, int]:
    """Waiting and unacknowledged messages, by consumer. A cancel of an unknown name waits a minute for its request, and
    does not count."""
    infos = [await wire.js.consumer_info(durable.stream, durable.name) for durable in topology.DURABLES]
    in_hand = {
        info.name: 0 if info.name == topology.CANCELLER.name else info.num_ack_pending or 0 for info in infos
    }
    return {info.name: (info.num_pending or 0) + in_hand[info.name] for info in infos}


async def settled(wire: JetStream, seconds: float) -> None:
    """Wait until no consumer has waiting or unacknowledged messages."""
    last: dict[str, int] = {}

    async def nothing_left() -> bool:
        last.update(await backlog(wire))
        return not any(last.values())

    try:
        await until(nothing_left, "every consumer is done", seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}: {last}") from None


# ── the books ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Books:
    """What the streams hold at the end: statuses of endings by task_id, digests of dead letters by origin."""

    endings: dict[str, list[str]] = field(default_factory=dict)
    dead: dict[tuple[str, int], bytes] = field(default_factory=dict)
    outcomes: int = 0


def digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest()


async def read_books(wire: JetStream) -> Books:
    books = Books()
    for subject in (topology.COMPLETED, topology.FAILED):
        async with aclosing(scan(wire, topology.DELIBERATIONS, subject)) as messages:
            async for msg in messages:
                ending = decode_ending(msg.data)
                books.endings.setdefault(ending.task_id, []).append(ending.status)
    async with aclosing(scan(wire, topology.DEAD_LETTERS, "deadletter.>")) as messages:
        async for msg in messages:
            headers = msg.headers or {}
            body = msg.data
            if "Parley-Payload-Name" in headers:
                ref = ResultsRef(
                    bucket=headers["Parley-Payload-Bucket"],
                    name=headers["Parley-Payload-Name"],
                    size=0,
                    digest="",
                )
                body = await get_object(wire, ref)
            books.dead[headers["Parley-Consumer"], int(headers["Parley-Sequence"])] = digest(body)
    async with aclosing(scan(wire, topology.AGENT_RESPONSES, "agent.response.*")) as messages:
        async for _ in messages:
            books.outcomes += 1
    return books


def unaccounted(sent: Iterable[Sent], books: Books) -> tuple[list[str], Counter[str]]:
    """Messages that the contract does not account for, one a line; and how many met which fate."""
    wrong: list[str] = []
    fates: Counter[str] = Counter()
    for each in sent:
        fate = _fate(each, books)
        if fate is None:
            told = f"{each.subject!r} at {each.seq}: {each.body[:200]!r} was answered {each.back[:200]!r}"
            wrong.append(
                f"{told}, endings {books.endings.get(readable_task_id(each.body) or own_name(each.seq or 0))}"
            )
        else:
            fates[f"{each.kind}: {fate}"] += 1
    return wrong, fates


def _fate(each: Sent, books: Books) -> str | None:
    match each.kind:
        case Kind.STOP:
            return "broadcast"  # delivered at most once, and never answered
        case Kind.GET:
            return "answered" if _is_answer(each.back) else None
    if each.seq is None:
        return _refusal(each.back)
    if each.kind is Kind.TIMER:
        return "stored"
    durable, _ = CONSUMED[each.kind]
    letter = books.dead.get((durable.name, each.seq))
    if letter is not None and letter != digest(each.body):
        return None
    if not each.readable and letter is None:
        return None
    if each.kind is not Kind.REQUEST:
        # Acknowledged: its consumer has nothing left. A valid message is no error.
        return "dead-lettered" if letter is not None else "settled"
    statuses = books.endings.get(readable_task_id(each.body) or own_name(each.seq), [])
    if len(statuses) != 1:
        return None
    return f"{statuses[0]}, dead-lettered" if letter is not None else statuses[0]


def _is_answer(back: bytes) -> bool:
    try:
        decode(DeliberationStatus, back)
    except InvalidMessage:
        return False
    return True


def _refusal(back: bytes) -> str | None:
    if back.startswith(b"NATS/1.0 503"):
        return "no such subject"
    try:
        said = json.loads(back)
    except ValueError:
        return None
    if said.get("duplicate"):
        return "dropped as a duplicate"
    return "refused by the server" if "error" in said else None
