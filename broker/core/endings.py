"""Compose the ending of a deliberation from its decided tally and the outcomes of its agents. Pure."""

from collections.abc import Mapping

from parley.broker.core.messages import (
    AgentCompleted,
    AgentFailed,
    AgentOutcome,
    AgentResult,
    DeliberationCompleted,
    DeliberationFailed,
    Ending,
    ErrorType,
    FailedAgent,
)
from parley.broker.core.states import State
from parley.broker.core.tally import Tally
from parley.broker.core.timestamps import format_timestamp

# So that an ending of 256 failed agents fits into one message, even if JSON escapes every letter. Workers' errors are
# no longer.
MAX_ERROR_CHARACTERS = 500


def compose(tally: Tally, outcomes: Mapping[str, AgentOutcome]) -> Ending:
    """The ending of `tally`, which is decided. `outcomes` maps agent_id to the outcome that the tally counts for it.

    An outcome that is counted but missing there (the stream's limits removed it) is listed as a failed agent.
    """
    assert tally.verdict is not None, "only a decided deliberation has an ending"
    phase, verdict = tally.phase, tally.verdict
    results, failed = [], []
    for agent in (agent for agent in phase.agents if agent in phase.outcomes):
        match outcomes.get(agent):
            case AgentCompleted() as done:
                results.append(_result(done))
            case AgentFailed() as failure:
                failed.append(_failure(failure))
            case None:
                failed.append(_lost(agent, verdict.decided_at))
    ended_at = format_timestamp(verdict.decided_at)
    duration_ms = max(0, round((verdict.decided_at - tally.accepted_at) * 1000))
    if tally.state is State.COMPLETED:
        return DeliberationCompleted(
            task_id=tally.task_id,
            degraded=len(results) < len(phase.agents),
            missing_agents=phase.missing,
            failed_agents=tuple(failed),
            results=tuple(results),
            total_agents=len(phase.agents),
            successful_responses=len(results),
            failed_responses=len(failed),
            duration_ms=duration_ms,
            completed_at=ended_at,
            metadata=tally.metadata,
        )
    return DeliberationFailed(
        task_id=tally.task_id,
        status=tally.state.value,  # type: ignore[arg-type]  # pydantic checks it against the literal
        error=verdict.error or str(tally.state),
        failed_agents=tuple(failed),
        missing_agents=phase.missing,
        results=tuple(results),
        total_agents=len(phase.agents),
        successful_responses=len(results),
        failed_responses=len(failed),
        duration_ms=duration_ms,
        timestamp=ended_at,
        metadata=tally.metadata,
    )


def _result(done: AgentCompleted) -> AgentResult:
    return AgentResult(
        agent_id=done.agent_id,
        role=done.role,
        proposal=done.proposal,
        duration_ms=done.duration_ms,
        timestamp=done.timestamp,
    )


def _failure(failure: AgentFailed) -> FailedAgent:
    return FailedAgent(
        agent_id=failure.agent_id,
        error=failure.error[:MAX_ERROR_CHARACTERS],
        error_type=failure.error_type,
        timestamp=failure.timestamp,
    )


def _lost(agent: str, at: float) -> FailedAgent:
    return FailedAgent(
        agent_id=agent,
        error="its outcome was counted, but is no longer in the AGENT_RESPONSES stream",
        error_type=ErrorType.INTERNAL_ERROR,
        timestamp=format_timestamp(at),
    )
