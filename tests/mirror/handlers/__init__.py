"""One test file a source file. They share a real NATS account for each test, and an observer that takes notes."""

import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from nats.js import JetStreamContext

from parley.broker.core.errors import BrokerUnavailable
from parley.broker.core.messages import (
    AgentCompleted,
    AgentFailed,
    AgentOutcome,
    DeliberationRequested,
    Ending,
    ErrorType,
    Proposal,
    Usage,
    decode,
    decode_ending,
)
from parley.broker.core.observer import Observer
from parley.broker.core.tally import Tally
from parley.broker.core.timestamps import format_timestamp
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream, PubAck, StoredMessage
from parley.broker.jetstream.nats_client import NatsClient as Nats
from parley.broker.jetstream.tally_store import TallyStore
from parley.broker.jetstream.topology import Durable
from parley.handlers.delivery import Delivery
from parley.handlers.effects import EffectRunner
from parley.handlers.ending_publisher import EndingPublisher
from parley.handlers.intake import Bounds, Intake
from parley.handlers.lost_tally_ending import LostTally
from parley.handlers.settle import Handle, Runner, Settler
from tests.harness import until
from tests.mirror.broker import provisioned, send_raw


@dataclass
class Notes(Observer):
    """What an observer was told, one line each."""

    lines: list[str] = field(default_factory=list)

    def deliberation_accepted(self, role: str) -> None:
        self.lines.append(f"accepted {role}")

    def deliberation_ended(self, ending: Ending) -> None:
        self.lines.append(f"ended {ending.status}")

    def agent_reported(self, outcome: AgentOutcome) -> None:
        self.lines.append(f"reported {outcome.agent_id}")

    def outcome_ignored(self, outcome: AgentOutcome) -> None:
        self.lines.append(f"ignored {outcome.agent_id}")

    def dead_lettered(self, subject: str) -> None:
        self.lines.append(f"dead-lettered {subject}")

    def handler_failed(self, consumer: str) -> None:
        self.lines.append(f"failed {consumer}")


@dataclass(frozen=True)
class Bench:
    """A NATS with our streams, and no handler running."""

    url: str
    nc: Nats
    wire: JetStream
    notes: Notes = field(default_factory=Notes)

    @property
    def js(self) -> JetStreamContext:
        return self.wire.js

    async def publish(self, subject: str, payload: Any, headers: Mapping[str, str] | None = None) -> int:
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        return (await self.wire.publish(subject, body, headers=headers)).seq

    async def taken(self, durable: Durable, count: int = 1) -> list[Delivery[Any]]:
        """The next `count` deliveries of a consumer, as a handler would get them."""
        pull = await self.js.pull_subscribe_bind(durable.name, durable.stream)
        batch: list[Delivery[Any]] = []
        while len(batch) < count:
            batch += [Delivery.of(msg) for msg in await pull.fetch(count - len(batch), timeout=20)]
        await pull.unsubscribe()
        return batch

    async def nothing_left(self, durable: Durable) -> bool:
        """Whether everything a consumer may deliver is settled for good."""
        info = await self.js.consumer_info(durable.stream, durable.name)
        return not info.num_pending and not info.num_ack_pending

    async def settled(self, durable: Durable) -> None:
        async def settled() -> bool:
            return await self.nothing_left(durable)

        try:
            await until(settled, f"{durable.name} has nothing left", 15.0)
        except AssertionError as error:
            info = await self.js.consumer_info(durable.stream, durable.name)
            raise AssertionError(f"{error}: {info}") from None

    async def all_of(self, stream: str, subject: str) -> list[StoredMessage]:
        """Every stored message under `subject`, oldest first."""
        state = (await self.js.stream_info(stream)).state
        found = [
            await self.wire.get(stream, seq) for seq in range(max(1, state.first_seq), state.last_seq + 1)
        ]
        wanted = subject.removesuffix("*").removesuffix(">")
        return [message for message in found if message is not None and message.subject.startswith(wanted)]

    async def endings_of(self, task_id: str) -> list[Ending]:
        stored = [
            *await self.all_of(topology.DELIBERATIONS, topology.COMPLETED),
            *await self.all_of(topology.DELIBERATIONS, topology.FAILED),
        ]
        return [
            ending
            for ending in (decode_ending(message.data) for message in stored)
            if ending.task_id == task_id
        ]

    async def tally_of(self, task_id: str) -> Tally | None:
        """As the bucket has it."""
        return await TallyStore(self.wire, keep_seconds=60).read(task_id)

    async def dead_letters(self) -> list[StoredMessage]:
        return await self.all_of(topology.DEAD_LETTERS, "deadletter.>")


def effects_of(
    bench: Bench,
    jetstream: JetStream | None = None,
    claim_check_bytes: int = 512 * 1024,
    keep_seconds: float = 60,
) -> EffectRunner:
    """An effect runner with a tally store of its own, which the bench's observer watches."""
    used = jetstream or bench.wire
    tallies = TallyStore(used, keep_seconds=keep_seconds)
    endings = EndingPublisher(used, tallies, bench.notes, claim_check_bytes=claim_check_bytes)
    return EffectRunner(used, tallies, endings)


def lost_of(bench: Bench, effects: EffectRunner) -> LostTally:
    return LostTally(bench.wire, effects, Intake(effects, bench.notes, Bounds(16, 60.0)))


def runner_of(bench: Bench, durable: Durable, handle: Handle, **options: Any) -> Runner:
    """`handle` as the service runs it."""
    return Runner(Settler(bench.wire, durable, bench.notes, **options), handle)


@asynccontextmanager
async def bench_at(url: str) -> AsyncIterator[Bench]:
    async with provisioned(url) as nc:
        yield Bench(url, nc, JetStream(nc))


# Header blocks that nats-server stores and delivers, and that nats-py's own client dies of.
MALFORMED_HEADERS = [
    b"junk\r\n\r\n", b"x", b"NATS/1.0", b"NATS/1.0\r\nk\xff: \xff\xfe\r\n\r\n",
    b"NATS/1.0 \xff\xff\xff\r\n\r\n",
]  # fmt: skip


# What may stand for the last token of a subject under a wildcard, if it is up to the sender.
ODD_TOKENS = [b"\xff\xfe", b"\x00", b"\x1f", b"\xc2\xa0", "naïve".encode(), b"x" * 4_000]


async def publish_raw(bench: Bench, subject: str | bytes, headers: bytes = b"NATS/1.0\r\n\r\n") -> None:
    """A message that no client library would publish."""
    under = subject if isinstance(subject, bytes) else subject.encode()
    sizes = f"{len(headers)} {len(headers) + 2}".encode()
    await send_raw(bench.url, b"HPUB " + under + b" " + sizes + b"\r\n" + headers + b"{}\r\n")


class UnreadableBucket(JetStream):
    """The real wire, on which the leader of the bucket does not answer."""

    async def get_last(self, stream: str, subject: str) -> StoredMessage | None:
        raise BrokerUnavailable("nats://x", "timeout")


class Stumble(RuntimeError):
    """The process fell over here."""


class StumblingWire(JetStream):
    """The real wire, which falls over once: at the `at`th thing it sends, before or after that was sent."""

    def __init__(self, nc: Nats, *, at: int, after: bool) -> None:
        super().__init__(nc)
        self.sent = 0
        self._falls_at = at
        self._after = after

    async def publish(self, *args: Any, **kwargs: Any) -> PubAck:
        with self._step():
            return await super().publish(*args, **kwargs)

    async def broadcast(self, subject: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        with self._step():
            await super().broadcast(subject, body, headers)

    @contextmanager
    def _step(self) -> Iterator[None]:
        self.sent += 1
        falls = self.sent == self._falls_at
        if falls and not self._after:
            raise Stumble(f"before step {self.sent}")
        yield
        if falls:
            raise Stumble(f"after step {self.sent}")


def request_of(task_id: str, **fields: Any) -> DeliberationRequested:
    return decode(
        DeliberationRequested, json.dumps({"task_description": "x", "task_id": task_id, **fields}).encode()
    )


def answer_of(task_id: str, agent: str, content: str = "42", **overrides: Any) -> AgentCompleted:
    proposal = Proposal(
        content=content, author_id=agent, author_role="DEV", model="m", temperature=0.7, tokens=3
    )
    fields: dict[str, Any] = {
        "task_id": task_id, "agent_id": agent, "role": "DEV", "proposal": proposal, "finish_reason": "stop", "usage": Usage(),
        "attempt": 1, "queue_ms": 5, "duration_ms": 120, "timestamp": format_timestamp(time.time()), "model": "m", "diversity": False,
        "num_agents": 3,
    }  # fmt: skip
    return AgentCompleted(**{**fields, **overrides})


def failure_of(task_id: str, agent: str, error_type: ErrorType = ErrorType.SERVER_ERROR) -> AgentFailed:
    return AgentFailed(
        task_id=task_id, agent_id=agent, role="DEV", error="no luck", error_type=error_type, attempt=4, duration_ms=9,
        timestamp=format_timestamp(time.time()),
    )  # fmt: skip
