"""One process of the service: the real handlers, wired as `parley.app` wires them, on a connection that can be cut at any step."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from parley.broker.core.errors import ParleyError
from parley.broker.core.observer import Observer
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.tally_store import TallyStore
from parley.handlers.aggregate import Aggregate
from parley.handlers.cancel import Cancel
from parley.handlers.delivery import Batch, Delivery
from parley.handlers.dispatch import Dispatch
from parley.handlers.effects import EffectRunner
from parley.handlers.expire import Expire
from parley.handlers.intake import Bounds, Intake
from parley.handlers.query import Query
from parley.handlers.recover import Recover
from parley.handlers.settle import Settler
from parley.workers.recent_cancels import Cancels
from tests.simulation.actors import ActorPool, Moods
from tests.simulation.clock import SKEW, VirtualTime
from tests.simulation.consumer import Consumer
from tests.simulation.link import Link, as_client
from tests.simulation.loop import in_context
from tests.simulation.server import Server
from tests.simulation.stream import Kept

_CLAIM_CHECK_BYTES = 512 * 1024
MAX_AGENTS = 8
DEFAULT_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Making:
    """How every process of a history is made."""

    keep_seconds: float
    in_hand: int
    slots: int
    skew_seconds: float
    moods: Moods


class Hands:
    """One handler of one process: takes what it has room for and hands over what has come."""

    def __init__(
        self,
        process: "Process",
        consumer: Consumer,
        handler: Callable[[Any], Awaitable[None]],
        limit: int,
        pool: ActorPool | None = None,
    ) -> None:
        self.name = f"{process.name}:{consumer.durable.name}"
        self._process = process
        self._consumer = consumer
        self._handler = handler
        self._limit = limit
        self._pool = pool
        self._promised = 0
        self._in_hand = 0
        self._arrived: list[Delivery[Any]] = []

    @property
    def room(self) -> int:
        if self._process.dead:
            return 0
        free = self._limit - self._promised - len(self._arrived) - self._in_hand
        if self._pool is not None:
            free = min(free, self._pool.free_slots() - self._promised - len(self._arrived) - self._in_hand)
        return free

    def promise(self) -> None:
        self._promised += 1

    def missed(self) -> None:
        """What was promised did not come; the pull request expires some time."""
        self._process.server.loop.call_later(6.0, self._free)

    def _free(self) -> None:
        self._promised -= 1
        self._consumer.pump()

    def arrive(self, kept: Kept, reply: str, *, awaited: bool = True) -> None:
        self._promised -= awaited
        if self._process.dead:
            return
        self._arrived.append(Delivery.of(self._process.link.delivered(kept, reply)))
        if len(self._arrived) == 1:
            self._process.server.loop.call_soon(self._process.link.when_awake, self._start)

    def _start(self) -> None:
        batch, self._arrived = Batch(self._arrived), []
        self._in_hand += len(batch)
        in_context(self._process.context, self._handle(batch))

    async def _handle(self, batch: Batch[Any]) -> None:
        try:
            await self._handler(batch)
        finally:
            self._in_hand -= len(batch)
            self._consumer.pump()


class Process:
    def __init__(
        self,
        server: Server,
        name: str,
        making: Making,
        observer: Observer,
        killed: Callable[["Process"], None],
    ) -> None:
        self.server = server
        self.name = name
        self.link = Link(server, self, name)
        self._making = making
        self._killed = killed
        self.context = contextvars.copy_context()
        self.context.run(SKEW.set, making.skew_seconds * (2 * server.rng.random() - 1))
        self.pool = ActorPool(server, self.link, self.context, slots_each=making.slots, moods=making.moods)
        wire = JetStream(as_client(self.link))
        ledger = TallyStore(wire, keep_seconds=making.keep_seconds)
        performer = EffectRunner(wire, ledger, observer, claim_check_bytes=_CLAIM_CHECK_BYTES)
        self.query = Query(wire, ledger)
        self._recover = Recover(wire, performer)
        self._wire, self._observer, self._performer, self._ledger = wire, observer, performer, ledger

    @property
    def dead(self) -> bool:
        return self.link.dead

    def start(self) -> None:
        in_context(self.context, self._start())

    async def _start(self) -> None:
        wire, performer, observer = self._wire, self._performer, self._observer
        for _ in range(2):
            await self.pool.start_worker()
        pool: Any = self.pool  # what `Dispatch` needs of a pool
        dispatch = Dispatch(wire, self._ledger, pool, self._settler(topology.DISPATCH))
        dispatch._cancels = Cancels(VirtualTime.monotonic)

        async def drop(message: Any) -> None:
            dispatch.cancel(message.data)

        await self.link.subscribe(topology.AGENT_CANCEL, drop)
        bounds = Bounds(MAX_AGENTS, DEFAULT_TIMEOUT_SECONDS)
        self._take(topology.INTAKE, Intake(performer, self._settler(topology.INTAKE), observer, bounds))
        self._take(topology.CANCELLER, Cancel(wire, performer, self._settler(topology.CANCELLER)))
        self._take(topology.EXPIRY, Expire(performer, self._settler(topology.EXPIRY, deliveries=None)))
        self._take(
            topology.AGGREGATE, Aggregate(wire, performer, self._settler(topology.AGGREGATE), observer)
        )
        self._take(topology.DISPATCH, dispatch, self.pool)

        self.server.reconnected.append(self.reconnected)
        await self.sweep()

    def reconnected(self) -> None:
        """The broker was away and is back."""

        def sweep() -> None:
            in_context(self.context, self.sweep())

        self.link.when_awake(sweep)

    async def sweep(self) -> None:
        # As `Recover.run` does, which would look once a second whether anything is to be done.
        while True:
            try:
                await self._recover.sweep()
                return
            except ParleyError:
                await asyncio.sleep(1.0)

    def _settler(self, durable: topology.Durable, deliveries: int | None = 5) -> Settler:
        return Settler(self._wire, durable, self._observer, deliveries)

    def _take(
        self,
        durable: topology.Durable,
        handler: Callable[[Any], Awaitable[None]],
        pool: ActorPool | None = None,
    ) -> None:
        consumer = self.server.consumers[durable.name]
        consumer.pullers.append(Hands(self, consumer, handler, self._making.in_hand, pool))
        consumer.pump()

    def kill(self) -> None:
        """Nothing of it runs on: no `finally`, no goodbye. What it had in hand is redelivered in time."""
        if self.dead:
            return
        self.link.die()
        self.pool.kill()
        for consumer in self.server.consumers.values():
            consumer.pullers = [
                puller for puller in consumer.pullers if getattr(puller, "_process", None) is not self
            ]
        self._killed(self)

    def pause(self, seconds: float) -> None:
        """As SIGSTOP does: it goes on later, with whatever it had in hand."""
        self.link.stop(seconds)

    def close(self) -> None:
        self.link.close()
        self.pool.close()
