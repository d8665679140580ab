"""The pool on Ray: a few long-lived async actors, each a `WorkerActor`.

A small job is sent over NATS, which costs an actor one wake-up where a call costs five (decision 11). Large jobs, and
those that did not arrive, go as a call of `start_jobs`. The call `finished` waits, and returns the keys of the jobs
settled since and how the actor sees the endpoints. It fails when the actor dies: then the actor's jobs go back to the
queue at once, and another actor takes its place. Ray retries nothing, because JetStream redelivers (`max_restarts`
without `max_task_retries` would not retry calls, and `ray.util.ActorPool` can hang, ray#50313).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from parley.broker.asyncio_helpers import BackgroundLoop, gather
from parley.broker.core.reply_subjects import SERVICE_INBOX
from parley.broker.jetstream.acks_and_pulls import nak
from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.nats_access import NatsAccess
from parley.broker.jetstream.nats_client import NatsClient
from parley.workers.job_message import AgentJob
from parley.workers.model.model_server import ModelServer
from parley.workers.pool.job_book import RESEND_SECONDS
from parley.workers.pool.pool import WorkerPool
from parley.workers.pool.ray_cluster import HEAD_REPLACED, RayCluster
from parley.workers.pool.ray_errors import THIS_MACHINE, RayUnavailable, first_line, is_another_cluster
from parley.workers.pool.ray_private import RayError
from parley.workers.pool.ray_room import Lack
from parley.workers.pool.worker_config import WorkerConfig
from parley.workers.pool.worker_process import FLUSH_SECONDS

log = logging.getLogger("parley.workers")

# Between two checks that Ray's head can be reached.
HEAD_CHECK_SECONDS = 2.0
# A pool that has no actor, or cannot reach Ray's head, for this long does not recover by itself. Ray ends a driver
# that lost its head after 60 s without a log line (measured, 2.60). The service ends in good order before that, and
# is started again.
LOST_SECONDS = 15.0
# Where `ack_wait` is short, a lost job is sent again after this share of it: before the server redelivers it.
RESEND_SHARE = 5
# Between two tries to replace an actor that could not be made.
REPLACE_WAIT_SECONDS = 1.0
# Between two looks at whether actors that have not started find a place.
ROOM_CHECK_SECONDS = 2.0
# A start waits this long for the next node of a cluster that is coming up, and for CPUs that others are about to free.
NODES_SECONDS = 10.0
FREED_SECONDS = 30.0
# Until a process has come up, its actor seems to wait for the CPUs that it has taken.
PROCESS_SECONDS = 10.0
# For all actors to say that they ask other servers.
TELL_SECONDS = 10.0


@dataclass(slots=True)
class ActorSlot:
    """One place in the pool, filled by one actor after another."""

    # Also the worker's number in the job book.
    number: int
    # How many actors have filled it.
    generation: int = 0
    # Where the actor that fills it takes jobs.
    inbox: str = ""
    # None while the place is empty. Any: Ray types no methods of an actor's handle.
    actor: Any = None
    # The one that is to fill it, until it has started.
    starting: Any = None

    def name(self, pool: str) -> str:
        return f"parley-{pool}-{self.number}.{self.generation}"


class RayPool(WorkerPool):
    """`actors` async actors of `config.slots` slots each. Use as an async context manager.

    `address` None or `local` starts a local Ray with this process and stops it again; any other is joined. `name` makes
    the actors' names unique among the replicas of a cluster. `nats_url`: NATS with the rights of the service, if the
    workers of `config` have others. `home`: the state folder, for a local Ray's session. Raises RayUnavailable on entry.
    """

    def __init__(
        self,
        config: WorkerConfig,
        *,
        name: str,
        actors: int,
        address: str | None,
        actor_cpus: float = 1.0,
        nats_url: str | None = None,
        nats_access: NatsAccess | None = None,
        home: Path | None = None,
    ) -> None:
        resend_seconds = min(RESEND_SECONDS, config.ack_wait_seconds / RESEND_SHARE)
        super().__init__(config.servers, slots_each=config.slots, resend_seconds=resend_seconds)
        self._config = config
        # For the pool's own connection.
        self._nats_url = nats_url or config.nats_url
        self._nats_access = nats_access or config.nats_access
        self._name = name
        self._cluster = RayCluster(address, actors=actors, actor_cpus=actor_cpus, home=home)
        self._address = address
        self._actor_slots = [ActorSlot(number) for number in range(1, actors + 1)]
        # Ends what was started, in reverse order.
        self._stack = AsyncExitStack()
        # Carries jobs to the actors. None until the pool has started.
        self._nc: NatsClient | None = None
        # Why the head is of no use; None while it is.
        self._head_problem: str | None = None
        # When actors began to find no place; None while they do.
        self._lacking_since: float | None = None
        # Why empty places stay empty; None while there are none, or nothing is known.
        self._actor_problem: str | None = None
        self._fatal_reason: str | None = None

    async def __aenter__(self) -> Self:
        try:
            self._stack.callback(self._cluster.forget_session)
            async with self._cluster.starting():
                await self._cluster.start()
            self._stack.push_async_callback(self._leave)
            self._nc = await connect(
                self._nats_url, f"parley-pool-{self._name}", SERVICE_INBOX, self._nats_access
            )
            self._nc.is_second = True  # beside the service's own
            self._stack.push_async_callback(close, self._nc)
            async with self._cluster.starting():
                await self._fill_all()
        except BaseException:
            await self._stack.aclose()
            raise
        self._stack.push_async_callback(self._stop_actors)
        for slot in self._actor_slots:
            self._start_loop(partial(self._watch, slot), f"the watch of actor {slot.number}")
            self._start_loop(partial(self._resend_lost, slot), f"the resending to actor {slot.number}")
        self._start_loop(self._watch_head, "the watch of Ray's head")
        return self

    def _start_loop(self, loop: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        self._stack.callback(BackgroundLoop(loop, name).cancel)

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def _leave(self) -> None:
        # Leaving a lost cluster would wait for its head.
        if self._fatal_reason is None:
            await self._cluster.leave()

    # ── what a pool says and takes ────────────────────────────────────────────────────────────────────────────────

    @property
    def unready_reason(self) -> str | None:
        if self._head_problem is not None:
            return self._head_problem
        if any(slot.actor is not None for slot in self._actor_slots):
            return None
        return "no Ray actor is up" + (f": {self._actor_problem}" if self._actor_problem else "")

    @property
    def fatal_reason(self) -> str | None:
        return self._fatal_reason

    async def use_servers(self, servers: Sequence[ModelServer]) -> None:
        await super().use_servers(servers)
        self._config = replace(self._config, servers=tuple(servers))
        actors = [slot.actor for slot in self._actor_slots if slot.actor is not None]
        told = [asyncio.ensure_future(actor.use_servers.remote(self._config.servers)) for actor in actors]
        if told:
            await asyncio.wait(told, timeout=TELL_SECONDS)
        for each in told:
            if not each.done():
                log.warning("an actor does not say whether it asks the new servers: it does once it answers")
            elif (error := each.exception()) is not None:  # a dead one is replaced by one that asks these
                log.warning("an actor was not told of its new servers: %s", first_line(error))

    async def submit(self, jobs: Sequence[AgentJob]) -> None:
        """Spread the jobs over the actors, the least loaded first."""
        shares, unplaced = self._assign(jobs)
        if unplaced:
            await self._give_back(unplaced)
        for slot in self._actor_slots:
            if slot.number in shares and slot.actor is not None:
                await self._send(slot, shares[slot.number])

    async def _send(self, slot: ActorSlot, jobs: Sequence[AgentJob]) -> None:
        """Send jobs to the actor that fills the place now. Should it die meanwhile, `_replace` gives them back."""
        actor, inbox = slot.actor, slot.inbox
        by_call = [job for job in jobs if not await self._publish(slot, inbox, job)]
        if by_call:
            actor.start_jobs.remote(by_call)

    async def _publish(self, slot: ActorSlot, inbox: str, job: AgentJob) -> bool:
        """Send one job over NATS. False if it has to go as a call."""
        assert self._nc is not None
        if not self._nc.is_connected:
            return False
        message = self._book.message(slot.number, job, time.monotonic())
        if message is None:
            return False
        try:
            await self._nc.publish(inbox, message)
        except Exception as error:  # whatever it is, a call may still work
            self._book.not_sent(slot.number, job.key)
            log.warning("a job goes to actor %s as a call, NATS refused it: %s", slot.name(self._name), error)
            return False
        return True

    async def _resend_lost(self, slot: ActorSlot) -> None:
        """Ask an actor for the jobs that are overdue, and send again, as a call, those that never arrived."""
        while True:
            await asyncio.sleep(self._book.resend_seconds)
            overdue = self._book.overdue(slot.number, time.monotonic())
            if not overdue or slot.actor is None:
                continue
            try:
                missing = await slot.actor.missing.remote(overdue)
                lost = self._book.confirm(slot.number, overdue, missing)
                if lost and slot.actor is not None:
                    log.warning(
                        "%d jobs never came to actor %s, sent again", len(lost), slot.name(self._name)
                    )
                    slot.actor.start_jobs.remote(lost)
            except Exception as error:  # the actor is dead; `_watch` replaces it
                log.debug("actor %s was not asked: %s", slot.name(self._name), first_line(error))

    # ── actors ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _fill_all(self) -> None:
        """Raises RayUnavailable when the cluster has no room for all."""
        filling = asyncio.ensure_future(gather(map(self._fill, self._actor_slots)))
        began, seen = time.monotonic(), None
        try:
            while not (await asyncio.wait((filling,), timeout=ROOM_CHECK_SECONDS))[0]:
                lack = await self._lack()
                if lack is not None and lack != seen:  # a node has joined, or left
                    began, seen = time.monotonic(), lack
                waited = time.monotonic() - began
                if lack is None or (not lack.lasting and waited < PROCESS_SECONDS):
                    continue
                if waited > (NODES_SECONDS if lack.lasting else FREED_SECONDS):
                    raise RayUnavailable(self._address or THIS_MACHINE, lack.reason, lack.remedy)
                self._tell_actor_problem(str(lack))
            await filling
        finally:
            filling.cancel()
            self._actor_problem = None

    async def _fill(self, slot: ActorSlot) -> None:
        slot.generation += 1
        config = self._config
        actor = await self._cluster.make_actor(config, slot.name(self._name))
        slot.starting = actor
        try:
            slot.inbox = await actor.start.remote()
            while config is not self._config:  # they were set anew meanwhile
                config = self._config
                await actor.use_servers.remote(config.servers)
        finally:
            slot.starting = None
        slot.actor = actor
        self._add_worker(slot.number)

    async def _lack(self) -> Lack | None:
        """Why actors that have not started find no place."""
        unstarted = [slot.starting for slot in self._actor_slots if slot.starting is not None]
        return await self._cluster.lack(unstarted) if unstarted else None

    async def _watch(self, slot: ActorSlot) -> None:
        """Free slots as an actor settles jobs. When it dies, give its jobs back and replace it."""
        while True:
            try:
                assert slot.actor is not None
                settled, statuses = await slot.actor.finished.remote()
                self._statuses.update(slot.number, statuses)
                self._settle(slot.number, settled)
            except Exception as error:  # a RayError, as far as is known
                await self._replace(slot, error)

    async def _replace(self, slot: ActorSlot, cause: Exception) -> None:
        slot.actor = None
        jobs = self._remove_worker(slot.number)
        log.warning(
            "actor %s is gone (%s): %d jobs go back", slot.name(self._name), type(cause).__name__, len(jobs)
        )
        await self._give_back(jobs)
        while slot.actor is None:
            try:
                await self._fill(slot)
            except Exception as error:  # whatever it is, the place must not stay empty
                if is_another_cluster(error):
                    self._head_problem = self._fatal_reason = HEAD_REPLACED
                self._tell_actor_problem(self._fatal_reason or self._cluster.why_no_actor(error))
                await asyncio.sleep(REPLACE_WAIT_SECONDS)
        if all(other.actor is not None for other in self._actor_slots):
            self._actor_problem = None

    def _tell_actor_problem(self, problem: str) -> None:
        """Once, until it is another one."""
        if problem != self._actor_problem:
            log.warning("no new actor yet: %s", problem)
        self._actor_problem = problem

    async def _give_back(self, jobs: Sequence[AgentJob]) -> None:
        """At once if another actor can take the jobs, else after a pause, because every delivery counts."""
        assert self._nc is not None
        acknowledgement = nak(0.0 if self.unready_reason is None else REPLACE_WAIT_SECONDS)
        try:
            for job in jobs:
                await self._nc.publish(job.key, acknowledgement)
        except Exception as error:  # NATS is away: it redelivers after ack_wait
            log.warning("%d jobs not given back: %s", len(jobs), error)

    async def _stop_actors(self) -> None:
        """Let the actors drain, then end them. The server has every job that was sent before they are told."""
        running = [slot for slot in self._actor_slots if slot.actor is not None]
        if self._nc is not None:
            with suppress(Exception):
                await self._nc.flush(FLUSH_SECONDS)
        closing = [slot.actor.close.remote(self._book.unconfirmed(slot.number)) for slot in running]
        if closing:
            grace = FLUSH_SECONDS + self._config.drain_seconds + REPLACE_WAIT_SECONDS
            with suppress(RayError, TimeoutError):
                await asyncio.wait_for(asyncio.gather(*closing, return_exceptions=True), timeout=grace)
        await self._cluster.last_log_lines([slot.name(self._name) for slot in running])
        await self._cluster.kill([slot.actor for slot in running])

    async def _watch_head(self) -> None:
        """Know when Ray's head is gone or another one, when actors find no place, and when to stop waiting."""
        unready_since: float | None = None
        while True:
            await asyncio.sleep(HEAD_CHECK_SECONDS)
            self._head_problem = await self._cluster.head_problem()
            if self._head_problem == HEAD_REPLACED:
                self._fatal_reason = HEAD_REPLACED
                return
            if self._head_problem is None:
                await self._look_for_room()
            now = asyncio.get_running_loop().time()
            unready_since = None if self.unready_reason is None else unready_since or now
            if unready_since is not None and now - unready_since >= LOST_SECONDS:
                self._fatal_reason = f"for {now - unready_since:.0f} s: {self.unready_reason}"

    async def _look_for_room(self) -> None:
        """Tell why places stay empty, if it is for want of CPUs."""
        lack = await self._lack()
        now = time.monotonic()
        self._lacking_since = None if lack is None else self._lacking_since or now
        if lack is None or self._lacking_since is None:
            return
        if lack.lasting or now - self._lacking_since >= PROCESS_SECONDS:
            self._tell_actor_problem(str(lack))
