"""A nats-server whose store can be filled and freed: its own limit, its account's, or its disk (a tmpfs of 6 MB)."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import nats.errors
import nats.js.errors

from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.embedded import config, executable
from tests.rig.proc import free_port

LIMITS = ("max_file_store", "account")
DISK = "disk"
MiB = 1024 * 1024
# Room for the streams and some hundred deliberations.
LIMIT_BYTES = 4 * MiB
_FILLER = "FILLER"
_ACCOUNT = (
    f"accounts {{ A {{ jetstream {{ max_file: {LIMIT_BYTES} }}, users: [{{ user: a, password: b }}] }} }}\n"
)


@dataclass
class SmallStore:
    kind: str
    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    # Fills what becomes free, until `free`.
    filling: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"nats://{'a:b@' if self.kind == 'account' else ''}127.0.0.1:{self.port}"

    async def start(self) -> None:
        limit = {"max_file_store": LIMIT_BYTES, "account": 1024 * MiB, DISK: 1024 * MiB}[self.kind]
        text = config(self.folder, port=self.port, token=None, sync_always=False)
        text = text.replace("jetstream {", f"jetstream {{ max_file_store: {limit},")
        conf = self.folder / "nats-server.conf"
        if not conf.exists():
            conf.write_text(text + (_ACCOUNT if self.kind == "account" else ""))
        self.process = await asyncio.to_thread(_start, conf)
        for _ in range(200):
            try:
                await close(await connect(self.url, "is it up"))
                return
            except Exception:
                await asyncio.sleep(0.02)
        raise AssertionError("nats-server did not start")

    async def stop(self) -> None:
        if self.filling is not None:
            self.filling.cancel()
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(self.process.wait, 20)
            self.process = None

    async def fill(self) -> None:
        """Return once not even a few bytes can be stored."""
        if self.kind == DISK:
            _fill_disk(self.folder / "filler")
            return
        full = asyncio.Event()
        self.filling = asyncio.create_task(self._keep_full(full))
        await full.wait()

    async def _keep_full(self, full: asyncio.Event) -> None:
        nc = await connect(self.url, "filler")
        try:
            js = nc.jetstream()
            await js.add_stream(name=_FILLER, subjects=["filler"])
            while True:
                for size in (200_000, 20_000, 1_000, 1):
                    await _publish_until_refused(js, size)
                full.set()
                await asyncio.sleep(0.02)
        finally:
            await close(nc)

    async def free(self) -> None:
        """Return once there is room again. After a full disk the server is restarted, as it must be."""
        if self.kind == DISK:
            (self.folder / "filler").unlink()
            await self.stop()
            await self.start()
            return
        assert self.filling is not None
        self.filling.cancel()
        await asyncio.wait([self.filling])
        nc = await connect(self.url, "filler")
        await nc.jetstream().delete_stream(_FILLER)
        await close(nc)


def _start(conf: Path) -> subprocess.Popen[bytes]:
    quiet = subprocess.DEVNULL
    return subprocess.Popen([executable(), "-c", str(conf)], stdin=quiet, stdout=quiet, stderr=quiet)


async def _publish_until_refused(js, size: int) -> None:  # type: ignore[no-untyped-def]  # nats-py's context
    for _ in range(100_000):
        try:
            await js.publish("filler", b"x" * size)
        except (nats.js.errors.APIError, nats.errors.Error):
            return


def _fill_disk(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return


def mounted(folder: Path, megabytes: int = 6) -> bool:
    """Whether a tmpfs of that size could be mounted there."""
    if os.geteuid() != 0:
        return False
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@asynccontextmanager
async def small_store(kind: str, folder: Path) -> AsyncIterator[SmallStore | None]:
    """None where a disk of its own cannot be had: a tmpfs needs root."""
    if kind == DISK and not mounted(folder):
        yield None
        return
    store = SmallStore(kind, folder, free_port())
    try:
        await store.start()
        yield store
    finally:
        await store.stop()
        if kind == DISK:
            await asyncio.to_thread(subprocess.run, ["umount", "-l", str(folder)], check=False)
