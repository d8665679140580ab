"""vLLM's OpenAI server as a child process: start it, read its own figures, stop it, kill it."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.rig.child import answers, started
from tests.rig.proc import descendants, free_port, with_command
from tests.rig.waiting import until

MODEL = "tiny"
# A prompt and its answer have at most this many together.
MAX_TOKENS = 4096
# Sequences that run at once. The next ones wait.
SEQUENCES = 32
READY_SECONDS = 150.0
STOP_SECONDS = 20.0
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    # One process computes beside the one that answers HTTP. With a separate worker process, the two wait for each
    # other with `sched_yield`, and two cores serve nothing else for whole seconds (Linux 6.18: a cancel took 4 s).
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
# `vllm serve` needs a distribution named `vllm`, and this build has another name. The module is the same server.
COMMAND = ("-m", "vllm.entrypoints.openai.api_server")
ARGUMENTS = {
    "--served-model-name": MODEL, "--host": "127.0.0.1", "--dtype": "bfloat16", "--load-format": "dummy",
    "--max-model-len": str(MAX_TOKENS), "--max-num-seqs": str(SEQUENCES),
    "--kv-cache-memory-bytes": str(128 * 2**20), "--distributed-executor-backend": "uni",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Install:
    """The Python that has vLLM, and a folder with a model and room for logs."""

    python: Path
    model: Path


@dataclass(slots=True)
class Vllm:
    """A server that is ready. Its process leads its own process group."""

    url: str
    log: Path
    process: asyncio.subprocess.Process
    http: aiohttp.ClientSession

    async def figures(self) -> dict[str, float]:
        """`/metrics` by name. Samples of one name with different labels are added up."""
        found: dict[str, float] = {}
        async with self.http.get(f"{self.url}/metrics") as response:
            assert response.status == 200, await response.text()
            families = text_string_to_metric_families(await response.text())
        for family in families:
            for sample in family.samples:
                found[sample.name] = found.get(sample.name, 0.0) + sample.value
        return found

    async def grew(self, before: Mapping[str, float], **by: int) -> None:
        """Wait until the counters have grown by these numbers since `before`; fail if one grows more.

        vLLM counts a moment after it has answered.
        """

        async def now() -> bool:
            figures = await self.figures()
            grown = {name: figures[f"vllm:{name}"] - before[f"vllm:{name}"] for name in by}
            assert all(grown[name] <= by[name] for name in by), f"{grown}, wanted {by}"
            return grown == by

        await until(now, f"vLLM counts {by} more")

    async def figure(self, name: str) -> float:
        return (await self.figures())[f"vllm:{name}"]

    async def running(self, count: int) -> None:
        """Wait until it runs `count` requests."""

        async def now() -> bool:
            return await self.figure("num_requests_running") == count

        await until(now, f"vLLM runs {count} requests")

    def said(self, words: str) -> list[str]:
        """The lines of its log that hold `words`."""
        return [line for line in self.log.read_text(errors="replace").splitlines() if words in line]

    def engine(self) -> int:
        """Process id of its engine."""
        (found,) = with_command(descendants(self.process.pid), "EngineCore")
        return found

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def kill(self) -> None:
        """Kill it and all that it started. All have ended when this returns."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()


@asynccontextmanager
async def vllm(
    install: Install,
    folder: Path,
    *arguments: str,
    port: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Vllm]:
    """A ready server until the block ends. `arguments` come last and win. `port`: None takes a free one.

    Raises RuntimeError with the end of its log if it does not start.
    """
    port = port or free_port()
    path = folder / f"vllm-{port}-{time.monotonic_ns()}.log"
    command = [str(install.python), *COMMAND, "--model", str(install.model), "--port", str(port)]
    command += ["--enforce-eager", *(word for pair in ARGUMENTS.items() for word in pair), *arguments]
    # Settings for another vLLM on this machine must not reach this one.
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("VLLM_", "PYTHON"))}
    child = await started(command, path, {**plain, **ENVIRONMENT, **(environment or {})}, folder=folder)
    try:
        async with aiohttp.ClientSession() as http:
            server = Vllm(f"http://127.0.0.1:{port}", path, child.process, http)
            await child.ready(lambda: answers(http, f"{server.url}/health"), READY_SECONDS)
            yield server
    finally:
        await _end(child.process)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ask the process group to end, wait, then kill the group: a child of the server may outlive it."""
    with suppress(ProcessLookupError):
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGTERM)
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), STOP_SECONDS)
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
