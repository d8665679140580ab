"""Processes under a supervisor that starts them again when they end. A test can kill, freeze, thaw and hold them."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.rig.child import Child, started
from tests.rig.proc import descendants
from tests.rig.waiting import until

# Between an exit and the next start.
RESTART_SECONDS = 0.5
STOP_SECONDS = 40.0

Ready = Callable[[], Awaitable[bool]]


class Process:
    """One supervised process. `ready`: whether it does its work."""

    def __init__(
        self, name: str, command: Sequence[str], *, folder: Path, environment: Mapping[str, str], ready: Ready
    ) -> None:
        self.name = name
        self._command = command
        self._environment = {**os.environ, **environment}
        self._ready = ready
        self._log = folder / f"{name}.log"
        # The process that runs, or the last one that ran. None before the first start.
        self._child: Child | None = None
        # The supervisor.
        self._watch: asyncio.Task[None] | None = None
        # Cleared while the supervisor must not start the process again.
        self._may_start = asyncio.Event()
        self._may_start.set()
        # Exit codes, in order.
        self.exits: list[int] = []

    @property
    def pid(self) -> int:
        assert self._child is not None, f"{self.name} does not run"
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.process.returncode is None

    async def start(self) -> None:
        await self._spawn()
        self._watch = asyncio.create_task(self._supervise(), name=f"supervise-{self.name}")

    async def _spawn(self) -> None:
        self._child = await started(self._command, self._log, self._environment, batch=True, append=True)

    async def _supervise(self) -> None:
        while True:
            assert self._child is not None
            self.exits.append(await self._child.process.wait())
            await asyncio.sleep(RESTART_SECONDS)
            await self._may_start.wait()
            await self._spawn()

    async def ready(self, seconds: float = 90.0) -> None:
        """Wait until it does its work."""
        await until(self.works, f"{self.name} is ready", seconds)

    async def works(self) -> bool:
        return self.running and await self._ready()

    def log_end(self, characters: int = 3_000) -> str:
        return self._child.log_end(characters) if self._child is not None else ""

    # ── what a fault does ──────────────────────────────────────────────────────────────────────────────────

    def kill(self) -> None:
        """SIGKILL to it and all that it started, as when a machine loses power."""
        self._send(signal.SIGKILL)

    def freeze(self) -> None:
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        self._send(signal.SIGCONT)

    def _send(self, sig: signal.Signals) -> None:
        for pid in (*descendants(self.pid), self.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, sig)

    def stay_down(self) -> None:
        """Once it ends, do not start it before `come_back`."""
        self._may_start.clear()

    def come_back(self) -> None:
        self._may_start.set()

    async def restart(self) -> None:
        """As a rolling update does: SIGTERM, wait for the exit, start the next one, wait until it is ready."""
        before = len(self.exits)
        os.kill(self.pid, signal.SIGTERM)
        await until(lambda: len(self.exits) > before, f"{self.name} ends", STOP_SECONDS)
        await self.ready()

    async def stop(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        if self.running and self._child is not None:
            self.thaw()
            await self._child.stop(seconds=STOP_SECONDS)


def clock() -> float:
    """Seconds since the epoch. nats-server runs on this machine and stamps what it stores by the same clock."""
    return time.time()
