"""A pool of two workers that die apart from their dispatcher, as Ray actors do. The workers are the real ones; the model is not."""

import asyncio
import contextvars
import random
from collections.abc import Sequence
from dataclasses import dataclass

from parley.broker.core.messages import ErrorType, Usage
from parley.broker.jetstream.jetstream import JetStream
from parley.workers.agent import Agent
from parley.workers.job import Job
from parley.workers.model.balancer import EndpointBalancer
from parley.workers.model.client import ChatRequest
from parley.workers.model.endpoint import Endpoint
from parley.workers.model.responses import Completion, ModelError
from parley.workers.pool.pool import Slots
from parley.workers.recent_cancels import Cancels
from parley.workers.worker import Worker, nak
from tests.simulation.clock import VirtualTime
from tests.simulation.faults import Kind
from tests.simulation.link import Link, as_client
from tests.simulation.loop import in_context
from tests.simulation.server import Server

# A dead actor is noticed by the call that waits on it.
_NOTICED_SECONDS = 0.02
# As parley.workers.pool.ray_pool, which is not imported here: it imports ray.
SEEK_SECONDS = 1.0
_ERRORS = (ErrorType.SERVER_ERROR, ErrorType.BAD_REQUEST, ErrorType.EMPTY_ANSWER, ErrorType.RATE_LIMITED)


@dataclass(frozen=True, slots=True)
class Moods:
    """How the model fares in a history: how often it fails or keeps silent, and how long it thinks at most."""

    failing: float
    silent: float
    thinking_seconds: float


class Oracle:
    """A model that answers, fails or keeps silent by lot."""

    def __init__(self, rng: random.Random, moods: Moods) -> None:
        self._rng = rng
        self._moods = moods

    async def complete(self, endpoint: Endpoint, request: ChatRequest, *, seconds: float) -> Completion:
        lot, thinks = self._rng.random(), self._moods.thinking_seconds * self._rng.random()
        if lot < self._moods.silent or thinks >= seconds:
            await asyncio.sleep(seconds)
            raise ModelError(ErrorType.DEADLINE_EXCEEDED, "no answer in time")
        await asyncio.sleep(thinks)
        if lot < self._moods.silent + self._moods.failing:
            raise ModelError(self._rng.choice(_ERRORS), "the model is not well")
        return Completion("an answer", "stop", "oracle", Usage())


class Actor:
    """One worker with a connection of its own."""

    def __init__(self, crew: "Crew", server: Server, name: str, moods: Moods) -> None:
        self.name = name
        self.jobs: list[str] = []
        self._crew = crew
        self.link = Link(server, self, name)
        balancer = EndpointBalancer(
            Oracle(server.rng, moods),
            (Endpoint("http://oracle"),),
            now=VirtualTime.time,
            jitter=server.rng.random,
        )
        agent = Agent(balancer, "oracle", VirtualTime.time)
        self.worker = Worker(JetStream(as_client(self.link)), agent, _cancels=Cancels(VirtualTime.monotonic))

    def take(self, job: Job) -> None:
        """It has come, by whichever way. The dead take nothing, and who stands still takes it later."""
        self.link.when_awake(lambda: self.worker.begin([job]))

    def kill(self) -> None:
        if not self.link.dead:
            self.link.die()
            self._crew.mourn(self)

    def pause(self, seconds: float) -> None:
        self.link.stop(seconds)


class Crew:
    """`mine` is the dispatcher's connection: it gives a dead worker's jobs back."""

    def __init__(
        self, server: Server, mine: Link, context: contextvars.Context, *, slots: int, moods: Moods
    ) -> None:
        self._server = server
        self._mine = mine
        self._context = context
        self._moods = moods
        self._slots = Slots(slots)
        self._hired = 0
        self._actors: list[Actor] = []
        self.problem: str | None = None

    @property
    def slots(self) -> int:
        return self._slots.total

    @property
    def busy(self) -> int:
        return self._slots.taken

    async def room(self, wait: bool = True) -> int:
        return await self._slots.room(wait)

    async def start_worker(self) -> None:
        self._hired += 1
        actor = Actor(self, self._server, f"{self._mine.name}.w{self._hired}", self._moods)
        await actor.worker.start()
        self._actors.append(actor)
        in_context(self._context, self._watch(actor))

    async def submit(self, jobs: Sequence[Job]) -> None:
        self._slots.take(len(jobs))
        for job in jobs:
            actor = self._server.rng.choice(self._actors)
            actor.jobs.append(job.reply)
            self._post(actor, job)

    def _post(self, actor: Actor, job: Job) -> None:
        """As `RayPool` does: through NATS, which promises nothing, and sought after a while."""
        server = self._server
        fault = server.parcels.meets("parcel", actor.name, server.now)
        if fault is None:
            actor.take(job)
            return
        server.trace.add(server.now, actor.name, f"! {fault.kind}", f"({fault.seconds:g} s)")
        if fault.kind is Kind.DOUBLE_PARCEL:
            actor.take(job)
        if fault.kind is not Kind.LOSE_PARCEL:
            server.loop.call_later(fault.seconds, actor.take, job)
        server.loop.call_later(SEEK_SECONDS, self._seek, actor, job)

    def _seek(self, actor: Actor, job: Job) -> None:
        if job.reply in actor.jobs and actor.worker.missing([job.reply]):
            actor.take(job)

    async def _watch(self, actor: Actor) -> None:
        while True:
            for reply in await actor.worker.finished():
                if reply in actor.jobs:
                    actor.jobs.remove(reply)
                    self._freed(1)

    def _freed(self, count: int) -> None:
        self._slots.free(count)
        self._server.consumers["dispatch"].pump()

    def mourn(self, actor: Actor) -> None:
        self._server.loop.call_later(_NOTICED_SECONDS, self._mine.when_awake, lambda: self._replace(actor))

    def _replace(self, actor: Actor) -> None:
        self._actors.remove(actor)
        in_context(self._context, self._give_back(actor))

    async def _give_back(self, actor: Actor) -> None:
        await self.start_worker()
        jobs, actor.jobs = actor.jobs, []
        for reply in jobs:
            await self._mine.publish(reply, nak(0.0))
        self._freed(len(jobs))

    def kill(self) -> None:
        """Its process is killed, and they with it."""
        for actor in self._actors:
            actor.link.die()

    def close(self) -> None:
        for actor in self._actors:
            actor.link.close()
