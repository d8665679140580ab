"""A pool of actors that die apart from their dispatcher. All but Ray and the model is the code that runs."""

import asyncio
import contextvars
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parley.broker.core.messages import ErrorType, Usage
from parley.broker.jetstream.acks_and_pulls import nak
from parley.broker.jetstream.jetstream import JetStream
from parley.workers.agent import Agent
from parley.workers.job_message import AgentJob
from parley.workers.model.endpoint_address import Endpoint
from parley.workers.model.endpoint_failover import FailoverClient
from parley.workers.model.model_client import ChatRequest
from parley.workers.model.model_error import ModelError
from parley.workers.model.responses import Completion
from parley.workers.pool.job_book import RESEND_SECONDS
from parley.workers.pool.pool import WorkerPool
from parley.workers.recent_cancels import Cancels
from parley.workers.worker import Worker
from tests.simulation.blindness import AS_WHOM, MODEL, is_blind
from tests.simulation.clock import VirtualTime
from tests.simulation.faults import Kind
from tests.simulation.invariants import Invariant, holds
from tests.simulation.link import Link, as_client
from tests.simulation.loop import in_context
from tests.simulation.server import Server

# The pool's call of `finished` fails this long after the actor's death.
_NOTICED_SECONDS = 0.02
# A job must have arrived this long after it was sent: it is asked for after RESEND_SECONDS, and sent again then.
_ARRIVED_SECONDS = RESEND_SECONDS + 0.5
_ERRORS = (ErrorType.SERVER_ERROR, ErrorType.BAD_REQUEST, ErrorType.EMPTY_ANSWER, ErrorType.RATE_LIMITED)


@dataclass(frozen=True, slots=True)
class Moods:
    """How often the model fails or does not answer in a history, how long it thinks at most, and how much it says."""

    failing: float
    silent: float
    thinking_seconds: float
    answer_bytes: int = 9


class Oracle:
    """A model that answers, fails or does not answer, at random."""

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
            raise ModelError(
                self._rng.choice(_ERRORS), "the model failed".ljust(self._moods.answer_bytes, "\a")
            )
        if request.response_format is not None:
            # Not from here: an agent takes what is raised here for a failure of its model.
            asyncio.get_running_loop().call_soon(is_blind, request.messages)
            return Completion(self._ballot(request.response_format), "stop", MODEL, Usage())
        words = request.messages[-1]["content"]
        if "# Answers" in words:
            asyncio.get_running_loop().call_soon(is_blind, request.messages)
        if "the word KEEP" in words and self._rng.random() < 0.5:
            return Completion(f"KEEP {self._rng.choice('ABC')}", "stop", MODEL, Usage())
        # Few different answers, so that some are the same.
        answer = self._rng.choice(("yes", "no", "maybe")).rjust(self._moods.answer_bytes, " ")
        persona = AS_WHOM.search(words)
        if persona is not None:
            answer = (
                f"As the {persona[1]}, I am agent-dev-{self._rng.randint(1, 4):03d}, or {MODEL}: {answer}"
            )
        return Completion(answer, "stop", MODEL, Usage())

    def _ballot(self, response_format: Mapping[str, Any]) -> str:
        """A ballot at random; at times words that are none."""
        ranking = response_format["json_schema"]["schema"]["properties"]["ranking"]
        if self._rng.random() < 0.1:
            return self._rng.choice(("A", "the first one", '{"ranking": "AA"}', "{" * 50))
        if "enum" in ranking:
            return json.dumps({"notes": "so", "ranking": self._rng.choice(ranking["enum"])})
        labels = list(ranking["items"]["enum"])
        self._rng.shuffle(labels)
        return json.dumps({"notes": "so", "ranking": labels})


class Actor:
    """One worker with a connection of its own."""

    def __init__(self, pool: "ActorPool", server: Server, number: int, name: str, moods: Moods) -> None:
        self.number = number
        self.name = name
        self._pool = pool
        self.link = Link(server, self, name, pool.old)
        wire = JetStream(as_client(self.link))
        balancer = FailoverClient(
            Oracle(server.rng, moods),
            (Endpoint("http://oracle"),),
            now=wire.clock.now,
            jitter=server.rng.random,
        )
        agent = Agent(balancer, MODEL, wire.clock.now)
        self.worker = Worker(wire, agent, _cancels=Cancels(VirtualTime.monotonic))

    def take(self, job: AgentJob) -> None:
        """A job arrives. A dead actor takes nothing, a stopped one takes it later."""
        self.link.when_awake(lambda: self._take(job))

    def _take(self, job: AgentJob) -> None:
        self.worker.start_jobs([job])
        slots = self._pool.slots_each * (1 + self._pool.away) + self._pool.unrequested
        holds(Invariant.WITHIN_SLOTS, self.worker.running <= slots, f"{self.name} runs {self.worker.running}")

    def kill(self) -> None:
        if not self.link.dead:
            self.link.die()
            self._pool.died(self)

    def pause(self, seconds: float) -> None:
        self.link.stop(seconds)


class ActorPool(WorkerPool):
    """`link`: the dispatcher's connection, which gives a dead actor's jobs back. `slots_each`: slots of an actor."""

    def __init__(
        self, server: Server, link: Link, context: contextvars.Context, *, slots_each: int, moods: Moods
    ) -> None:
        super().__init__((), slots_each=slots_each)
        self.slots_each = slots_each
        self._server = server
        self._link = link
        self.old = link.old
        self._context = context
        self._moods = moods
        # By number, the actors that are up.
        self._actors: dict[int, Actor] = {}
        # How many actors there have been.
        self._made = 0
        self.unready_reason: str | None = None
        # Jobs beyond what the dispatcher asked for: doubled deliveries, and those of requests that it gave up.
        self.unrequested = 0
        # How many actors are dead and not replaced. What was asked for their sake comes to the others.
        self.away = 0

    async def start_worker(self) -> None:
        self._made += 1
        actor = Actor(self, self._server, self._made, f"{self._link.name}.w{self._made}", self._moods)
        await actor.worker.wire.clock.measure()
        await actor.worker.start()
        self._actors[actor.number] = actor
        self._add_worker(actor.number)
        in_context(self._context, self._watch(actor))

    async def submit(self, jobs: Sequence[AgentJob]) -> None:
        shares, unplaced = self._assign(jobs)
        for number, share in shares.items():
            for job in share:
                self._send(self._actors[number], job)
        await self._give_back(unplaced)

    def _send(self, actor: Actor, job: AgentJob) -> None:
        """Over NATS, which may lose, delay or double it."""
        server = self._server
        over_nats = self._book.message(actor.number, job, server.now) is not None
        fault = server.parcels.meets("parcel", actor.name, server.now) if over_nats else None
        if fault is None:
            actor.take(job)
            return
        server.trace.add(server.now, actor.name, f"! {fault.kind}", f"({fault.seconds:g} s)")
        if fault.kind is Kind.DOUBLE_PARCEL:
            actor.take(job)
        if fault.kind is not Kind.LOSE_PARCEL:
            server.loop.call_later(fault.seconds, actor.take, job)
        # A hair later than due: sums of floats may be too small.
        server.loop.call_later(RESEND_SECONDS + 0.001, self._link.when_awake, lambda: self._ask(actor))
        server.loop.call_later(_ARRIVED_SECONDS, self._check_arrived, actor, job)

    def _ask(self, actor: Actor) -> None:
        """As `RayPool._resend_lost` does, whose call of a stopped actor returns later."""
        overdue = self._book.overdue(actor.number, self._server.now)

        def answered() -> None:
            for job in self._book.confirm(actor.number, overdue, actor.worker.missing(overdue)):
                actor.take(job)

        if overdue:
            actor.link.when_awake(answered)

    def _check_arrived(self, actor: Actor, job: AgentJob) -> None:
        if actor.link.dead or actor.link.stops or self._link.dead or self._link.stops:
            return
        lost = job.key in self._book.jobs(actor.number) and actor.worker.missing([job.key])
        holds(Invariant.HANDED_OVER, not lost, f"{job.key} never came to {actor.name}")

    async def _watch(self, actor: Actor) -> None:
        while True:
            self._settle(actor.number, await actor.worker.finished())
            self._pump()

    def _pump(self) -> None:
        self._server.consumers["dispatch"].pump()

    def died(self, actor: Actor) -> None:
        self.away += 1
        self._server.loop.call_later(_NOTICED_SECONDS, self._link.when_awake, lambda: self._replace(actor))

    def _replace(self, actor: Actor) -> None:
        del self._actors[actor.number]
        running = set(actor.worker._running)
        jobs = self._remove_worker(actor.number)
        forgotten = running - {job.key for job in jobs}
        holds(
            Invariant.HANDED_OVER,
            not forgotten,
            f"{forgotten} died with {actor.name}, and are not given back",
        )
        in_context(self._context, self._give_back_and_replace(jobs))

    async def _give_back_and_replace(self, jobs: Sequence[AgentJob]) -> None:
        await self.start_worker()
        self.away -= 1
        await self._give_back(jobs)
        self._pump()

    async def _give_back(self, jobs: Sequence[AgentJob]) -> None:
        for job in jobs:
            await self._link.publish(job.key, nak(0.0))

    def kill(self) -> None:
        """The service's process is killed, and its actors with it."""
        for actor in self._actors.values():
            actor.link.die()

    def close(self) -> None:
        for actor in self._actors.values():
            actor.link.close()
