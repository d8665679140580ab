"""Answers and ballots of a real model, through the code of a worker: its prompts, its client, its readers."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from benchmarks.choice.simulated_deliberation import PromptlyReporting, deliberate
from parley.broker.core.judging_orders import LABELS
from parley.broker.core.messages import (
    AgentCompleted,
    AgentOutcome,
    AgentRequested,
    Candidate,
    agent_id,
)
from parley.broker.core.phase_plan import PhaseKind, Select
from parley.broker.core.timestamps import format_timestamp
from parley.workers.agent import Agent
from parley.workers.model.endpoint_address import Endpoint
from parley.workers.model.endpoint_failover import FailoverClient
from parley.workers.model.model_client import ChatRequest, ModelClient
from parley.workers.model.model_error import ModelError

CALLS_AT_A_TIME = 4
# A call of the tiny model takes 0.4 to 3 s on one core; others may use it too.
PATIENCE_SECONDS = 600.0
ROLE = "TEACHER"

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Model:
    """`name`: as its server has it. Its methods raise nothing: what fails is an outcome."""

    name: str
    agent: Agent

    @property
    def short_name(self) -> str:
        """llama.cpp names a model by its path."""
        return self.name.rsplit("/", 1)[-1]

    async def answer(
        self, question: str, number: int, *, agents: int, seed: int, temperature: float, max_tokens: int,
    ) -> AgentOutcome:  # fmt: skip
        """What agent `number` says, where judges are to choose. Equal arguments give the same answer, as far as the server does."""
        now = time.time()
        return await self.agent.answer(
            AgentRequested(
                task_id="benchmark", agent_id=agent_id(ROLE, number), agent_number=number, role=ROLE,
                num_agents=agents, task_description=question, select=Select.JUDGE, seed=seed,
                temperature=temperature, max_tokens=max_tokens, requested_at=format_timestamp(now),
                deadline=format_timestamp(now + PATIENCE_SECONDS),
            )
        )  # fmt: skip

    async def say(self, text: str, *, seed: int, temperature: float, max_tokens: int) -> str | None:
        """What it says to this text alone, without a worker's prompt; None if the call fails."""
        request = ChatRequest(
            self.name,
            [{"role": "user", "content": text}],
            temperature=temperature,
            max_tokens=max_tokens,
            seed=seed,
        )
        try:
            said = await self.agent.balancer.complete("benchmark", request, time.time() + PATIENCE_SECONDS)
        except ModelError:
            return None
        return said.content

    async def judge(
        self, question: str, answers: Sequence[AgentCompleted], number: int, *, seed: int
    ) -> AgentOutcome:
        """The ballot of judge `number` over `answers`, in the order in which it is shown them."""
        now = time.time()
        work = AgentRequested(
            task_id="benchmark", agent_id=f"judge-{number:03d}", agent_number=number, role=ROLE,
            phase=PhaseKind.JUDGE, num_agents=len(answers), task_description=question, select=Select.JUDGE,
            candidates=tuple(Candidate(label=LABELS[place], seq=place + 1) for place in range(len(answers))),
            seed=seed, requested_at=format_timestamp(now), deadline=format_timestamp(now + PATIENCE_SECONDS),
        )  # fmt: skip
        return await self.agent.judge(work, answers)


@asynccontextmanager
async def model_at(url: str, api_key: str | None) -> AsyncIterator[Model]:
    """The first model that an OpenAI-compatible server lists."""
    async with ModelClient(api_key=api_key, connections=CALLS_AT_A_TIME) as client:
        endpoint = Endpoint(url)
        name = (await client.models(endpoint))[0].name
        balancer = FailoverClient(client, [endpoint])
        try:
            yield Model(name, Agent(balancer, name, time.time))
        finally:
            await balancer.close()


async def in_turn(calls: Iterable[Awaitable[Value]]) -> list[Value]:
    """All results in order, a few calls at a time."""
    limit = asyncio.Semaphore(CALLS_AT_A_TIME)

    async def one(call: Awaitable[Value]) -> Value:
        async with limit:
            return await call

    return list(await asyncio.gather(*map(one, calls)))


def seeds(seed: int, what: str, count: int) -> list[int]:
    """Seeds of calls. Far apart, since an agent adds its number to them."""
    rng = Random(f"{what}-{seed}")
    return [rng.randrange(2**31) for _ in range(count)]


def shown_orders(task_id: str, keys: Mapping[str, str | None], judges: int) -> dict[str, tuple[str, ...]]:
    """What each judge is shown of these answers, by judge."""
    orders: dict[str, tuple[str, ...]] = {}

    def note(judge: str, shown: Sequence[str]) -> None:
        orders[judge] = tuple(shown)

    deliberate(PromptlyReporting(note, keys), task_id, agents=len(keys), judges=judges, role=ROLE)
    return orders
