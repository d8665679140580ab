"""A `parley serve` in a process of its own, with a nats-server and a simulated model beside it, for measuring from outside."""

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from benchmarks.machine import free_port
from parley.app import simulator
from parley.broker.host import end_with_parent
from parley.broker.jetstream.embedded import EmbeddedNats, embedded_nats

READY_SECONDS = 90.0
STOP_SECONDS = 40.0


@dataclass(frozen=True, slots=True)
class Serving:
    """`log`: what the service has said on its outputs, warnings and up."""

    nats_url: str
    model_url: str
    http_url: str
    pid: int
    nats_pid: int
    log: Path

    def resident_mib(self) -> float:
        """Memory of the service's own process now (RSS), without Ray's and the others'."""
        return resident_mib(self.pid)


def resident_mib(pid: int) -> float:
    """Memory of one process now (RSS)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@asynccontextmanager
async def serving(
    *,
    pool: str,
    latency_ms: float,
    tokens: int = 48,
    sync_always: bool = False,
    environment: Mapping[str, str] | None = None,
    awaited: str = "/readyz",
) -> AsyncIterator[Serving]:
    """Everything up and ready until the block ends. `sync_always`: NATS syncs before it acknowledges. `environment`: more settings,
    by their variables' names."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="parley-bench-")))
        nats = await stack.enter_async_context(embedded_nats(folder, sync_always=sync_always))
        model_url = await stack.enter_async_context(
            simulator("--latency-ms", str(latency_ms), "--tokens", str(tokens))
        )
        yield await stack.enter_async_context(
            served(nats, [model_url], folder, pool=pool, environment=environment, awaited=awaited)
        )


@asynccontextmanager
async def served(
    nats: EmbeddedNats,
    model_urls: Sequence[str],
    folder: Path,
    *,
    pool: str,
    inherited: Mapping[str, str] = os.environ,
    environment: Mapping[str, str] | None = None,
    awaited: str = "/readyz",
) -> AsyncIterator[Serving]:
    """`parley serve` beside what runs already, until the block ends. `environment`: settings besides those that `inherited` has;
    `awaited`: what it answers with 200 before the block begins ("/livez" for one that is not to become ready)."""
    path = folder / "service.log"
    port = free_port()
    settings = {
        "NATS_URL": nats.url,
        "VLLM_URL": ",".join(model_urls),
        "PARLEY_POOL": pool,
        "PARLEY_HTTP_PORT": str(port),
        "PARLEY_LOG_LEVEL": "WARNING",
        **(environment or {}),
    }
    with path.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "parley", "serve"),
            env={**inherited, **settings},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=end_with_parent,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        await ready(url + awaited, process, path)
        yield Serving(nats.url, model_urls[0], url, process.pid, nats.pid, path)
    finally:
        await _stop(process)


async def ready(url: str, process: asyncio.subprocess.Process, log: Path) -> None:
    """Wait until `url` is answered with 200. Raises RuntimeError, with the end of `log`, if the process ends before, TimeoutError if it takes too long."""
    async with aiohttp.ClientSession() as http, asyncio.timeout(READY_SECONDS):
        while True:
            if process.returncode is not None:
                raise RuntimeError(f"the service exited with {process.returncode}: {_text(log)}")
            try:
                async with http.get(url) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)


def _text(log: Path) -> str:
    return log.read_text(errors="replace")[-2_000:]


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
