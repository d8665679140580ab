"""One agent of one deliberation: compose its prompt, ask the model, say how it went. No NATS, no Ray."""

from collections.abc import Callable
from dataclasses import dataclass

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
from parley.workers.model.endpoint_failover import FailoverClient
from parley.workers.model.model_client import ChatRequest
from parley.workers.model.model_error import ModelError


@dataclass(frozen=True, slots=True)
class Agent:
    """Answers the requests of a worker, any number at once.

    `model_name`: for requests that name none. `now`: seconds since the epoch, by the
    NATS server's clock, which set the deadline.
    """

    balancer: FailoverClient
    model_name: str
    now: Callable[[], float]

    async def answer(self, request: AgentRequested, traceparent: str | None = None) -> AgentOutcome:
        """The agent's outcome, at its deadline at the latest. `traceparent` goes with each call to the model.

        Raises CancelledError only, unless there is a bug.
        """
        started = self.now()
        prompt = prompts.compose(request)
        chat = ChatRequest(
            model=request.model or self.model_name,
            messages=prompt.messages,
            temperature=prompt.temperature,
            max_tokens=request.max_tokens,
            seed=prompt.seed,
            stop=request.stop,
            traceparent=traceparent,
            chosen=prompt.chosen,
        )
        try:
            completion = await self.balancer.complete(
                request.task_id, chat, parse_timestamp(request.deadline)
            )
        except ModelError as error:
            return self.failed(request, started, error.attempts, error.error_type, str(error))
        now = self.now()
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
            refused=completion.refused,
            reasoning=completion.reasoning,
            usage=completion.usage,
            attempt=completion.attempts,
            queue_ms=_queue_ms(request, started),
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
        self, request: AgentRequested, started: float, attempt: int, error_type: ErrorType, error: str
    ) -> AgentFailed:
        """The outcome of an agent without an answer. `started`: since the epoch. `attempt`: its calls."""
        now = self.now()
        return AgentFailed(
            task_id=request.task_id,
            agent_id=request.agent_id,
            round=request.round,
            role=request.role,
            error=error or error_type.value,
            error_type=error_type,
            attempt=attempt,
            queue_ms=_queue_ms(request, started),
            duration_ms=_ms(now - started),
            timestamp=format_timestamp(now),
            num_agents=request.num_agents,
            metadata=request.metadata,
        )


def _queue_ms(request: AgentRequested, started: float) -> int:
    return _ms(started - parse_timestamp(request.requested_at))


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))
