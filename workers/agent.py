"""One agent of one deliberation: compose its prompt, ask the model until it answers or time is up, say how it went.

A plain async function over a `Model`. It knows nothing of NATS or Ray. Passing trouble is retried with jittered backoff, the
caller's mistakes are not, and no wait outlives the deadline that travels with the work.
"""

import asyncio
import hashlib
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from broker.clock import epoch, rfc3339
from broker.messages import AgentCompleted, AgentFailed, AgentOutcome, AgentRequested, ErrorType, Proposal
from workers import prompts
from workers.vllm import ChatRequest, Completion, Endpoint, ModelError

# Rule: passing trouble is retried; a mistake, an empty answer or a spent deadline is not.
PASSING = frozenset(
    {
        ErrorType.RATE_LIMITED,
        ErrorType.SERVER_ERROR,
        ErrorType.CONNECTION_FAILED,
        ErrorType.CONNECTION_LOST,
        ErrorType.FIRST_BYTE_TIMEOUT,
        ErrorType.TOTAL_TIMEOUT,
        ErrorType.MALFORMED_ANSWER,
    }
)


class Model(Protocol):
    async def complete(self, endpoint: Endpoint, request: ChatRequest, *, seconds: float) -> Completion: ...


@dataclass(frozen=True, slots=True)
class Retry:
    """At most `attempts` calls; between them full jitter up to `base` doubled each time, never over `cap`. Seconds."""

    attempts: int = 6
    base: float = 0.25
    cap: float = 10.0

    def wait(self, attempt: int, asked: float | None, jitter: float) -> float:
        """Seconds before the next call after `attempt` (from 1) failed. `asked` is the server's Retry-After, a lower bound."""
        ours = jitter * min(self.cap, self.base * 2.0 ** (attempt - 1))
        return max(ours, asked or 0.0)


@dataclass(frozen=True, slots=True)
class Desk:
    """What every agent of a worker shares."""

    model: Model
    model_name: str
    endpoints: Sequence[Endpoint]
    retry: Retry = Retry()
    now: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    jitter: Callable[[], float] = random.random


def endpoints_for(task_id: str, endpoints: Sequence[Endpoint]) -> list[Endpoint]:
    """The order in which a task tries the endpoints: the same for all its agents, so that they share one prefix cache.

    Rendezvous hashing: adding or losing an endpoint moves only the tasks that it concerns.
    """

    def weight(endpoint: Endpoint) -> bytes:
        return hashlib.blake2b(f"{task_id}\n{endpoint.url}".encode(), digest_size=8).digest()

    return sorted(endpoints, key=weight, reverse=True)


async def answer(desk: Desk, request: AgentRequested, traceparent: str | None = None) -> AgentOutcome:
    """One agent's outcome, at the latest at its deadline. `traceparent` goes with every call to the model. Raises only CancelledError, and our own bugs."""
    started = desk.now()
    prompt = prompts.compose(request)
    chat = ChatRequest(
        model=request.model or desk.model_name,
        messages=prompt.messages,
        temperature=prompt.temperature,
        max_tokens=request.max_tokens,
        seed=prompt.seed,
        stop=request.stop,
        traceparent=traceparent,
    )
    order = endpoints_for(request.task_id, desk.endpoints)
    deadline = epoch(request.deadline)
    attempt = 0
    while True:
        left = deadline - desk.now()
        if left <= 0:
            return failed(
                request, desk, started, attempt, ErrorType.DEADLINE_EXCEEDED, "the deadline passed before an answer came"
            )
        attempt += 1
        try:
            completion = await desk.model.complete(order[(attempt - 1) % len(order)], chat, seconds=left)
        except ModelError as error:
            wait = desk.retry.wait(attempt, error.retry_after, desk.jitter())
            if error.error_type not in PASSING or attempt >= desk.retry.attempts or desk.now() + wait >= deadline:
                return failed(request, desk, started, attempt, error.error_type, str(error))
            await desk.sleep(wait)
            continue
        return _completed(request, desk, started, attempt, prompt, completion)


def _completed(
    request: AgentRequested, desk: Desk, started: float, attempt: int, prompt: prompts.Prompt, completion: Completion
) -> AgentCompleted:
    now = desk.now()
    return AgentCompleted(
        task_id=request.task_id,
        agent_id=request.agent_id,
        round=request.round,
        role=request.role,
        proposal=Proposal(
            content=completion.content,
            author_id=request.agent_id,
            author_role=request.role,
            model=completion.model,
            temperature=prompt.temperature,
            tokens=completion.usage.completion_tokens,
        ),
        finish_reason=completion.finish_reason,
        usage=completion.usage,
        attempt=attempt,
        queue_ms=queue_ms(request, started),
        duration_ms=_ms(now - started),
        timestamp=rfc3339(now),
        model=completion.model,
        diversity=request.diversity,
        persona=prompt.persona,
        seed=prompt.seed,
        num_agents=request.num_agents,
        metadata=request.metadata,
    )


def failed(request: AgentRequested, desk: Desk, started: float, attempt: int, error_type: ErrorType, error: str) -> AgentFailed:
    """The outcome of an agent that could not answer. `started`: when it began, in seconds since the epoch."""
    now = desk.now()
    return AgentFailed(
        task_id=request.task_id,
        agent_id=request.agent_id,
        round=request.round,
        role=request.role,
        error=error or error_type.value,
        error_type=error_type,
        attempt=attempt,
        queue_ms=queue_ms(request, started),
        duration_ms=_ms(now - started),
        timestamp=rfc3339(now),
        num_agents=request.num_agents,
        metadata=request.metadata,
    )


def queue_ms(request: AgentRequested, started: float) -> int:
    return _ms(started - epoch(request.requested_at))


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))
