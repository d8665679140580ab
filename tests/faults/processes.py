"""Processes under a supervisor, as in production: killed or ended, they are started again. Told to, they freeze and thaw."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks.machine import descendants
from parley.broker.host import child_setup
from tests.harness import until

# Between a death and the next start, as a supervisor has it.
RESTART_SECONDS = 0.5
STOP_SECONDS = 40.0

Ready = Callable[[], Awaitable[bool]]


class Process:
    """One supervised process. `ready` says whether it does its work again."""

    def __init__(
        self, name: str, command: Sequence[str], *, folder: Path, environment: Mapping[str, str], ready: Ready
    ) -> None:
        self.name = name
        self._command = command
        self._environment = {**os.environ, **environment}
        self._ready = ready
        self._log = folder / f"{name}.log"
        self._child: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self._held = asyncio.Event()  # cleared while it is to stay down
        self._held.set()
        self.exits: list[int] = []

    @property
    def pid(self) -> int:
        assert self._child is not None, f"{self.name} does not run"
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.returncode is None

    async def start(self) -> None:
        await self._spawn()
        self._watch = asyncio.create_task(self._supervise(), name=f"supervise-{self.name}")

    async def _spawn(self) -> None:
        with self._log.open("ab") as log:
            self._child = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=child_setup,
            )

    async def _supervise(self) -> None:
        while True:
            assert self._child is not None
            self.exits.append(await self._child.wait())
            await asyncio.sleep(RESTART_SECONDS)
            await self._held.wait()
            await self._spawn()

    async def ready(self, seconds: float = 90.0) -> None:
        """Wait until it does its work."""
        await until(self.works, f"{self.name} is ready", seconds)

    async def works(self) -> bool:
        return self.running and await self._ready()

    def words(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-3_000:] if self._log.exists() else ""

    # ── what a fault does ─────────────────────────────────────────────────────────────────────────────────────────

    def kill(self) -> None:
        """As a machine without power does: no goodbye. With everything it started."""
        for pid in (*descendants(self.pid), self.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def freeze(self) -> None:
        for pid in (self.pid, *descendants(self.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for pid in (self.pid, *descendants(self.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def stay_down(self) -> None:
        self._held.clear()

    def come_back(self) -> None:
        self._held.set()

    async def restart(self) -> None:
        """As a rolling update does: SIGTERM, let it finish, start the next one, wait until that is ready."""
        before = len(self.exits)
        os.kill(self.pid, signal.SIGTERM)
        await until(lambda: len(self.exits) > before, f"{self.name} ends", STOP_SECONDS)
        await self.ready()

    async def stop(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        if not self.running:
            return
        assert self._child is not None
        self.thaw()
        self._child.terminate()
        try:
            await asyncio.wait_for(self._child.wait(), STOP_SECONDS)
        except TimeoutError:
            self.kill()
            await self._child.wait()


def named(pids: Sequence[int], part: str) -> list[int]:
    """Those whose command line holds `part`."""
    found = []
    for pid in pids:
        with suppress(OSError):
            if part.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def clock() -> float:
    """Seconds since the epoch: the same clock as the nats-server's here, which stamps what it stores."""
    return time.time()
