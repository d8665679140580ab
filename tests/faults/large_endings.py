"""Many large answers at once, against real processes: how many deliberations end, how late, and what each process took.

The answers are published as workers would publish them: no model is needed for this.
"""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from parley.broker.core.messages import AgentCompleted, Ending, Proposal, Usage, agent_id, decode_ending
from parley.broker.core.timestamps import format_timestamp
from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.embedded import embedded_nats
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.object_store import get_object
from parley.broker.jetstream.scan import scan
from parley.request_arguments import compose
from tests.rig.child import answers, child, module
from tests.rig.proc import free_port
from tests.rig.service import READY_SECONDS, plain_environment
from tests.rig.waiting import until

# Answers on their way to NATS at one time, as many workers would have them.
TOGETHER = 32
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Size:
    """`answer_bytes`: of each answer's text."""

    deliberations: int
    agents: int
    answer_bytes: int
    timeout_seconds: float = 60.0

    def __str__(self) -> str:
        return f"{self.deliberations} × {self.agents} × {self.answer_bytes / 1000:g} KB"


@dataclass(slots=True)
class Outcome:
    """`late`: seconds past its deadline, of the latest ending; `seconds`: from the first answer to the last ending.
    `peak_mib`: of each process. `doubled`: endings stored beyond the first. `results`: in all endings together."""

    ended: int = 0
    doubled: int = 0
    late: float = 0.0
    seconds: float = 0.0
    results: int = 0
    left_out: list[str] = field(default_factory=list)
    peak_mib: list[float] = field(default_factory=list)
    log: str = ""

    def __str__(self) -> str:
        peaks = ", ".join(f"{peak:.0f}" for peak in self.peak_mib)
        return (
            f"ended {self.ended}, doubled {self.doubled}, {self.results} results, left out {self.left_out}, "
            f"{self.seconds:.1f} s, late {self.late:.1f} s, peak {peaks} MiB"
        )


@asynccontextmanager
async def _service(number: int, nats_url: str, folder: Path) -> AsyncIterator[int]:
    port = free_port()
    settings = {
        "NATS_URL": nats_url, "VLLM_URL": "http://127.0.0.1:9", "VLLM_MODEL": "none", "PARLEY_HTTP_PORT": str(port),
        "PARLEY_LOG_LEVEL": "WARNING",
    }  # fmt: skip
    command = module("parley", "serve", "--parts", "intake,aggregate,query")
    async with (
        child(command, folder / f"service-{number}.log", plain_environment(**settings)) as process,
        aiohttp.ClientSession() as http,
    ):
        await process.ready(lambda: answers(http, f"http://127.0.0.1:{port}/readyz"), READY_SECONDS)
        yield process.pid


async def run(folder: Path, size: Size, services: int = 2) -> Outcome:
    outcome = Outcome()
    async with AsyncExitStack() as stack:
        nats = await stack.enter_async_context(embedded_nats(folder, sync_always=False))
        pids = [
            await stack.enter_async_context(_service(number, nats.url, folder))
            for number in range(1, services + 1)
        ]
        nc = await connect(nats.url, "faults")
        stack.push_async_callback(close, nc)
        jetstream = JetStream(nc)
        asked = time.time()
        names = await _ask(jetstream, size)
        began = time.time()
        await _answer(jetstream, names, size)
        endings = await _endings(jetstream, size, asked + size.timeout_seconds + 20)
        outcome.peak_mib = [_peak_mib(pid) for pid in pids]
        for name in names:
            for at, ending in endings.get(name, [])[:1]:
                outcome.ended += 1
                outcome.late = max(outcome.late, at - asked - size.timeout_seconds)
                outcome.seconds = max(outcome.seconds, at - began)
                outcome.left_out += ending.left_out
                outcome.results += await _count_results(jetstream, ending)
            outcome.doubled += max(0, len(endings.get(name, [])) - 1)
        outcome.log = "".join(
            (folder / f"service-{n}.log").read_text()[-2_000:] for n in range(1, services + 1)
        )
    return outcome


async def _ask(jetstream: JetStream, size: Size) -> list[str]:
    """Ask, and wait until all are recorded."""
    names = []
    for number in range(size.deliberations):
        request = compose(
            "x", agents=size.agents, timeout_seconds=size.timeout_seconds, task_id=f"large-{number}"
        )
        await jetstream.publish(topology.REQUESTED, request.model_dump_json(exclude_none=True).encode())
        names.append(f"large-{number}")

    async def recorded() -> bool:
        found = [await jetstream.get_last(topology.TALLIES, topology.tally_subject(name)) for name in names]
        return None not in found

    await until(recorded, "all are recorded")
    return names


async def _answer(jetstream: JetStream, names: list[str], size: Size) -> None:
    """Publish every agent's answer, in an order in which all deliberations are answered at about the same time."""
    room = asyncio.Semaphore(TOGETHER)
    text = "words " * (size.answer_bytes // 6)

    async def publish(name: str, agent: str) -> None:
        async with room:
            proposal = Proposal(
                content=text, author_id=agent, author_role="DEV", model="m", temperature=0.7, tokens=9
            )
            answer = AgentCompleted(
                task_id=name, agent_id=agent, role="DEV", proposal=proposal, finish_reason="stop", usage=Usage(),
                attempt=1, queue_ms=1, duration_ms=1, timestamp=format_timestamp(time.time()), model="m",
                diversity=False, num_agents=size.agents,
            )  # fmt: skip
            await jetstream.publish(topology.AGENT_COMPLETED, answer.encode(), msg_id=f"{name}:{agent}:1")

    agents = [agent_id("DEV", number) for number in range(1, size.agents + 1)]
    await asyncio.gather(*(publish(name, agent) for agent in agents for name in names))


async def _endings(
    jetstream: JetStream, size: Size, until_at: float
) -> dict[str, list[tuple[float, Ending]]]:
    """When each ending was stored, and what it says; those that are there at `until_at` at the latest."""

    async def stored() -> bool:
        counts = await jetstream.js.stream_info(
            topology.DELIBERATIONS, subjects_filter=f"{topology.COMPLETED.rpartition('.')[0]}.*"
        )
        subjects = counts.state.subjects or {}
        await asyncio.sleep(0.2)
        ended = sum(subjects.get(subject, 0) for subject in (topology.COMPLETED, topology.FAILED))
        return ended >= size.deliberations or time.time() > until_at

    await until(stored, "all have ended, or it is too late", max(1.0, until_at - time.time()) + 5)
    found: dict[str, list[tuple[float, Ending]]] = {}
    for subject in (topology.COMPLETED, topology.FAILED):
        async with aclosing(scan(jetstream, topology.DELIBERATIONS, subject)) as messages:
            async for message in messages:
                ending = decode_ending(message.data)
                found.setdefault(ending.task_id, []).append((message.metadata.timestamp.timestamp(), ending))
    return found


async def _count_results(jetstream: JetStream, ending: Ending) -> int:
    if ending.results_ref is None:
        return len(ending.results)
    return len(json.loads(await get_object(jetstream, ending.results_ref)))


def _peak_mib(pid: int) -> float:
    """The most that a process has had resident, in MiB."""
    found = _PEAK.search(Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024
