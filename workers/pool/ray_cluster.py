"""The Ray that runs the actors: started here or joined, and left within bounded time."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from parley.broker.core.errors import ParleyError
from parley.workers.pool import local_ray_secrets, ray_reachability
from parley.workers.pool.actor_logs import ActorLogs, LoggingActor, levels
from parley.workers.pool.blocking_thread import BlockingThread
from parley.workers.pool.local_ray_folder import SessionFolder
from parley.workers.pool.ray_errors import (
    RayUnavailable,
    explained,
    first_line,
    is_another_cluster,
)
from parley.workers.pool.ray_private import (
    InstalledCode,
    NotAHead,
    NotANode,
    RayError,
    StillStarting,
    check_cluster,
    free_resources,
    head_of_this_machine,
    is_placed,
    pass_logs_to,
    ray,
    session_name,
    stay_on_loopback,
    use_token_if_there,
    without_other_clusters,
)
from parley.workers.pool.ray_room import Lack, lack, node_rooms
from parley.workers.pool.worker_config import WorkerConfig

log = logging.getLogger("parley.workers")

# A local Ray takes about 5 s here with compiled bytecode, 20 s without.
START_TIMEOUT_SECONDS = 60.0
# A head says what it is within this. Ray itself asks for 40 s before it gives up.
ANSWER_SECONDS = 15.0
# A head listens a while before its own node, or one beside it, has joined.
NODE_SECONDS, NODE_CHECK_SECONDS = 10.0, 0.5
# Then it is asked, while the pool runs, whether it is still the same.
ASK_SECONDS = 5.0
# The most that leaving Ray may take. With its head gone it would take minutes.
LEAVE_SECONDS = 10.0
# Local object store: jobs are small and answers never pass through it. Ray's minimum is 75 MiB.
LOCAL_OBJECT_STORE_BYTES = 80 * 1024 * 1024
# What Ray raises for trouble that is not ours.
_TROUBLE = (RayError, OSError, RuntimeError, ValueError, TimeoutError)
HEAD_REPLACED = "Ray's head was started anew"
# What may pass while a cluster starts, as a reason and its remedy.
_NOT_YET: Mapping[type[Exception], tuple[str, str]] = {
    NotANode: ("this machine is not a node of that cluster", ray_reachability.ON_A_NODE),
    StillStarting: (
        "its head does not say which Ray it runs",
        "Is it still starting? Try again once it is up",
    ),
}


class RayCluster:
    """`address` None or `local`: a local Ray, which lives as long as this process, with its session below the state
    folder `home`. `actors` of `actor_cpus` each are to run on it."""

    def __init__(
        self, address: str | None, *, actors: int, actor_cpus: float, home: Path | None = None
    ) -> None:
        self._address = None if ray_reachability.is_local(address) else address
        self._actors, self._actor_cpus = actors, actor_cpus
        self._home = home
        # Where a local Ray has its session. None before it has started.
        self._session_folder: SessionFolder | None = None
        # Runs the calls of Ray that may block.
        self._thread = BlockingThread("ray")
        # Asks the head what it is, and whether it is the same: calls in the other thread may be stuck.
        self._asking = BlockingThread("ray-head")
        # Known once Ray has started.
        self._head: ray_reachability.Address | None = None
        # The head's name for its life. A head that was started anew has another one.
        self._session_name = ""
        self._logs = ActorLogs()

    @asynccontextmanager
    async def starting(self) -> AsyncIterator[None]:
        """Bounds what runs inside by `START_TIMEOUT_SECONDS`. Raises RayUnavailable for an error of Ray's."""
        try:
            async with asyncio.timeout(START_TIMEOUT_SECONDS):
                yield
        except Exception as error:
            if isinstance(error, ParleyError) and not isinstance(error, RayError):
                raise
            cause = getattr(error, "cause", None)
            if self._address is None and isinstance(cause, ParleyError):  # NATS refused an actor, say
                raise cause from None
            # Ray also raises plain `Exception`s ("timed out during startup").
            if not isinstance(error, _TROUBLE) and type(error) is not Exception:
                raise
            raise explained(self._address, error, waited_seconds=START_TIMEOUT_SECONDS) from error

    async def start(self) -> None:
        if self._address is None:
            await self._thread.run(self._start_local)
        else:
            head = await self._find_head(self._address)
            await self._thread.run(lambda: self._join(head))
        self._head = ray_reachability.parse_address(str(ray.get_runtime_context().gcs_address))
        await self._thread.run(self._know_head)

    async def _find_head(self, address: str) -> str:
        """Its `host:port`, once it has answered as one that we can join. Raises RayUnavailable, soon."""
        ray_reachability.check_form(address)
        if address == "auto":
            try:
                head = await self._asking.run(head_of_this_machine)
                use_token_if_there()
            except ConnectionError as error:
                reason = "no Ray runs on this machine"
                raise RayUnavailable(address, reason, ray_reachability.ON_A_NODE) from error
        else:
            head = address
        await self._greet(head)
        began = time.monotonic()
        while True:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    await self._asking.run(lambda: check_cluster(head))
                return head
            except TimeoutError as error:
                reason = f"what listens there does not answer as Ray's head within {ANSWER_SECONDS:g} s"
                raise RayUnavailable(head, reason, ray_reachability.A_HEAD_LISTENS) from error
            except NotAHead as error:
                reason = "what listens there speaks gRPC and is not Ray's head (another process of Ray?)"
                raise RayUnavailable(head, reason, ray_reachability.A_HEAD_LISTENS) from error
            except (NotANode, StillStarting) as error:
                if time.monotonic() - began > NODE_SECONDS:
                    raise RayUnavailable(head, *_NOT_YET[type(error)]) from error
            await asyncio.sleep(NODE_CHECK_SECONDS)

    async def _greet(self, head: str) -> None:
        try:
            await ray_reachability.check_head(head)
        except RayUnavailable as error:
            if self._address != "auto":
                raise
            found = f"{head} (what `auto` finds on this machine)"
            raise RayUnavailable(found, error.reason, ray_reachability.START_OR_NAME) from error

    def _join(self, head: str) -> None:
        with without_other_clusters():
            ray.init(address=head, job_config=InstalledCode(), **_OPTIONS)

    def _start_local(self) -> None:
        stay_on_loopback()
        local_ray_secrets.protect_token()
        self._session_folder = SessionFolder.claim(self._home)
        with local_ray_secrets.in_private(), without_other_clusters():
            ray.init(
                # Said in so many words: without an address Ray joins what runs here, or tries what once ran here.
                address="local",
                num_cpus=max(os.cpu_count() or 1, round(self._actors * self._actor_cpus + 0.5)),
                include_dashboard=False,
                object_store_memory=LOCAL_OBJECT_STORE_BYTES,
                _temp_dir=str(self._session_folder.path),
                job_config=InstalledCode(),
                **_OPTIONS,
            )
        local_ray_secrets.protect_token()

    def _know_head(self) -> None:
        pass_logs_to(self._logs.handle)
        self._session_name = session_name()

    async def head_problem(self) -> str | None:
        """Why the head is of no use, for readiness; HEAD_REPLACED if it never will be again, None when all is well."""
        assert self._head is not None
        if (reason := await ray_reachability.unreachable(self._head)) is not None:
            return reason
        host, port = self._head
        try:
            async with asyncio.timeout(ASK_SECONDS):
                found = await self._asking.run(session_name)
        except TimeoutError:
            return f"Ray's head at {host}:{port} does not answer"
        except Exception as error:  # whatever it is, the head is not as it was
            return HEAD_REPLACED if is_another_cluster(error) else f"Ray's head: {first_line(error)}"
        return None if found == self._session_name else HEAD_REPLACED

    # Any: Ray's stubs type `@ray.remote`, not `ray.remote(SomeClass)`, and no methods of an actor's handle.
    async def make_actor(self, config: WorkerConfig, name: str) -> Any:
        """A `WorkerActor` that is not started yet. Ray never restarts it."""
        actor_class = ray.remote(LoggingActor).options(num_cpus=self._actor_cpus, name=name, max_restarts=0)
        # Making an actor blocks until the head answers: up to a minute with the head gone.
        return await self._thread.run(lambda: actor_class.remote(config, name, levels()))

    async def lack(self, unstarted: Collection[Any]) -> Lack | None:
        """Why some of these actors, which have not started yet, find no place; None if they do, or Ray does not say."""
        try:
            async with asyncio.timeout(ASK_SECONDS):
                return await self._asking.run(lambda: self._lack(unstarted))
        except Exception as error:  # the head is away; `head_problem` says so
            log.debug("Ray did not say what room it has: %s", first_line(error))
            return None

    def _lack(self, unstarted: Collection[Any]) -> Lack | None:
        waiting = sum(not is_placed(actor._actor_id.hex()) for actor in unstarted)
        if not waiting:
            return None
        rooms = node_rooms(ray.nodes(), free_resources())  # type: ignore[no-untyped-call]
        return lack(rooms, actors=self._actors, waiting=waiting, cpus=self._actor_cpus)

    def why_no_actor(self, error: BaseException) -> str:
        """Why an actor of a running pool could not be replaced."""
        return explained(self._address, error, waited_seconds=START_TIMEOUT_SECONDS, usual="").short

    async def kill(self, actors: Sequence[Any]) -> None:
        with suppress(RayError, TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._thread.run(lambda: [ray.kill(actor) for actor in actors])

    async def last_log_lines(self, names: Collection[str]) -> None:
        """Wait until what these closed actors have logged is logged here, for a bounded time."""
        await self._logs.wait_ended(names)

    async def leave(self) -> None:
        """Leave Ray within `LEAVE_SECONDS`."""
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._thread.run(ray.shutdown)
        except TimeoutError:
            log.warning("Ray did not let go within %g s", LEAVE_SECONDS)

    def forget_session(self) -> None:
        """Remove what a local Ray has written. It must have been left, or be lost."""
        if self._session_folder is not None:
            self._session_folder.remove()
            self._session_folder = None


_OPTIONS: dict[str, Any] = {
    "log_to_driver": True,  # to `ActorLogs`
    "logging_level": logging.ERROR,
    "namespace": "parley",
}
