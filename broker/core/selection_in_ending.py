"""What an ending says of its choice, from the tally and from what the judges reported. Pure."""

from collections.abc import Mapping
from typing import Literal

from parley.broker.core import choice
from parley.broker.core.ballots import agreement, dissent, support
from parley.broker.core.judging_orders import LABELS, choice_seed
from parley.broker.core.messages import (
    AgentCompleted,
    AgentFailed,
    AgentOutcome,
    CastBallot,
    DegradedReason,
    Dissent,
    ErrorType,
    FailedAgent,
    PhaseReport,
    Selection,
)
from parley.broker.core.phase_plan import LEAST_SECONDS, PhaseKind, Select, is_over
from parley.broker.core.spending import Spending
from parley.broker.core.tally import Choice, ChoiceStatus, ClosedBy, Phase, Tally
from parley.broker.core.timestamps import format_timestamp

# What the judges reported, by judge; None for what is no longer stored.
Judged = Mapping[str, AgentOutcome | None]
# The valid ballots, by judge: the candidates, the best first (`choice.ballots`).
Cast = Mapping[str, tuple[str, ...]]
# What the outcomes of each phase have cost.
Spent = Mapping[PhaseKind, Spending]


def selection_of(tally: Tally, chosen: Choice, cast: Cast, judged: Judged) -> Selection:
    panel, orders = choice.panel(tally), choice.shown(tally)
    alike = agreement(list(cast.values()))
    invalid = len(panel.outcomes) - len(cast)
    return Selection(
        method="vote" if tally.select is Select.VOTE else "judge",
        aggregate="votes-1" if tally.select is Select.VOTE else "win-rate-1",
        status=chosen.status.value,
        scores=dict(chosen.scores),
        runner_up=chosen.runner_up,
        margin=chosen.margin,
        tied=chosen.tied,
        tie_break=chosen.tie_break,  # type: ignore[arg-type]  # pydantic checks it against the literal
        support=_support(tally, chosen, cast),
        agreement=None if alike is None else round(float(alike), 3),
        seed=choice_seed(tally.task_id, tally.request_seq),
        asked=len(panel.agents),
        valid=len(cast),
        invalid=invalid,
        missing=len(panel.missing),
        ballots=tuple(
            _ballot(panel, judge, orders[judge], cast.get(judge), judged.get(judge)) for judge in panel.agents
        ),
    )


def _ballot(
    panel: Phase,
    judge: str,
    shown: tuple[str, ...],
    ranking: tuple[str, ...] | None,
    outcome: AgentOutcome | None,
) -> CastBallot:
    if isinstance(outcome, AgentCompleted):
        ballot = outcome.ballot if ranking is not None else None
        return CastBallot(
            judge=judge,
            shown=shown,
            ranking=ranking,
            notes=ballot.notes if ballot is not None else "",
            shortened=_by_label(shown, ballot.shortened) if ballot is not None else (),
            repaired=ballot is not None and ballot.repaired,
            why="" if ranking is not None else "no ranking of what it was shown",
            model=outcome.model,
            tokens=outcome.usage.completion_tokens,
            duration_ms=outcome.duration_ms,
        )
    counted = judge in panel.outcomes
    why = outcome.error if outcome is not None else "no longer stored" if counted else "no word by the limit"
    return CastBallot(judge=judge, shown=shown, ranking=ranking, why="" if ranking is not None else why)


def _by_label(shown: tuple[str, ...], labels: str) -> tuple[str, ...]:
    return tuple(name for label, name in zip(LABELS, shown, strict=False) if label in labels)


def _support(tally: Tally, chosen: Choice, cast: Cast) -> str | None:
    if chosen.winner is None:
        return None
    if tally.select is Select.VOTE:
        return chosen.scores.get(chosen.winner)
    if chosen.runner_up is None:
        return None
    first, comparing = support(cast.values(), chosen.winner, chosen.runner_up)
    return f"{first}/{comparing}"


def dissent_of(tally: Tally, chosen: Choice, cast: Cast) -> tuple[Dissent, ...]:
    if chosen.winner is None:
        return ()
    if tally.select is Select.VOTE:
        return _dissent_of_votes(tally, chosen.winner)
    return tuple(
        Dissent(agent_id=agent, by=judges, share=f"{len(judges)}/{len(cast)}")
        for agent, judges in dissent(cast, chosen.winner).items()
    )


def _dissent_of_votes(tally: Tally, winner: str) -> tuple[Dissent, ...]:
    """The other answers, the most often given first."""
    asked = choice.voters(tally)
    by_key: dict[str, list[str]] = {}
    for agent in choice.answered(tally):
        key = tally.answers.outcomes[agent].said
        if key is not None and key != tally.answers.outcomes[winner].said:
            by_key.setdefault(key, []).append(agent)
    ordered = sorted(by_key.values(), key=lambda agents: -len(agents))
    return tuple(
        Dissent(agent_id=agents[0], by=tuple(agents), share=f"{len(agents)}/{asked}") for agents in ordered
    )


# ── what is missing ───────────────────────────────────────────────────────────────────────────────────────────────


def reasons_of(
    tally: Tally, failed: Mapping[str, FailedAgent], cast: Cast, judged: Judged
) -> tuple[DegradedReason, ...]:
    """Every gap in what a deliberation with a choice was asked for."""
    found = [
        DegradedReason(phase="answer", what=_what(one.error_type), who=agent, why=one.error_type.value)
        for agent, one in failed.items()
    ]
    found += [DegradedReason(phase="answer", what="missing", who=agent) for agent in tally.missing]
    panel = choice.panel(tally)
    for judge in panel.agents:
        if judge not in panel.outcomes:
            found.append(DegradedReason(phase="judge", what="missing", who=judge))
        elif judge not in cast:
            found.append(_bad_ballot(judge, judged.get(judge)))
    for step in tally.steps_left if choice_was_planned(tally) else ():
        found.append(DegradedReason(phase=step.kind.value, what="left_out", why=_why_left_out(tally)))
    unsure = tally.choice is not None and tally.choice.status in (
        ChoiceStatus.INDICATED,
        ChoiceStatus.NO_BALLOTS,
    )
    if unsure and tally.select is Select.VOTE:
        why = "of too few answers a final answer could be read"
        found.append(DegradedReason(phase="answer", what="below_quorum", why=why))
    elif unsure and panel.agents:
        found.append(DegradedReason(phase="judge", what="below_quorum"))
    return tuple(found)


def choice_was_planned(tally: Tally) -> bool:
    """Whether judges were to be asked, and were needed: more than one answer could be compared."""
    return bool(tally.steps_left) and len(choice.candidates(tally)) > 1


def _bad_ballot(judge: str, outcome: AgentOutcome | None) -> DegradedReason:
    if isinstance(outcome, AgentFailed) and outcome.error_type is not ErrorType.INVALID_BALLOT:
        return DegradedReason(
            phase="judge", what=_what(outcome.error_type), who=judge, why=outcome.error_type.value
        )
    return DegradedReason(phase="judge", what="invalid_ballot", who=judge)


def _what(error_type: ErrorType) -> Literal["cancelled", "failed"]:
    return "cancelled" if error_type is ErrorType.CANCELLED else "failed"


def _why_left_out(tally: Tally) -> str:
    calls = tally.calls_with(tally.steps_left[0])
    if is_over(calls, tally.max_calls):
        return f"it would have made {calls} calls, more than max_calls, {tally.max_calls}"
    if tally.answers.closed_by is ClosedBy.DEADLINE:
        return "the deadline came first"
    return f"less than {LEAST_SECONDS:g} s were left"


def reports_of(tally: Tally, spent: Spent) -> tuple[PhaseReport, ...]:
    return tuple(_report(tally, phase, spent.get(phase.kind, Spending())) for phase in tally.all_phases)


def _report(tally: Tally, phase: Phase, spending: Spending) -> PhaseReport:
    return PhaseReport(
        phase=phase.kind.value,
        round=phase.number,
        asked=len(phase.agents),
        completed=phase.successes,
        failed=len(phase.outcomes) - phase.successes,
        missing=len(phase.missing),
        opened_at=format_timestamp(tally.accepted_at if phase.opened_at is None else phase.opened_at),
        limit=format_timestamp(tally.deadline if phase.limit is None else phase.limit),
        closed_at="" if phase.closed_at is None else format_timestamp(phase.closed_at),
        closed_by="" if phase.closed_by is None else phase.closed_by.value,
        cost=spending.cost(len(phase.agents)),
    )
