"""The Ray that runs the actors: started here or joined, and left within bounded time."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from parley.broker.core.errors import ParleyError, Unavailable
from parley.workers.pool import local_ray_privacy, ray_reachability
from parley.workers.pool.actor import WorkerActor
from parley.workers.pool.blocking_thread import BlockingThread
from parley.workers.pool.pool import WorkerConfig
from parley.workers.pool.ray_private import InstalledCode, RayError, asks_for_token, ray, stay_on_loopback

log = logging.getLogger("parley.workers")

# A local Ray takes about 5 s here with compiled bytecode, 20 s without.
START_TIMEOUT_SECONDS = 60.0
# The most that leaving Ray may take. With its head gone it would take minutes.
LEAVE_SECONDS = 10.0
# Local object store: jobs are small and answers never pass through it. Ray's minimum is 75 MiB.
LOCAL_OBJECT_STORE_BYTES = 80 * 1024 * 1024
# What Ray raises for trouble that is not ours.
_TROUBLE = (RayError, OSError, RuntimeError, ValueError, TimeoutError)


class RayUnavailable(Unavailable):
    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.address = address
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"cannot use Ray at {self.address}: {self.reason}. "
            "Is RAY_ADDRESS right? PARLEY_POOL=local runs without Ray."
        )


class RayCluster:
    """`address` None: a local Ray, which lives as long as this process, with its session below the state folder `home`.
    `cpus`: what all actors need together."""

    def __init__(self, address: str | None, *, cpus: float, home: Path | None = None) -> None:
        self._address = address
        self._home = home
        # Where a local Ray has its session. None before it has started.
        self._session_folder: Path | None = None
        self._cpus = cpus
        # Runs the calls of Ray that may block.
        self._thread = BlockingThread("ray")
        # Known once Ray has started, unless Ray resolved the address itself.
        self._head: ray_reachability.Address | None = None

    @asynccontextmanager
    async def starting(self) -> AsyncIterator[None]:
        """Bounds what runs inside by `START_TIMEOUT_SECONDS`. Raises RayUnavailable for an error of Ray's."""
        try:
            async with asyncio.timeout(START_TIMEOUT_SECONDS):
                yield
        except ParleyError:  # an actor cannot reach NATS, say
            raise
        except Exception as error:
            # Ray also raises plain `Exception`s ("timed out during startup").
            if not isinstance(error, _TROUBLE) and type(error) is not Exception:
                raise
            raise RayUnavailable(self._address or "this machine", _reason(error)) from error

    async def start(self) -> None:
        await self._thread.run(self._start)

    def _start(self) -> None:
        options: dict[str, Any] = {
            "log_to_driver": False,
            "logging_level": logging.ERROR,
            "namespace": "parley",
        }
        if self._address is not None:
            ray_reachability.check_reachable(self._address)
        if self._address is not None and self._address.startswith("ray://"):
            # Ray's client adds no folders to the import path, and its server need not have the class of our job config.
            ray.init(address=self._address, **options)
            self._head = ray_reachability.parse_address(self._address)
            return
        options["job_config"] = InstalledCode()
        if self._address is not None:
            ray.init(address=self._address, **options)
        else:
            stay_on_loopback()
            local_ray_privacy.protect_token()
            self._session_folder = local_ray_privacy.session_folder(self._home)
            with local_ray_privacy.in_private():
                ray.init(
                    num_cpus=max(os.cpu_count() or 1, round(self._cpus + 0.5)),
                    include_dashboard=False,
                    object_store_memory=LOCAL_OBJECT_STORE_BYTES,
                    _temp_dir=str(self._session_folder),
                    **options,
                )
            local_ray_privacy.protect_token()
        self._head = ray_reachability.parse_address(str(ray.get_runtime_context().gcs_address))

    async def unreachable(self) -> str | None:
        """Why the head cannot be reached, for readiness; None when it can."""
        assert self._head is not None
        return await ray_reachability.unreachable(self._head)

    # Any: Ray's stubs type `@ray.remote`, not `ray.remote(SomeClass)`, and no methods of an actor's handle.
    async def make_actor(self, config: WorkerConfig, name: str, *, cpus: float) -> Any:
        """A `WorkerActor` that is not started yet. Ray never restarts it."""
        actor_class = ray.remote(WorkerActor).options(num_cpus=cpus, name=name, max_restarts=0)
        made: list[Any] = []
        # Making an actor blocks until the head answers: up to a minute with the head gone.
        await self._thread.run(lambda: made.append(actor_class.remote(config, name)))
        return made[0]

    async def kill(self, actors: Sequence[Any]) -> None:
        with suppress(RayError, TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._thread.run(lambda: [ray.kill(actor) for actor in actors])

    async def leave(self) -> None:
        """Leave Ray within `LEAVE_SECONDS`."""
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._thread.run(self._leave)
        except TimeoutError:
            log.warning("Ray did not let go within %g s", LEAVE_SECONDS)

    def _leave(self) -> None:
        ray.shutdown()
        if self._session_folder is not None:
            local_ray_privacy.remove_session(self._session_folder, self._home)


def _reason(error: BaseException) -> str:
    """One line for the operator."""
    if isinstance(error, TimeoutError):
        return f"not up within {START_TIMEOUT_SECONDS:g} s"
    if asks_for_token(error):
        return "it asks for a token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or ~/.ray/auth_token)"
    return first_line(error)


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [repr(error)])[0]
