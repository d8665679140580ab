"""Whether an ending names each ballot that was lost, as the caller reads it. Pure."""

from collections.abc import Mapping

from benchmarks.choice.simulated_deliberation import Report
from parley.broker.core.choice import panel
from parley.broker.core.endings import compose
from parley.broker.core.messages import (
    AgentCompleted,
    AgentFailed,
    AgentOutcome,
    ErrorType,
    Proposal,
    Usage,
)
from parley.broker.core.phase_plan import PhaseKind
from parley.broker.core.tally import Tally
from parley.broker.core.timestamps import format_timestamp


def unnamed_losses(tally: Tally, lost: Mapping[str, Report | None]) -> int:
    """How many entries for judges in `degraded_reasons` are missing, wrong or too many. `lost`: what came instead of a
    ballot, by judge."""
    if not lost:
        return 0
    wanted = {(judge, *_what_and_why(report)) for judge, report in lost.items()}
    counted = panel(tally).outcomes
    judged = {
        counted[judge].seq: _reported(tally, judge, report)
        for judge, report in lost.items()
        if report is not None and judge in counted
    }
    ending = compose(tally, (), {}, answered=len(tally.answers.agents), judged=judged)
    told = [
        (reason.who, reason.what, reason.why)
        for reason in getattr(ending, "degraded_reasons", ())
        if reason.phase == PhaseKind.JUDGE and reason.who
    ]
    return len(wanted ^ set(told)) + len(told) - len(set(told))


def _what_and_why(report: Report | None) -> tuple[str, str]:
    if report is None:
        return "missing", ""
    if report.error_type in (None, ErrorType.INVALID_BALLOT):
        return "invalid_ballot", ""
    return "failed", report.error_type.value


def _reported(tally: Tally, judge: str, report: Report) -> AgentOutcome:
    """What is stored of it in AGENT_RESPONSES."""
    at, asked = format_timestamp(tally.accepted_at), len(panel(tally).agents)
    if report.error_type is not None:
        return AgentFailed(
            task_id=tally.task_id, agent_id=judge, phase=PhaseKind.JUDGE, role=tally.role, error="lost",
            error_type=report.error_type, attempt=1, duration_ms=0, timestamp=at, num_agents=asked,
        )  # fmt: skip
    proposal = Proposal(
        content=report.said or "",
        author_id=judge,
        author_role=tally.role,
        model="",
        temperature=None,
        tokens=0,
    )
    return AgentCompleted(
        task_id=tally.task_id, agent_id=judge, phase=PhaseKind.JUDGE, role=tally.role, proposal=proposal,
        finish_reason="stop", usage=Usage(), attempt=1, queue_ms=0, duration_ms=0, timestamp=at, model="",
        diversity=False, num_agents=asked,
    )  # fmt: skip
