"""The modelled NATS server: streams and consumers of `parley.broker.jetstream.topology`, the scheduler, core NATS.

It reports every change to `watch` at once, which checks the invariants.
"""

import asyncio
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from parley.broker.core.timestamps import parse_timestamp
from parley.broker.jetstream import topology
from tests.simulation.consumer import Consumer, Puller
from tests.simulation.faults import Faults, Kind
from tests.simulation.invariants import Invariant
from tests.simulation.old_version import OldVersion
from tests.simulation.stream import Kept, Refused, Stream
from tests.simulation.trace import Trace

if TYPE_CHECKING:
    from tests.simulation.conditions.condition import Condition
    from tests.simulation.link import Link


class Watch(Protocol):
    """Sees every step (`tests.simulation.watch`)."""

    def stored(self, kept: Kept, before: Kept | None, by: str) -> None: ...

    def repeated(self, kept_seq: int, subject: str, data: bytes) -> None: ...

    def settled(self, consumer: Consumer, kept: Kept, by: str) -> None: ...

    def heard(self, subject: str, data: bytes) -> None: ...

    def told(self, subject: str, data: bytes) -> None: ...


class Inbound(Puller, Protocol):
    name: str

    def arrive(self, kept: Kept, reply: str, *, awaited: bool = True) -> None: ...

    def sent(self) -> None: ...

    def missed(self) -> None: ...


Listener = Callable[[str, bytes], None]


class Server:
    def __init__(
        self,
        rng: random.Random,
        faults: Faults,
        watch: Watch,
        trace: Trace,
        *,
        keep_seconds: float,
        latency: float,
    ) -> None:
        self.rng = rng
        self.faults = faults
        self.parcels = Faults([])
        self.pulls = Faults([])
        self.watch = watch
        self.trace = trace
        self.loop = asyncio.get_running_loop()
        self.away_until = 0.0
        self.reconnected: list[Callable[[], None]] = []
        # The connections of services and workers.
        self.links: list[Link] = []
        # By the name of a connection: whose owner runs an older version, and which.
        self.old_versions: dict[str, OldVersion] = {}
        self.conflicts = 0
        self.duplicates = 0
        self.streams = {
            stream.name: stream for stream in map(Stream, topology.streams(keep_seconds=keep_seconds))
        }
        self.consumers = {
            durable.name: Consumer(durable, self.streams[durable.stream], rng, self._send)
            for durable in topology.DURABLES
        }
        self.timers: dict[str, asyncio.TimerHandle] = {}
        # Bytes of one message, headers included.
        self.max_payload = 1024 * 1024
        # Invariants that are not checked.
        self.blind: frozenset[Invariant] = frozenset()
        # What is special about this history.
        self.condition: Condition | None = None
        # By name, the streams that store nothing now, and what they answer.
        self.refusing: dict[str, Refused] = {}
        # Messages that were refused, also those of the scheduler.
        self.refused = 0
        self._latency = latency
        self._listeners: dict[str, list[Listener]] = {}

    @property
    def now(self) -> float:
        return self.loop.time()

    def delay(self) -> float:
        """Seconds of a random latency. One in twenty is ten times as long."""
        lot = self.rng.random()
        return self._latency * (lot if lot < 0.95 else 10 * lot)

    def arrival(self) -> float:
        return max(self.now, self.away_until) + self.delay()

    def leave(self, seconds: float) -> None:
        self.trace.add(self.now, "broker", "away for", f"{seconds:g} s")
        self.away_until = max(self.away_until, self.now + seconds)
        for consumer in self.consumers.values():
            consumer.requests.clear()  # the server forgets the requests of connections that are lost
        for reconnected in (*self.reconnected, *(link.reconnect for link in self.links)):
            self.loop.call_at(self.away_until, reconnected)

    @property
    def at_rest(self) -> bool:
        return not self.timers and all(consumer.idle for consumer in self.consumers.values())

    @property
    def disturbed(self) -> bool:
        """Whether anything that is out of order has happened, or may."""
        return bool(self.faults.struck) or (self.condition is not None and self.condition.disturbs)

    # ── streams ───────────────────────────────────────────────────────────────────────────────────────────────────

    def stream_of(self, subject: str) -> Stream:
        for stream in self.streams.values():
            if stream.takes(subject):
                return stream
        raise AssertionError(f"no stream takes {subject}")

    def store(self, subject: str, data: bytes, headers: dict[str, str], by: str) -> tuple[str, int, bool]:
        """Raises Refused."""
        stream = self.stream_of(subject)
        if stream.name in self.refusing:
            self.refused += 1
            raise self.refusing[stream.name]
        before = stream.newest(subject, self.now) if stream.one_a_subject else None
        seq, duplicate = stream.store(subject, data, headers, self.now)
        if duplicate:
            self.duplicates += 1
            self.watch.repeated(seq, subject, data)
            return stream.name, seq, True
        if headers.get("Nats-Schedule-Next") == "purge":
            self._purge(stream, headers["Nats-Scheduler"])
        kept = stream.messages[seq]
        if "Nats-Rollup" in headers:
            self.forget_timers(stream)
        if "Nats-Schedule" in headers:
            self._arm(kept)
        self.watch.stored(kept, before, by)
        for consumer in self.consumers.values():
            if consumer.stream is stream and consumer.wants(subject):
                consumer.stored(seq)
        return stream.name, seq, False

    def refusing_ends(self) -> None:
        self.trace.add(self.now, "broker", "stores again")
        self.refusing = {}

    # ── the scheduler ─────────────────────────────────────────────────────────────────────────────────────────────

    def _arm(self, kept: Kept) -> None:
        at = max(self.now, parse_timestamp(kept.headers["Nats-Schedule"].removeprefix("@at "))) + self.delay()
        fault = self.faults.meets("schedule", "broker", self.now)
        if fault is not None:
            at = max(self.now, at - fault.seconds) if fault.kind is Kind.EARLY_TIMER else at + fault.seconds
            self.trace.add(self.now, "broker", str(fault.kind), kept.subject)
        earlier = self.timers.pop(kept.subject, None)
        if earlier is not None:
            earlier.cancel()
        self.timers[kept.subject] = self.loop.call_at(at, self._fire, kept)

    def _fire(self, kept: Kept) -> None:
        if self.now < self.away_until:
            self.timers[kept.subject] = self.loop.call_at(self.away_until, self._fire, kept)
            return
        del self.timers[kept.subject]
        self.trace.add(self.now, "broker", "fires", kept.subject)
        headers = {"Nats-Scheduler": kept.subject, "Nats-Schedule-Next": "purge"}
        try:
            self.store(kept.headers["Nats-Schedule-Target"], kept.data, headers, "broker")
        except Refused as refused:
            # It is not fired again (nats-server 2.15.1, measured).
            self.trace.add(self.now, "broker", "cannot fire", f"{kept.subject}: {refused}")

    def forget_timers(self, stream: Stream) -> None:
        """Cancel the timers whose schedules are no longer in the stream."""
        for subject in [one for one in self.timers if self.stream_of(one) is stream]:
            if stream.newest(subject, self.now) is None:
                self.timers.pop(subject).cancel()

    def _purge(self, stream: Stream, timer: str) -> None:
        armed = self.timers.pop(timer, None)
        if armed is not None:
            armed.cancel()
        scheduled = stream.newest(timer, self.now)
        if scheduled is not None:
            stream.remove(scheduled.seq)

    # ── deliveries ────────────────────────────────────────────────────────────────────────────────────────────────

    def _send(self, consumer: Consumer, puller: Any, kept: Kept, count: int) -> None:
        to: Inbound = puller
        to.sent()
        reply = _ack_subject(consumer, kept, count)
        fault = self.faults.meets("delivery", to.name, self.now)
        at = self.arrival()
        if fault is not None:
            self.trace.add(self.now, "broker", str(fault.kind), f"{kept.subject} {kept.seq} to {to.name}")
            if fault.kind is not Kind.DOUBLE_DELIVERY:
                to.missed()
                if fault.kind is Kind.LATE_DELIVERY:
                    self.loop.call_at(at + fault.seconds, lambda: to.arrive(kept, reply, awaited=False))
                return
            other: Any = consumer.use(consumer.requests) if consumer.requests else puller
            other.sent()
            again = _ack_subject(consumer, kept, count + 1)  # no two deliveries have the same
            self.loop.call_at(self.arrival(), other.arrive, kept, again)
        self.loop.call_at(at, to.arrive, kept, reply)

    def acknowledge(self, reply: str, word: bytes, by: str) -> None:
        _, _, _, name, _, seq, *_ = reply.split(".")
        consumer = self.consumers[name]
        kept = consumer.stream.messages.get(int(seq))
        if consumer.settle(int(seq), word) and kept is not None:
            self.watch.settled(consumer, kept, by)

    # ── core NATS ─────────────────────────────────────────────────────────────────────────────────────────────────

    def listen(self, subject: str, listener: Listener) -> None:
        self._listeners.setdefault(subject, []).append(listener)

    def broadcast(self, subject: str, data: bytes) -> None:
        self.watch.heard(subject, data)
        for listener in self._listeners.get(subject, ()):
            listener(subject, data)


def _ack_subject(consumer: Consumer, kept: Kept, count: int) -> str:
    name = consumer.durable.name
    return f"$JS.ACK.{kept.stream}.{name}.{count}.{kept.seq}.{count}.{round(kept.at * 1e9)}.0"
