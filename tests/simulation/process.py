"""One process: the real handlers, wired as in `parley.app`, on a connection that can be cut at any step."""

import asyncio
import contextvars
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from parley.broker.asyncio_helpers import BackgroundLoop
from parley.broker.core.observer import Observer
from parley.broker.jetstream import topology
from parley.broker.jetstream.acks_and_pulls import size_of
from parley.broker.jetstream.crash_suspects import Suspects
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.store_probe import PROBED, StoreProbe
from parley.broker.jetstream.tally_store import TallyStore
from parley.handlers.aggregate import Aggregate
from parley.handlers.cancel import Cancel
from parley.handlers.deadline_book import DeadlineBook, Watched
from parley.handlers.deadline_rearm import DeadlineRecovery
from parley.handlers.delivery import Delivery
from parley.handlers.dispatch import Dispatch
from parley.handlers.effects import EffectRunner
from parley.handlers.ending_publisher import EndingPublisher
from parley.handlers.expire import Expire
from parley.handlers.intake import Bounds, Intake
from parley.handlers.lost_tally_ending import LostTally
from parley.handlers.overdue_deadlines import LOOK_SECONDS, OVERDUE_SECONDS, DeadlineWatch
from parley.handlers.pull import HandleBatch
from parley.handlers.pull_window import REQUEST_SECONDS, PullWindow
from parley.handlers.query import Query
from parley.handlers.routes import Part
from parley.handlers.settle import GiveUp, Runner, Settler
from parley.workers.recent_cancels import Cancels
from tests.simulation.actors import ActorPool, Moods
from tests.simulation.clock import SKEW, VirtualTime
from tests.simulation.consumer import Consumer
from tests.simulation.faults import Kind
from tests.simulation.invariants import Invariant, Violation, holds
from tests.simulation.link import Link, as_client
from tests.simulation.loop import in_context
from tests.simulation.roles import Role
from tests.simulation.server import Server
from tests.simulation.stream import Kept

_CLAIM_CHECK_BYTES = 512 * 1024
MAX_AGENTS = 10
DEFAULT_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class ProcessOptions:
    """The same for every process of a history. `in_hand`, `limit_bytes`: the limits of each subscriber. `skew_seconds`: the most that
    each clock is off."""

    keep_seconds: float
    in_hand: int
    slots_each: int
    skew_seconds: float
    moods: Moods
    limit_bytes: int | None = None


class Subscriber:
    """One subscriber of one process: `PullSubscriber` without asyncio's loop and NATS, on the same `PullWindow`."""

    def __init__(
        self,
        process: "Process",
        consumer: Consumer,
        handle: HandleBatch,
        limit: int,
        limit_bytes: int | None = None,
        pool: ActorPool | None = None,
    ) -> None:
        self.name = f"{process.name}:{consumer.durable.name}"
        self.window: PullWindow[Delivery[Any]] = PullWindow(limit, limit, limit_bytes)
        self._process = process
        self._server = process.server
        self._consumer = consumer
        self._handle = handle
        self._pool = pool
        # Dispatch runs: its next batch waits for it, as in `PullSubscriber`.
        self._busy = False
        # Counted apart from the window, to check it: messages sent to this subscriber, and messages here and not
        # finished.
        self._on_its_way = 0
        self._here = 0
        # Statuses on their way: each makes it ask again.
        self._statuses = 0
        # The connection came back, and only a status was on its way: it is checked once that has come.
        self._to_check = False
        self.here_bytes = 0

    @property
    def _outside(self) -> int | None:
        return self._pool.free_slots() if self._pool is not None else None

    # ── asking ────────────────────────────────────────────────────────────────────────────────────────────────────

    def ask(self) -> None:
        server = self._server
        if self._process.dead or self._busy:
            return
        if self._process.link.stopped:
            self._process.link.when_awake(self.ask)
            return
        if server.now < server.away_until:
            server.loop.call_at(server.away_until, self.ask)
            return
        wanted = self.window.to_request(self._outside)
        if not wanted:
            return
        max_bytes = self.window.bytes_to_request()
        self.window.requested(wanted, server.now, max_bytes)
        self._check_room(wanted)
        fault = server.pulls.meets("pull", self.name, server.now)
        if fault is not None:
            server.trace.add(server.now, self.name, f"! {fault.kind}", f"({wanted} messages)")
            server.loop.call_later(REQUEST_SECONDS, self._end_requests)
            if fault.kind is Kind.LOSE_PULL:
                return
        self._consumer.request(self, wanted, max_bytes)

    def _check_room(self, wanted: int) -> None:
        room = self.window.limit if self._outside is None else min(self.window.limit, self._outside)
        total = self._here + self._on_its_way + self._consumer.requested(self) + wanted
        holds(
            Invariant.ROOM_ASKED,
            total <= room or self._server.disturbed,
            f"{self.name} has room for {room} messages, and with {wanted} more {total} may come",
        )

    def on_status(self, status: str, pending: int, pending_bytes: int, description: str) -> None:
        def end() -> None:
            self._statuses -= 1
            self.window.end_request(status, pending, pending_bytes, description)
            if self._to_check:
                self._ask_once_back()
            else:
                self.ask()

        self._statuses += 1
        # After the messages that were sent before it.
        if self.window.limit_bytes is not None:
            self._server.loop.call_at(self._server.now + 0.001, self._process.link.when_awake, end)
        else:
            self._process.link.when_awake(end)

    def _end_requests(self) -> None:
        """A second after a loss: requests that wait at the server expire, and those that are overdue are given up."""
        self._consumer.expire(self)
        due = self._server.now

        def look() -> None:
            self.window.expire(self._server.now, late=self._server.now - due)
            self.ask()
            if self.window.asked > self._consumer.requested(self) + self._on_its_way:
                self._server.loop.call_later(REQUEST_SECONDS, self._end_requests)

        self._process.link.when_awake(look)

    def stopped(self) -> None:
        """Its process stands still: what it asked for expires at the server, which sends it nothing from then on."""
        self._server.loop.call_later(REQUEST_SECONDS, self._expire_stopped)

    def _expire_stopped(self) -> None:
        if self._process.link.stopped:
            self._consumer.expire(self)

    def reconnected(self) -> None:
        self.window.lose_connection()
        self._ask_once_back()

    def _ask_once_back(self) -> None:
        faults = len(self._server.pulls.struck)
        self.ask()
        slots = self._outside
        could = (
            self._server.now >= self._server.away_until
            and not self._busy
            and (slots is None or slots > 0)
            and self.window.has_room
        )
        waits = self._here or self._on_its_way or self._consumer.requested(self)
        self._to_check = not waits and self._statuses > 0
        if self._to_check:
            return
        holds(
            Invariant.ROOM_ASKED,
            bool(waits) or not could or len(self._server.pulls.struck) > faults,
            f"{self.name} has room and its connection is back, but it waits for nothing",
        )

    def disconnect(self) -> None:
        """The process is dead: the server forgets its requests."""
        self._consumer.forget(self)

    # ── what comes ────────────────────────────────────────────────────────────────────────────────────────────────

    def sent(self) -> None:
        self._on_its_way += 1

    def missed(self) -> None:
        """What was sent is lost."""
        self._on_its_way -= 1
        self._server.loop.call_later(REQUEST_SECONDS, self._end_requests)

    def arrive(self, kept: Kept, reply: str, *, awaited: bool = True) -> None:
        self._on_its_way -= awaited
        if self._process.dead:
            return
        self._here += 1
        if self._pool is not None and not self.window.asked:
            self._pool.unrequested += 1
        message = self._process.link.delivered(kept, reply)
        self.here_bytes += size_of(message)
        self.window.arrive(Delivery.of(message), size_of(message))
        self._process.check_memory()
        if len(self.window.arrived) == 1:
            self._server.loop.call_soon(self._process.link.when_awake, self._start)

    def _start(self) -> None:
        if self._busy:
            return
        deliveries = self.window.take()
        if deliveries:
            self._busy = self._pool is not None
            in_context(self._process.context, self._run(deliveries))
            self.ask()

    async def _run(self, deliveries: list[Delivery[Any]]) -> None:
        try:
            await self._handle(deliveries)
        finally:
            self._busy = False
            size = sum(size_of(delivery.msg) for delivery in deliveries)
            self._here -= len(deliveries)
            self.here_bytes -= size
            self.window.settle(len(deliveries), size)
            self._start()
            self.ask()


class WatchedBook(DeadlineBook):
    """Tells when to look."""

    def __init__(self, due: Callable[[float], None]) -> None:
        super().__init__()
        self._due = due

    def add(self, task_id: str, due: float, request_seq: int) -> None:
        super().add(task_id, due, request_seq)
        self._due(due)

    def take_due(self, now: float, most: int) -> list[tuple[str, Watched]]:
        taken = super().take_due(now, most)
        if self._heap:
            self._due(self._heap[0][0])
        return taken


class Process:
    def __init__(
        self,
        server: Server,
        name: str,
        role: Role,
        options: ProcessOptions,
        observer: Observer,
        killed: Callable[["Process"], None],
    ) -> None:
        self.server = server
        self.name = name
        self.role = role
        self.link = Link(server, self, name, role.old)
        self._options = options
        self._killed = killed
        self.context = contextvars.copy_context()
        self.context.run(SKEW.set, role.skew_seconds + options.skew_seconds * (2 * server.rng.random() - 1))
        self.pool = ActorPool(
            server, self.link, self.context, slots_each=options.slots_each, moods=options.moods
        )
        jetstream = JetStream(as_client(self.link))
        tallies = TallyStore(jetstream, keep_seconds=options.keep_seconds)
        claim_check_bytes = min(_CLAIM_CHECK_BYTES, jetstream.max_payload // 2)
        endings = EndingPublisher(jetstream, tallies, observer, claim_check_bytes=claim_check_bytes)
        self._effects = EffectRunner(jetstream, tallies, endings)
        self.query = Query(jetstream, tallies)
        self._intake = Intake(self._effects, observer, Bounds(MAX_AGENTS, DEFAULT_TIMEOUT_SECONDS))
        self._lost = LostTally(jetstream, self._effects, self._intake)
        self._suspects = Suspects(jetstream)
        self._jetstream, self._observer, self._tallies = jetstream, observer, tallies
        self._subscribers: list[Subscriber] = []
        self._loops: list[BackgroundLoop] = []
        # When `DeadlineWatch` looks next.
        self._next_look: asyncio.TimerHandle | None = None

    @property
    def dead(self) -> bool:
        return self.link.dead

    def start(self) -> None:
        in_context(self.context, self._start())

    async def _start(self) -> None:
        await self._jetstream.clock.wait_measured()
        parts = self.role.parts
        if Part.DISPATCH in parts:
            await self._start_dispatch()
        if Part.INTAKE in parts:
            settler = self._settler(topology.INTAKE, give_up=self._intake.give_up)
            self._take(Runner(settler, self._intake.handle), topology.INTAKE)
        if Part.AGGREGATE in parts:
            self._start_aggregate()
        self.server.reconnected.append(self.reconnected)
        self._start_loops()

    def _start_loops(self) -> None:
        """As `parley.app.service` does."""
        parts, condition = self.role.parts, self.server.condition
        if condition is not None and condition.clocks_are_measured:
            self._loops.append(BackgroundLoop(self._jetstream.clock.run, "the clock"))
        if {Part.INTAKE, Part.AGGREGATE} & parts:
            if condition is not None and condition.stores_are_probed:
                self._loops.append(BackgroundLoop(StoreProbe(self._jetstream).run, "the store's probe"))
            watch = DeadlineWatch(self._jetstream, self._effects, self._lost)
            self._effects.deadlines = WatchedBook(lambda due: self._look_at(watch, due))
            if Part.AGGREGATE in parts:
                recovery = DeadlineRecovery(self._jetstream, self._effects, watch)
                self._loops.append(BackgroundLoop(recovery.run, "recovery"))

    def _look_at(self, watch: DeadlineWatch, due: float) -> None:
        """What `DeadlineWatch.run` does every half a second, at that instant only."""

        def look() -> None:
            self._next_look = None
            if self._jetstream.health.refusal(PROBED) is not None:
                look_at(self.server.now + LOOK_SECONDS)
            else:
                in_context(self.context, watch.look())

        def look_at(at: float) -> None:
            if self._next_look is not None:
                if self._next_look.when() <= at:
                    return
                self._next_look.cancel()
            self._next_look = self.server.loop.call_at(at, self.link.when_awake, look)

        late = self.server.rng.random() * LOOK_SECONDS
        look_at(max(self.server.now, self.server.now + due + OVERDUE_SECONDS - self._effects.now()) + late)

    async def _start_dispatch(self) -> None:
        for _ in range(2):
            await self.pool.start_worker()
        pool: Any = self.pool  # what `Dispatch` needs of a pool
        dispatch = Dispatch(self._jetstream, self._tallies, pool, self._settler(topology.DISPATCH))
        dispatch._cancels = Cancels(VirtualTime.monotonic)

        async def drop(message: Any) -> None:
            dispatch.cancel(message.data)

        await self.link.subscribe(topology.AGENT_CANCEL, drop)
        self._take(dispatch, topology.DISPATCH, self.pool)

    def _start_aggregate(self) -> None:
        effects, settler = self._effects, self._settler
        cancel, expire = Cancel(self._jetstream, effects), Expire(effects, self._lost)
        aggregate = Aggregate(effects, self._observer)
        self._take(Runner(settler(topology.CANCELLER), cancel.handle), topology.CANCELLER)
        expiry = settler(topology.EXPIRY, None, expire.give_up)
        self._take(Runner(expiry, expire.handle, expire.prepare), topology.EXPIRY)
        self._take(Runner(settler(topology.AGGREGATE), aggregate.handle), topology.AGGREGATE)

    def reconnected(self) -> None:
        """The broker was away and is back."""

        def recover() -> None:
            for subscriber in self._subscribers:
                subscriber.reconnected()

        self.link.when_awake(recover)

    def _settler(
        self, durable: topology.Durable, max_deliveries: int | None = 5, give_up: GiveUp | None = None
    ) -> Settler:
        return Settler(
            self._jetstream,
            durable,
            self._observer,
            give_up=give_up,
            max_deliveries=max_deliveries,
            suspects=self._suspects,
        )

    def _take(self, handle: HandleBatch, durable: topology.Durable, pool: ActorPool | None = None) -> None:
        consumer = self.server.consumers[durable.name]
        options = self._options
        subscriber = Subscriber(self, consumer, handle, options.in_hand, options.limit_bytes, pool)
        self._subscribers.append(subscriber)
        consumer.pullers.append(subscriber)
        subscriber.ask()

    def check_memory(self) -> None:
        """A process that holds more than its limits together is killed, as by the kernel."""
        if self._options.limit_bytes is None:
            return
        held = sum(subscriber.here_bytes for subscriber in self._subscribers)
        limit = len(self._subscribers) * self._options.limit_bytes
        if self.server.faults.struck:
            limit *= 2  # what was given up as lost came all the same
        if held > limit:
            self.server.trace.add(self.server.now, self.name, "! out of memory", f"{held} bytes of {limit}")
            if Invariant.WITHIN_MEMORY not in self.server.blind:
                raise Violation(Invariant.WITHIN_MEMORY, f"{self.name} holds {held} bytes of {limit}")
            self.kill()

    def kill(self) -> None:
        """No code of it runs any more, not even a `finally`. The messages that it held are redelivered after
        `ack_wait`."""
        if self.dead:
            return
        self.link.die()
        self.pool.kill()
        for consumer in self.server.consumers.values():
            consumer.pullers = [puller for puller in consumer.pullers if puller not in self._subscribers]
        for subscriber in self._subscribers:
            subscriber.disconnect()
        self._killed(self)

    def pause(self, seconds: float) -> None:
        """As SIGSTOP does: it goes on later, with the messages that it holds."""
        self.link.stop(seconds)
        for subscriber in self._subscribers:
            subscriber.stopped()

    def close(self) -> None:
        for loop in self._loops:
            loop.cancel()
        self.link.close()
        self.pool.close()
