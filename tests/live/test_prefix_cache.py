"""vLLM computes the shared prefix of a task's agents once: their prompts begin with it and go to one server."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from parley.broker.core.messages import AgentRequested
from parley.workers import prompts
from parley.workers.model.endpoint_address import Endpoint
from parley.workers.model.model_client import ChatRequest, ModelClient
from tests.harness import fresh, until
from tests.live.service import Front, front
from tests.live.stage import AT_WORK, KEY, Stage
from tests.rig.vllm.server import MODEL, Vllm

AGENTS = 8
ANSWER_TOKENS = 4
# Not more than the smaller server runs at a time.
TOGETHER = AT_WORK
TASKS = 16


def task(nonce: str) -> str:
    """A few hundred tokens that differ from any other question from the first word on."""
    return (
        f"{nonce}: "
        + "weigh what speaks for the plainest design that holds, and say what it costs to run it. " * 12
    )


def messages(role: str, text: str, number: int, *, angle_first: bool) -> Sequence[Mapping[str, str]]:
    """The messages of agent `number`. `angle_first`: the same words, with the agent's own part in front."""
    request = AgentRequested(
        task_id="t", agent_id=f"agent-{number:03}", agent_number=number, role=role, num_agents=AGENTS,
        task_description=text, diversity=True, requested_at="2026-01-01T00:00:00Z",
        deadline="2026-01-01T00:05:00Z",
    )  # fmt: skip
    system, user = (dict(message) for message in prompts.compose(request).messages)
    if angle_first:
        shared, mark, angle = user["content"].rpartition("\n\n# Your angle")
        system["content"] = f"{mark.strip()}{angle}\n\n{system['content']}"
        user["content"] = shared
    return system, user


def role() -> str:
    return fresh("r").upper().replace("-", "_")


async def cached(server: Vllm, before: dict[str, float]) -> float:
    """The share of prompt tokens since `before` that came from the cache."""
    after = await server.figures()
    hits, queries = (
        after[name] - before[name]
        for name in ("vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total")
    )
    return hits / queries


async def ask(server: Vllm, conversations: Sequence[Sequence[Mapping[str, str]]]) -> None:
    """All at once, as agents do."""
    async with ModelClient() as client:
        calls = [ChatRequest(MODEL, each, max_tokens=ANSWER_TOKENS) for each in conversations]
        await asyncio.gather(*(client.complete(Endpoint(server.url), call, seconds=60) for call in calls))


async def test_what_agents_share_is_computed_once_unless_angles_are_first(plain: Front, shared: Vllm) -> None:
    # A role of its own each time: no block of the prompt was ever seen.
    before = await shared.figures()
    ending = await plain.client.deliberate(
        task(fresh()), role=role(), agents=AGENTS, diversity=True, max_tokens=ANSWER_TOKENS,
        timeout_seconds=60,
    )  # fmt: skip
    assert len(ending.results) == AGENTS
    through = await cached(shared, before)
    rates = []
    for angle_first in (False, True):
        name, text = role(), task(fresh())
        before = await shared.figures()
        await ask(
            shared, [messages(name, text, number, angle_first=angle_first) for number in range(1, AGENTS + 1)]
        )
        rates.append(await cached(shared, before))
    print(
        f"\ncached: {through:.3f} through Parley, {rates[0]:.3f} by hand in its order, {rates[1]:.3f} with the angle in front"
    )
    assert through > 0.5
    assert abs(through - rates[0]) < 0.1
    assert rates[1] < 0.1


async def test_all_agents_of_a_task_go_to_one_server_of_two_and_the_tasks_to_both(
    shared: Vllm, behind: Stage, tmp_path: Path
) -> None:
    servers = [shared, await behind.up()]
    went: list[list[float]] = []

    async def counted() -> list[float]:
        return [await server.figure("request_success_total") for server in servers]

    async def more(before: list[float]) -> list[float]:
        grown = [now - then for now, then in zip(await counted(), before, strict=True)]
        return grown if sum(grown) == TOGETHER else []

    async def both_probed() -> bool:
        return all(now > then for now, then in zip(await counted(), first, strict=True))

    first = await counted()
    async with front(tmp_path, [server.url for server in servers], VLLM_API_KEY=KEY) as on:
        # It is ready with one of them.
        await until(both_probed, "each server has made the one token by which it is known to work")
        for _ in range(TASKS):
            before = await counted()
            await on.completed(
                await on.client.deliberate("x", agents=TOGETHER, max_tokens=ANSWER_TOKENS, task_id=fresh())
            )
            went.append(await until(partial(more, before), f"vLLM counts {TOGETHER} answers"))
    assert all(sorted(each) == [0, TOGETHER] for each in went), went
    # All on one side by chance: two times in 2^16.
    assert all(any(each[number] for each in went) for number in (0, 1)), went
