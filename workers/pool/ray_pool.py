"""The pool on Ray: a few long-lived async actors, each a `WorkerActor`. The only importer of ray.

Jobs are handed over through NATS, which costs an actor one wake-up where a call costs five (decision 11); large ones, and whatever did not
arrive, as a call of `begin`. The call `finished` waits and brings back the keys of all that were settled since, and how the actor sees the
endpoints; it is also how the death of an actor is noticed. A dead one is replaced, and its jobs go back to the queue at once; nothing is retried by Ray,
for JetStream redelivers (`max_restarts` without `max_task_retries` would not, and `ray.util.ActorPool` wedges, ray#50313).
"""

import asyncio
import logging
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, Self

# A driver started by `uv run` makes Ray start every worker through `uv run` too, which took minutes. Before ray is imported.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray makes its workers the nicest processes there are (15): beside a model server that keeps all cores busy, an actor would get next to no time.
# Of a cluster that is joined, its own raylets decide.
os.environ.setdefault("RAY_worker_niceness", "0")

import ray
from nats.aio.client import Client
from ray._private import ray_constants
from ray.exceptions import RayError

from parley.broker.core.errors import ParleyError, Unavailable
from parley.broker.jetstream.acks import nak
from parley.broker.jetstream.connection import close, connect
from parley.workers.job import MAX_UNCONFIRMED, Job, pack
from parley.workers.model.endpoint import Endpoint
from parley.workers.model.endpoint_status import EndpointStatus, EndpointStatuses
from parley.workers.pool import ray_head
from parley.workers.pool.actor import FLUSH_SECONDS, WorkerActor
from parley.workers.pool.blocking import BlockingThread
from parley.workers.pool.pool import Slots, WorkerConfig

log = logging.getLogger("parley.workers")

# A local Ray takes about 5 s here with compiled bytecode, 20 s without.
START_TIMEOUT_SECONDS = 60.0
# How often the pool looks whether Ray's head can be reached.
HEAD_LOOK_SECONDS = 2.0
# A pool without a single actor, or without its head, for this long does not come back by itself. A driver that lost its head is
# ended by Ray after 60 s, without a word to anybody (measured, 2.60); before that we leave in good order, to be started again.
LOST_SECONDS = 15.0
# What Ray may take to be left. With its head gone it would take minutes.
LEAVE_SECONDS = 10.0
# Core NATS promises nothing: after this an actor is asked for what was handed over through it, and what it does not have is handed over anew.
# Where `ack_wait` is short, a share of it: before the message comes again.
RESEND_SECONDS = 1.0
RESEND_SHARE = 5
# Between two tries to replace an actor when the cluster has no place for it.
REPLACE_WAIT_SECONDS = 1.0
# Local object store: jobs are small and answers never pass through it. Ray's minimum is 75 MiB.
LOCAL_OBJECT_STORE_BYTES = 80 * 1024 * 1024


class RayUnavailable(Unavailable):
    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.address = address
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot use Ray at {self.address}: {self.reason}. Is RAY_ADDRESS right? PARLEY_POOL=local runs without Ray."


def stay_on_loopback() -> None:
    """Have a local Ray listen on 127.0.0.1 only.

    Asked for 127.0.0.1 by name, Ray takes the machine's outside address instead and listens on every interface. What it
    does not do on Linux by itself it does on macOS and Windows, and this is its switch: the variable for the processes it
    starts, the constant for this one, which has read the variable already.
    """
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False


@dataclass(slots=True)
class ActorSlot:
    """One place in the pool: the actor that fills it now and the jobs it has. `posted`: those of them that went through NATS, and when,
    until the actor is known to have them."""

    number: int
    generation: int = 0
    pid: int = 0
    inbox: str = ""
    actor: Any = None  # a handle of Ray's, whose methods it does not type; None while nobody fills the place
    jobs: dict[str, Job] = field(default_factory=dict)
    posted: dict[str, float] = field(default_factory=dict)

    def settle(self, reply: str) -> bool:
        """Whether it had that job."""
        self.posted.pop(reply, None)
        return self.jobs.pop(reply, None) is not None

    def name(self, pool: str) -> str:
        return f"parley-{pool}-{self.number}.{self.generation}"


class RayPool:
    """`actors` async actors of `config.slots` slots each. Use as an async context manager.

    `address` None starts a local Ray with this process and stops it again; anything else is joined. `name` makes the actors'
    names unique among the replicas of a cluster.
    """

    def __init__(
        self, config: WorkerConfig, *, name: str, actors: int, address: str | None, actor_cpus: float = 1.0
    ) -> None:
        self._config = config
        self._name = name
        self._actor_cpus = actor_cpus
        self._address = address
        self._members = [ActorSlot(number) for number in range(1, actors + 1)]
        self._slots = Slots(0)
        self._statuses = EndpointStatuses(Endpoint(url).label for url in config.endpoints)
        self._stack = AsyncExitStack()
        self._nc: Client | None = None
        self._aside = BlockingThread("ray")
        self._head: ray_head.Place | None = None
        self._head_problem: str | None = None
        self._lost: str | None = None
        self.replaced = 0

    async def __aenter__(self) -> Self:
        try:
            async with asyncio.timeout(START_TIMEOUT_SECONDS):
                await self._aside.do(self._join)
            self._stack.push_async_callback(self._leave)
            self._nc = await connect(self._config.nats_url, f"parley-pool-{self._name}")
            self._stack.push_async_callback(close, self._nc)
            async with asyncio.timeout(START_TIMEOUT_SECONDS):
                await asyncio.gather(*(self._fill(member) for member in self._members))
        except ParleyError:
            await self._stack.aclose()
            raise
        except (RayError, ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            await self._stack.aclose()
            raise RayUnavailable(self._address or "this machine", _reason(error)) from error
        except BaseException:
            await self._stack.aclose()
            raise
        self._stack.push_async_callback(self._stop_actors)
        for member in self._members:
            for doing, name in ((self._watch(member), "crew"), (self._resend_lost(member), "seek")):
                task = asyncio.create_task(doing, name=f"{name}-{member.number}")
                self._stack.callback(task.cancel)
        minder = asyncio.create_task(self._watch_head(), name="ray-head")
        self._stack.callback(minder.cancel)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    @property
    def slots(self) -> int:
        return self._slots.total

    @property
    def busy(self) -> int:
        return self._slots.taken

    @property
    def pids(self) -> Mapping[int, int]:
        """Process id by actor number, of the actors that are up."""
        return {member.number: member.pid for member in self._members if member.actor is not None}

    @property
    def problem(self) -> str | None:
        if self._head_problem is not None:
            return self._head_problem
        if any(member.actor is not None for member in self._members):
            return None
        return "no Ray actor is up"

    @property
    def breakers(self) -> Mapping[str, EndpointStatus]:
        return self._statuses.by_endpoint

    @property
    def lost(self) -> str | None:
        return self._lost

    async def room(self, wait: bool = True) -> int:
        return await self._slots.room(wait)

    async def submit(self, jobs: Sequence[Job]) -> None:
        """Spread the jobs over the actors, the idlest first."""
        self._slots.take(len(jobs))
        shares: dict[int, list[Job]] = {}
        for job in jobs:
            idlest = min(
                (m for m in self._members if m.actor is not None), key=lambda m: len(m.jobs), default=None
            )
            if idlest is None:
                self._slots.free(1)
                await self._give_back([job])
                continue
            idlest.jobs[job.reply] = job
            shares.setdefault(idlest.number, []).append(job)
        for member in self._members:
            share = shares.get(member.number)
            if share and member.actor is not None:
                await self._send(member, share)

    async def _send(self, member: ActorSlot, jobs: Sequence[Job]) -> None:
        """To the actor that fills the place now. Should it die meanwhile, its jobs go back and nobody hears this."""
        actor, inbox = member.actor, member.inbox
        called = [job for job in jobs if not await self._publish(member, inbox, job)]
        if called:
            actor.begin.remote(called)

    async def _publish(self, member: ActorSlot, inbox: str, job: Job) -> bool:
        """Whether it went through NATS."""
        assert self._nc is not None
        parcel = pack(job) if self._nc.is_connected and len(member.posted) < MAX_UNCONFIRMED else None
        if parcel is None:
            return False
        try:
            await self._nc.publish(inbox, parcel)
        except Exception as error:  # whatever it was, there is another way
            log.warning(
                "a job could not be sent to actor %s, it is called: %s", member.name(self._name), error
            )
            return False
        member.posted[job.reply] = time.monotonic()
        return True

    # ── actors ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _join(self) -> None:
        common: dict[str, Any] = {
            "log_to_driver": False,
            "logging_level": logging.ERROR,
            "namespace": "parley",
        }
        if self._address is not None:
            ray_head.check_reachable(self._address)
            ray.init(address=self._address, **common)
            self._head = ray_head.parse_address(
                self._address if self._address.startswith("ray://") else _gcs_address()
            )
            return
        stay_on_loopback()
        cpus = max(os.cpu_count() or 1, round(len(self._members) * self._actor_cpus + 0.5))
        ray.init(
            num_cpus=cpus,
            include_dashboard=False,
            object_store_memory=LOCAL_OBJECT_STORE_BYTES,
            **common,
        )
        self._head = ray_head.parse_address(_gcs_address())

    async def _watch_head(self) -> None:
        """Know when Ray's head is gone, and when to stop waiting for it."""
        assert self._head is not None
        amiss_since: float | None = None
        while True:
            await asyncio.sleep(HEAD_LOOK_SECONDS)
            self._head_problem = await ray_head.unreachable(self._head)
            now = asyncio.get_running_loop().time()
            amiss_since = None if self.problem is None else amiss_since or now
            if amiss_since is not None and now - amiss_since >= LOST_SECONDS:
                self._lost = f"{self.problem} for {now - amiss_since:.0f} s"

    async def _fill(self, member: ActorSlot) -> None:
        member.generation += 1
        name = member.name(self._name)
        options: dict[str, Any] = {"num_cpus": self._actor_cpus, "name": name, "max_restarts": 0}
        made: list[
            Any
        ] = []  # a handle of Ray's, which types its decorator and not what a plain class becomes through it
        # Making an actor asks the head and waits for its word: with the head gone for a minute, and the event loop with it.
        await self._aside.do(
            lambda: made.append(ray.remote(WorkerActor).options(**options).remote(self._config, name))
        )
        (actor,) = made
        member.pid, member.inbox = await actor.start.remote()
        member.actor = actor
        self._statuses.add_worker(member.number)
        self._slots.resize(self._slots.total + self._config.slots)

    async def _watch(self, member: ActorSlot) -> None:
        """Free slots as an actor settles jobs; when it dies, give its jobs back and put another in its place."""
        while True:
            try:
                assert member.actor is not None
                settled, statuses = await member.actor.finished.remote()
                self._statuses.update(member.number, statuses)
                for reply in settled:
                    if member.settle(reply):
                        self._slots.free(1)
            except Exception as error:  # RayError, and through Ray's client (`ray://`) a ConnectionError
                log.warning(
                    "actor %s is gone (%s): %d jobs go back",
                    member.name(self._name),
                    type(error).__name__,
                    len(member.jobs),
                )
                await self._replace(member)

    async def _resend_lost(self, member: ActorSlot) -> None:
        """Hand over again, as a call, what never arrived."""
        seconds = min(RESEND_SECONDS, self._config.ack_wait_seconds / RESEND_SHARE)
        while True:
            await asyncio.sleep(seconds)
            old = time.monotonic() - seconds
            due = [reply for reply, at in member.posted.items() if at <= old]
            if not due or member.actor is None:
                continue
            try:
                missing = await member.actor.missing.remote(due)
                for reply in due:
                    member.posted.pop(reply, None)
                lost = [member.jobs[reply] for reply in missing if reply in member.jobs]
                if lost and member.actor is not None:
                    log.warning(
                        "%d jobs never came to actor %s and are handed over again",
                        len(lost),
                        member.name(self._name),
                    )
                    member.actor.begin.remote(lost)
            except Exception as error:  # it is dead: `_watch` hears of it, too
                log.debug("actor %s was not asked: %s", member.name(self._name), _first_line(error))

    async def _replace(self, member: ActorSlot) -> None:
        member.actor, member.pid = None, 0
        self._statuses.remove_worker(member.number)
        self._slots.resize(self._slots.total - self._config.slots)
        lost, member.jobs, member.posted = list(member.jobs.values()), {}, {}
        self._slots.free(len(lost))
        await self._give_back(lost)
        while member.actor is None:
            try:
                await self._fill(member)
                self.replaced += 1
            except Exception as error:  # whatever it was, a place left empty for ever would be worse
                log.warning("no new actor yet: %s", _first_line(error))
                if "WrongClusterID" in str(error):
                    # A head that was started anew knows nothing of us, and a driver cannot join a second cluster.
                    self._lost = "Ray's head was started anew"
                await asyncio.sleep(REPLACE_WAIT_SECONDS)

    async def _give_back(self, jobs: Sequence[Job]) -> None:
        """At once if another actor can take them, else after a pause: each delivery counts, and nobody could use one now."""
        assert self._nc is not None
        word = nak(0.0 if self.problem is None else REPLACE_WAIT_SECONDS)
        try:
            for job in jobs:
                await self._nc.publish(job.reply, word)
        except Exception as error:  # NATS is away: it redelivers after ack_wait
            log.warning("%d jobs not given back: %s", len(jobs), error)

    async def _leave(self) -> None:
        """Permit Ray, or stop waiting for it to let go. A cluster that is lost is not left: that would wait for its ray_head."""
        if self._lost is not None:
            return
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._aside.do(ray.shutdown)
        except TimeoutError:
            log.warning("Ray did not let go within %g s", LEAVE_SECONDS)

    async def _stop_actors(self) -> None:
        """Let the actors drain, then end them. What has been handed over is with the server before they are told."""
        if self._nc is not None:
            with suppress(Exception):
                await self._nc.flush(FLUSH_SECONDS)
        closing = [
            member.actor.close.remote(list(member.posted))
            for member in self._members
            if member.actor is not None
        ]
        if closing:
            grace = FLUSH_SECONDS + self._config.drain_seconds + REPLACE_WAIT_SECONDS
            with suppress(RayError, TimeoutError):
                await asyncio.wait_for(asyncio.gather(*closing, return_exceptions=True), timeout=grace)
        actors = [member.actor for member in self._members if member.actor is not None]
        with suppress(RayError, TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._aside.do(lambda: [ray.kill(actor) for actor in actors])


def _gcs_address() -> str:
    return str(ray.get_runtime_context().gcs_address)


def _reason(error: BaseException) -> str:
    """One line for who started us. Ray tells the cause in what it raised first."""
    if isinstance(error, TimeoutError):
        return f"not up within {START_TIMEOUT_SECONDS:g} s"
    told: BaseException | None = error
    while told is not None:
        if "InvalidAuthToken" in str(told):
            return "it asks for a token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or ~/.ray/auth_token)"
        told = told.__cause__
    return _first_line(error)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [repr(error)])[0]
