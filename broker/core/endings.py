"""Compose the ending of a deliberation from its decided tally and the outcomes of its agents, and make it fit. Pure."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

from parley.broker.core import choice
from parley.broker.core.messages import (
    AgentCompleted,
    AgentFailed,
    AgentResult,
    CastBallot,
    DeliberationCompleted,
    DeliberationFailed,
    DeliberationStatus,
    Ending,
    ErrorType,
    FailedAgent,
    LeftOut,
    ResultsRef,
    Selection,
    Synthesis,
)
from parley.broker.core.phase_plan import PhaseKind, Select
from parley.broker.core.selection_in_ending import (
    Judged,
    Spent,
    dissent_of,
    reasons_of,
    reports_of,
    selection_of,
    synthesis_of,
)
from parley.broker.core.spending import together
from parley.broker.core.states_and_moves import State
from parley.broker.core.tally import Choice, Tally
from parley.broker.core.timestamps import format_timestamp

# So that an ending of 256 failed agents fits into one message of NATS's usual limit, 1 MiB, even if JSON escapes every
# letter. Workers' errors are no longer.
MAX_ERROR_CHARACTERS = 500
# Of an error that is shortened because it would not fit.
SHORT_ERROR_CHARACTERS = 80

Fitting = TypeVar("Fitting", bound=Ending | DeliberationStatus)


def compose(
    tally: Tally,
    results: Sequence[AgentResult],
    failed: Mapping[str, FailedAgent],
    *,
    answered: int | None = None,
    judged: Judged = MappingProxyType({}),
    spent: Spent = (),
    results_ref: ResultsRef | None = None,
    left_out: Sequence[LeftOut] = (),
) -> Ending:
    """The ending of `tally`, which is decided, from what its agents reported.

    `results`: in the order of the agents, then those of later rounds. `failed`: by agent_id, in any order. `answered`: how
    many agents did; None: as many as there are `results`. `judged`: what the agents of later phases reported.
    `spent`: what each phase has cost.
    """
    assert tally.verdict is not None, "only a decided deliberation has an ending"
    phase, verdict = tally.answers, tally.verdict
    successes = len(results) if answered is None else answered
    fields: dict[str, Any] = {
        "task_id": tally.task_id,
        "failed_agents": tuple(failed[agent] for agent in phase.agents if agent in failed),
        "missing_agents": tally.missing,
        "results": tuple(results),
        "results_ref": results_ref,
        "left_out": tuple(left_out),
        "total_agents": len(phase.agents),
        "successful_responses": successes,
        "failed_responses": len(failed),
        "duration_ms": max(0, round((verdict.decided_at - tally.accepted_at) * 1000)),
        "metadata": tally.metadata,
    }
    if not tally.is_plain and tally.phases:
        phases = reports_of(tally, spent)
        fields |= {"phases": phases, "cost": together([phase.cost for phase in phases])}
    ended_at = format_timestamp(verdict.decided_at)
    if tally.state is State.COMPLETED:
        fields["stopped_agents"] = tally.stopped
        fields["degraded"] = successes + len(tally.stopped) < len(phase.agents)
        if not tally.is_plain:
            reasons = reasons_of(tally, failed, judged)
            fields |= {"degraded_reasons": reasons, "degraded": bool(reasons)}
        if tally.choice is not None:
            fields |= _chosen(tally, tally.choice, judged)
        return DeliberationCompleted(completed_at=ended_at, **fields)
    error = verdict.error or str(tally.state)
    return DeliberationFailed(status=tally.state.value, error=error, timestamp=ended_at, **fields)  # type: ignore[arg-type]  # pydantic checks it against the literal


def _chosen(tally: Tally, chosen: Choice, judged: Judged) -> dict[str, Any]:
    cast = choice.ballots(tally, choice.panel(tally))
    written = synthesis_of(tally, judged)
    accepted = written is not None and written.status == "accepted"
    chosen_by = "vote" if tally.select is Select.VOTE else "winner"
    return {
        "winner_id": chosen.winner,
        "answer_from": "synthesis" if accepted else None if chosen.winner is None else chosen_by,
        "selection": selection_of(tally, chosen, cast, judged),
        "synthesis": written,
        "dissent": dissent_of(tally, chosen, cast),
    }


def fit(message: Fitting, limit: int) -> tuple[Fitting, bytes]:
    """`message` (an ending or a status) and its bytes, as much of it as fits into `limit` bytes.

    What does not fit is left out in the order of `_CUTS` and named in `left_out`; with everything left out it has
    less than 1,500 bytes.
    """
    body = message.encode()
    for name, cut in _CUTS:
        if len(body) <= limit:
            break
        changes = cut(message)
        if changes:
            left_out = tuple(dict.fromkeys((*message.left_out, name)))
            # Any: of a union's members mypy cannot tell that the copy is of the same kind.
            smaller: Any = message.model_copy(update={**changes, "left_out": left_out})
            message, body = smaller, smaller.encode()
    return message, body


def _without(*names: str) -> Callable[[Any], dict[str, Any]]:
    """A cut that empties these fields, where the message has them and they are not empty."""

    def cut(message: Any) -> dict[str, Any]:
        return {name: type(value)() for name in names if (value := getattr(message, name, None))}

    return cut


def _without_notes(message: Any) -> dict[str, Any]:
    selection: Selection | None = getattr(message, "selection", None)
    if selection is None or not any(ballot.notes for ballot in (*selection.ballots, *selection.heats)):
        return {}
    return {
        "selection": selection.model_copy(
            update={"ballots": _noteless(selection.ballots), "heats": _noteless(selection.heats)}
        )
    }


def _noteless(ballots: Sequence[CastBallot]) -> tuple[CastBallot, ...]:
    return tuple(ballot.model_copy(update={"notes": ""}) for ballot in ballots)


def _without_synthesis(message: Any) -> dict[str, Any]:
    """Its text and its ballots' notes; what it came to stays, unless the text was the answer."""
    synthesis: Synthesis | None = getattr(message, "synthesis", None)
    if synthesis is None or synthesis.content is None:
        return {}
    told = {"content": None, "why": "it did not fit into the ending", "ballots": _noteless(synthesis.ballots)}
    return {"synthesis": synthesis.model_copy(update=told)}


def _without_selection(message: Any) -> dict[str, Any]:
    none = {
        "selection": None, "synthesis": None, "dissent": (), "degraded_reasons": (), "phases": (), "cost": None,
    }  # fmt: skip
    return {name: empty for name, empty in none.items() if getattr(message, name, empty) != empty}


def _shorter_errors(message: Any) -> dict[str, Any]:
    failed: tuple[FailedAgent, ...] = getattr(message, "failed_agents", ())
    if all(len(agent.error) <= SHORT_ERROR_CHARACTERS for agent in failed):
        return {}
    return {
        "failed_agents": tuple(agent.model_copy(update={"error": _short(agent.error)}) for agent in failed)
    }


def _without_tool_calls(message: Any) -> dict[str, Any]:
    failed: tuple[FailedAgent, ...] = getattr(message, "failed_agents", ())
    if not any(agent.tool_calls for agent in failed):
        return {}
    return {"failed_agents": tuple(agent.model_copy(update={"tool_calls": ()}) for agent in failed)}


def _shorter_error(message: Any) -> dict[str, Any]:
    errors = {name: getattr(message, name, "") for name in ("error", "error_message")}
    return {name: _short(error) for name, error in errors.items() if len(error) > SHORT_ERROR_CHARACTERS}


def _short(error: str) -> str:
    return error if len(error) <= SHORT_ERROR_CHARACTERS else f"{error[: SHORT_ERROR_CHARACTERS - 1]}…"


# What is left out, in this order. Results that have a reference are in no message; those without one are kept for as
# long as shorter errors make room.
_CUTS: tuple[tuple[LeftOut, Callable[[Any], dict[str, Any]]], ...] = (
    ("failed_agents.tool_calls", _without_tool_calls),
    ("failed_agents.error", _shorter_errors),
    ("selection.notes", _without_notes),
    ("results", _without("results")),
    ("synthesis.content", _without_synthesis),
    ("failed_agents", _without("failed_agents")),
    ("missing_agents", _without("missing_agents")),
    ("stopped_agents", _without("stopped_agents")),
    ("selection", _without_selection),
    ("metadata", _without("metadata")),
    ("error", _shorter_error),
)


def result_of(done: AgentCompleted) -> AgentResult:
    number = done.round if done.phase is PhaseKind.REVISE else 1
    return AgentResult(
        agent_id=choice.in_round(done.agent_id, number),
        round=number,
        role=done.role,
        proposal=done.proposal,
        finish_reason=done.finish_reason,
        refused=done.refused,
        reasoning=done.reasoning,
        logprobs=done.logprobs,
        suspect=done.suspect,
        final_answer=done.final_answer,
        persona=done.persona,
        usage=done.usage,
        attempts=done.attempt,
        duration_ms=done.duration_ms,
        timestamp=done.timestamp,
    )


def failure_of(failure: AgentFailed) -> FailedAgent:
    return FailedAgent(
        agent_id=failure.agent_id,
        error=failure.error[:MAX_ERROR_CHARACTERS],
        error_type=failure.error_type,
        tool_calls=failure.tool_calls,
        timestamp=failure.timestamp,
    )


def lost(agent: str, at: float) -> FailedAgent:
    """For an agent whose outcome was counted at or before `at`, and is not in the stream any more."""
    return FailedAgent(
        agent_id=agent,
        error="its outcome was counted, but is no longer in the AGENT_RESPONSES stream",
        error_type=ErrorType.INTERNAL_ERROR,
        timestamp=format_timestamp(at),
    )
