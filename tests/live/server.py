"""vLLM's OpenAI server as a child process: started, asked for its own figures, stopped, killed."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.machine import descendants, free_port
from parley.broker.host import end_with_parent
from tests.harness import until

MODEL = "tiny"
# What a prompt and its answer may have together.
MAX_TOKENS = 4096
# As many sequences as run at once; the next wait.
SEQUENCES = 32
READY_SECONDS = 150.0
STOP_SECONDS = 20.0
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    # One process computes, beside the one that answers HTTP. With a process of its own for the worker, both wait for each other in circles of
    # `sched_yield`, and on two cores whole seconds pass in which nobody else is served (seen on Linux 6.18: a cancel took up to 4 s).
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
# `vllm serve` looks for a distribution named `vllm`, which this build is not; the module is the same server.
COMMAND = ("-m", "vllm.entrypoints.openai.api_server")
ARGUMENTS = {
    "--served-model-name": MODEL,
    "--host": "127.0.0.1",
    "--dtype": "bfloat16",
    "--load-format": "dummy",
    "--max-model-len": str(MAX_TOKENS),
    "--max-num-seqs": str(SEQUENCES),
    "--kv-cache-memory-bytes": str(128 * 2**20),
    "--distributed-executor-backend": "uni",
}
NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Install:
    """The Python that has vLLM, and a folder with a model and room for logs."""

    python: Path
    model: Path


@dataclass(slots=True)
class Vllm:
    """A server that is ready. Its process heads a group of its own."""

    url: str
    log: Path
    process: asyncio.subprocess.Process
    http: aiohttp.ClientSession

    async def figures(self) -> dict[str, float]:
        """`/metrics`, by name; what has the same name under several labels is added up."""
        found: dict[str, float] = {}
        async with self.http.get(f"{self.url}/metrics") as response:
            assert response.status == 200, await response.text()
            families = text_string_to_metric_families(await response.text())
        for family in families:
            for sample in family.samples:
                found[sample.name] = found.get(sample.name, 0.0) + sample.value
        return found

    async def grew(self, before: Mapping[str, float], **by: int) -> None:
        """Wait until counters have grown by so many since `before`, and none by more. vLLM counts a moment after it has answered."""

        async def now() -> bool:
            figures = await self.figures()
            grown = {name: figures[f"vllm:{name}"] - before[f"vllm:{name}"] for name in by}
            assert all(grown[name] <= by[name] for name in by), f"{grown}, wanted {by}"
            return grown == by

        await until(now, f"vLLM counts {by} more")

    async def figure(self, name: str) -> float:
        return (await self.figures())[f"vllm:{name}"]

    async def running(self, count: int) -> None:
        """Wait until it works at so many requests."""

        async def now() -> bool:
            return await self.figure("num_requests_running") == count

        await until(now, f"vLLM runs {count} requests")

    def said(self, words: str) -> list[str]:
        """The lines of its log that have these words."""
        return [line for line in self.log.read_text(errors="replace").splitlines() if words in line]

    def engine(self) -> int:
        """Process id of its engine, which is a process of its own."""
        (found,) = [
            pid
            for pid in descendants(self.process.pid)
            if b"EngineCore" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        return found

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def kill(self) -> None:
        """It and whatever it started, without a last word, and gone when this returns."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()


@asynccontextmanager
async def vllm(
    install: Install,
    folder: Path,
    *arguments: str,
    port: int | None = None,
    environment: Mapping[str, str] = NONE,
) -> AsyncIterator[Vllm]:
    """A server until the block ends, ready at the start of it. `arguments`: more of them, and later ones win. Fails with the end of its log
    when it does not come up. `port`: none takes a free one."""
    port = port or free_port()
    path = folder / f"vllm-{port}-{time.monotonic_ns()}.log"
    command = [
        str(install.python),
        *COMMAND,
        "--model",
        str(install.model),
        "--port",
        str(port),
        "--enforce-eager",
    ]
    command += [word for pair in ARGUMENTS.items() for word in pair]
    # Whatever else is set for a vLLM here is not for this one.
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("VLLM_", "PYTHON"))}
    with path.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command,
            *arguments,
            cwd=folder,
            env={**plain, **ENVIRONMENT, **environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
    try:
        async with aiohttp.ClientSession() as http:
            server = Vllm(f"http://127.0.0.1:{port}", path, process, http)
            await _ready(server)
            yield server
    finally:
        await _end(process)


async def _ready(server: Vllm) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        end = server.log.read_text(errors="replace")[-3_000:]
        assert server.process.returncode is None, f"vLLM exited with {server.process.returncode}:\n{end}"
        assert time.monotonic() < deadline, f"vLLM is not ready after {READY_SECONDS:g} s:\n{end}"
        with suppress(aiohttp.ClientError):
            async with server.http.get(f"{server.url}/health") as response:
                if response.status == 200:
                    return
        await asyncio.sleep(0.1)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ask its group, wait, insist: what it started may outlive it."""
    with suppress(ProcessLookupError):
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGTERM)
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), STOP_SECONDS)
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
