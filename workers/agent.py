"""One agent of one deliberation: compose its prompt, ask the model until it answers or time is up, say how it went.

A plain async function over a `Model`. It knows nothing of NATS or Ray. Passing trouble is retried with jittered backoff, the
caller's mistakes are not, and no wait outlives the deadline that travels with the work. An endpoint whose breaker is open is passed
over; where all are, an agent waits for one as long as its backoffs would have taken together, and then fails by the cause. It calls
for probes, but never is one: they are the switchboard's tasks.
"""

import asyncio
import hashlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from parley.broker.core.messages import (
    AgentCompleted,
    AgentFailed,
    AgentOutcome,
    AgentRequested,
    ErrorType,
    Proposal,
)
from parley.broker.core.timestamps import format_timestamp, parse_timestamp
from parley.workers import prompts
from parley.workers.model.balancer import EndpointBalancer, EndpointPermit
from parley.workers.model.breaker import BreakerState
from parley.workers.model.client import ChatRequest
from parley.workers.model.endpoint import Endpoint
from parley.workers.model.responses import Completion, ModelError

log = logging.getLogger("parley.workers")

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
# What a probe asks, for one token. Not a whole prompt: that may take a minute, and everybody would wait for it.
PROBE_MESSAGES = ({"role": "user", "content": "ping"},)
# What one token may take once a connection is there. A server that is loaded to the brim takes longer, and is not dead.
PROBE_SECONDS = 2.0
TOO_LATE = "the deadline passed before an answer came"


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
    switchboard: EndpointBalancer = field(default_factory=EndpointBalancer)
    probe_seconds: float = 5.0 + PROBE_SECONDS
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
    deadline = parse_timestamp(request.deadline)
    turn = attempt = 0
    while True:
        turn += 1
        now = desk.now()
        if now >= deadline:
            return failed(
                request, desk, started, attempt, ErrorType.DEADLINE_EXCEEDED, _too_late(desk, order)
            )
        first, last = (turn - 1) % len(order), turn >= desk.retry.attempts
        # A turn without a call takes as long as its backoff may, for waiting disturbs nobody. The last has none.
        pause, patience = (0.0, desk.probe_seconds) if last else (desk.retry.wait(turn, None, 1.0), 0.0)
        line = await _line(
            desk, (*order[first:], *order[:first]), chat.model, now + pause, patience, deadline
        )
        if line is None:
            if last and desk.now() < deadline:
                return failed(request, desk, started, attempt, *_nobody(desk, order))
            continue
        attempt += 1
        try:
            completion = await _call(desk, line, chat, deadline - desk.now(), request.task_id)
        except ModelError as error:
            wait = desk.retry.wait(turn, error.retry_after, desk.jitter())
            if (
                error.error_type not in PASSING
                or turn >= desk.retry.attempts
                or desk.now() + wait >= deadline
            ):
                return failed(request, desk, started, attempt, error.error_type, str(error))
            await desk.sleep(wait)
            continue
        return _completed(request, desk, started, attempt, prompt, completion)


async def _line(
    desk: Desk, order: Sequence[Endpoint], model: str, until: float, patience: float, deadline: float
) -> EndpointPermit | None:
    """Leave to call the first of these that is closed; None when none is `until` then, nor within `patience` while a probe is out.

    Who comes upon a breaker that is due has it probed, and waits for that only where no other endpoint is closed. A probe is no attempt.
    """
    board = desk.switchboard
    while (now := desk.now()) < deadline:
        for due in board.due(order, now):
            board.send_out(_probe(desk, due, model))
        line = board.admit(order, now)
        if line is not None:
            return line
        end = min(until + patience if board.probing(order) else until, deadline)
        if now >= end:
            return None
        await board.news(min(end, board.probe_at(order)) - now, desk.sleep)
    return None


async def _call(
    desk: Desk, line: EndpointPermit, chat: ChatRequest, seconds: float, task_id: str
) -> Completion:
    board = desk.switchboard
    try:
        completion = await desk.model.complete(line.endpoint, chat, seconds=seconds)
    except ModelError as error:
        board.end(line, error, desk.now(), task_id=task_id, jitter=desk.jitter())
        raise
    except BaseException:
        board.call_off(line, desk.now())
        raise
    board.end(line, None, desk.now())
    return completion


async def _probe(desk: Desk, line: EndpointPermit, model: str) -> None:
    """Ask for one token, and tell the breaker what came of it. Runs by itself: no agent's deadline cuts it short."""
    board = desk.switchboard
    question = ChatRequest(model=model, messages=PROBE_MESSAGES, max_tokens=1)
    try:
        await desk.model.complete(line.endpoint, question, seconds=desk.probe_seconds)
    except ModelError as error:
        if error.error_type is ErrorType.DEADLINE_EXCEEDED:
            board.end_slow(line, desk.now(), jitter=desk.jitter())
        else:
            board.end(line, error, desk.now(), jitter=desk.jitter())
    except asyncio.CancelledError:
        board.call_off(line, desk.now())
        raise
    except Exception:
        board.call_off(line, desk.now())
        log.exception("probe of %s failed through a bug", line.endpoint)
    else:
        board.end(line, None, desk.now())


def _nobody(desk: Desk, order: Sequence[Endpoint]) -> tuple[ErrorType, str]:
    """Why no endpoint could be called: what opened the breaker of the one this task would call first."""
    breaker = desk.switchboard.breaker(order[0])
    assert breaker.cause is not None, "none was closed just now"
    others = f" (and {len(order) - 1} more)" if len(order) > 1 else ""
    opened = f"the breaker of {order[0]}{others} is open since {format_timestamp(breaker.opened_at)}"
    return breaker.cause.error_type, f"{opened}: {breaker.cause.words}"


def _too_late(desk: Desk, order: Sequence[Endpoint]) -> str:
    """That the time is up, and what the breaker says where no endpoint can be called."""
    if any(desk.switchboard.breaker(endpoint).state is BreakerState.CLOSED for endpoint in order):
        return TOO_LATE
    return f"{TOO_LATE}; {_nobody(desk, order)[1]}"


def _completed(
    request: AgentRequested,
    desk: Desk,
    started: float,
    attempt: int,
    prompt: prompts.Prompt,
    completion: Completion,
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
        timestamp=format_timestamp(now),
        model=completion.model,
        diversity=request.diversity,
        persona=prompt.persona,
        seed=prompt.seed,
        num_agents=request.num_agents,
        metadata=request.metadata,
    )


def failed(
    request: AgentRequested, desk: Desk, started: float, attempt: int, error_type: ErrorType, error: str
) -> AgentFailed:
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
        timestamp=format_timestamp(now),
        num_agents=request.num_agents,
        metadata=request.metadata,
    )


def queue_ms(request: AgentRequested, started: float) -> int:
    return _ms(started - parse_timestamp(request.requested_at))


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))
