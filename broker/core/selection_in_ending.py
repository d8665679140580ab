"""What an ending says of its choice, from the tally and from what the judges reported. Pure."""

from collections.abc import Iterator, Mapping, Sequence
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
    Synthesis,
)
from parley.broker.core.phase_changes import LEAST_RANKED, is_payable, steps_of_use
from parley.broker.core.phase_plan import (
    COMPARING,
    PhaseKind,
    Select,
    Step,
    deciding,
    heats,
    is_over,
    least_seconds,
    most_candidates,
)
from parley.broker.core.spending import Spending
from parley.broker.core.tally import Choice, ChoiceStatus, ClosedBy, Phase, Tally
from parley.broker.core.timestamps import format_timestamp

# What the agents of the later phases reported, by its place in AGENT_RESPONSES; without what is no longer stored, and
# without the answers among the results. None: such an answer that is no longer stored.
Judged = Mapping[int, AgentOutcome | None]
# The valid ballots, by judge: the candidates, the best first (`choice.ballots`).
Cast = Mapping[str, tuple[str, ...]]
# What the outcomes of each phase have cost, in the order of the phases.
Spent = Sequence[Spending]


_AS_BEFORE = "the phase before it was left out"
GONE = "no longer stored"


def selection_of(tally: Tally, chosen: Choice, cast: Cast, judged: Judged) -> Selection:
    panel = choice.panel(tally)
    alike = agreement(list(cast.values()))
    invalid = len(panel.outcomes) - len(cast)
    heats = [phase for phase in tally.later_phases if phase.kind is PhaseKind.HEAT and phase is not panel]
    return Selection(
        method=tally.select.value,  # type: ignore[arg-type]  # pydantic checks it against the literal
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
        ballots=_ballots(tally, panel, judged),
        heats=tuple(ballot for heat in heats for ballot in _ballots(tally, heat, judged)),
    )


def _ballots(tally: Tally, phase: Phase, judged: Judged) -> tuple[CastBallot, ...]:
    orders, cast = choice.shown(tally, phase), choice.ballots(tally, phase)
    return tuple(
        _ballot(phase, judge, orders[judge], cast.get(judge), _reported(phase, judge, judged))
        for judge in phase.agents
    )


def _reported(phase: Phase, agent: str, judged: Judged) -> AgentOutcome | None:
    counted = phase.outcomes.get(agent)
    return None if counted is None else judged.get(counted.seq)


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
    why = outcome.error if outcome is not None else GONE if counted else "no word by the limit"
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


def synthesis_of(tally: Tally, judged: Judged) -> Synthesis | None:
    decided = tally.synthesis
    if decided is None:
        return None
    edit, confirm = tally.latest(PhaseKind.EDIT), tally.latest(PhaseKind.CONFIRM)
    if edit is None:
        nobody = tally.choice is None or tally.choice.winner is None
        why = "nobody was chosen" if nobody else "there was only one answer"
        if not nobody and len(choice.pool(tally)) > 1:
            why = why_left_out(tally, steps_of_use(tally))
        return Synthesis(status=decided.status.value, why=why)
    written = _reported(edit, choice.EDITOR, judged)
    done = written if isinstance(written, AgentCompleted) else None
    why = written.error if isinstance(written, AgentFailed) else ""
    if done is None and not why:
        why = GONE if choice.EDITOR in edit.outcomes else "no word by the limit"
    return Synthesis(
        status=decided.status.value,
        content=done.proposal.content if done is not None else None,
        model=done.model if done is not None else "",
        tokens=done.usage.completion_tokens if done is not None else 0,
        sources=choice.shown(tally, edit)[choice.EDITOR],
        support=decided.support,
        ballots=_ballots(tally, confirm, judged) if confirm is not None else (),
        why=why,
    )


def dissent_of(tally: Tally, chosen: Choice, cast: Cast) -> tuple[Dissent, ...]:
    if chosen.winner is None:
        return ()
    if tally.select is Select.VOTE:
        return _dissent_of_votes(tally, chosen.winner)
    comparing = sum(chosen.winner in ballot for ballot in cast.values())
    return tuple(
        Dissent(agent_id=agent, by=judges, share=f"{len(judges)}/{comparing}")
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


def reasons_of(tally: Tally, failed: Mapping[str, FailedAgent], judged: Judged) -> tuple[DegradedReason, ...]:
    """Every gap in what a deliberation with a choice was asked for."""
    found = [
        DegradedReason(phase="answer", what=_what(one.error_type), who=agent, why=one.error_type.value)
        for agent, one in failed.items()
    ]
    found += [DegradedReason(phase="answer", what="missing", who=agent) for agent in tally.missing]
    for phase in tally.later_phases:
        found += _gaps(tally, phase, judged)
    found += _left_out(tally)
    unsure = tally.choice is not None and tally.choice.status in (
        ChoiceStatus.INDICATED,
        ChoiceStatus.NO_BALLOTS,
    )
    if unsure and tally.select is Select.VOTE:
        why = "of too few answers a final answer could be read"
        found.append(DegradedReason(phase="answer", what="below_quorum", why=why))
    elif unsure and (panel := choice.panel(tally)).agents:
        found.append(DegradedReason(phase=panel.kind.value, round=panel.number, what="below_quorum"))
    return tuple(found)


def _gaps(tally: Tally, phase: Phase, judged: Judged) -> Iterator[DegradedReason]:
    cast = choice.ballots(tally, phase) if phase.kind in COMPARING else None
    for agent in phase.agents:
        counted = phase.outcomes.get(agent)
        if counted is None:
            yield DegradedReason(phase=phase.kind.value, round=phase.number, what="missing", who=agent)
        elif not counted.succeeded or (cast is not None and agent not in cast):
            yield _failure(phase, agent, judged.get(counted.seq))
        elif counted.seq in judged and judged[counted.seq] is None:
            yield DegradedReason(
                phase=phase.kind.value, round=phase.number, what="failed", who=agent, why=GONE
            )


def _left_out(tally: Tally) -> Iterator[DegradedReason]:
    """The phases that were planned and would have been of use."""
    yield from _revisions_left_out(tally)
    steps, number = steps_of_use(tally), tally.phase.number
    revisions = [step for step in steps if step.kind is PhaseKind.REVISE]
    why = why_left_out(tally, steps)
    for step in revisions:
        number += 1
        yield DegradedReason(phase=step.kind.value, round=number, what="left_out", why=why)
        why = _AS_BEFORE
    # These would have been opened without the revisions, too.
    others = steps_of_use(tally, revisions=0)
    why = why_left_out(tally, others)
    for step in others:
        yield DegradedReason(phase=step.kind.value, round=number, what="left_out", why=why)
        why = _AS_BEFORE
    planned = tally.steps_left
    if not steps and planned and planned[0].kind is PhaseKind.RANK and len(choice.pool(tally)) > 1:
        why = f"there were fewer than {LEAST_RANKED} different answers, and nobody ranks its own"
        yield DegradedReason(phase="rank", what="left_out", why=why)


def _revisions_left_out(tally: Tally) -> Iterator[DegradedReason]:
    """The rounds that would have been of use, and stood back for what decides."""
    planned = sum(step.kind is PhaseKind.REVISE for step in tally.plan)
    if planned >= tally.rounds - 1 or choice.is_settled(tally):
        return
    members = tally.answers.successes
    judges = sum(step.agents for step in tally.plan if step.kind is PhaseKind.JUDGE)
    deciding = judges + sum(heats(most_candidates(members, tally.rounds))) if judges else 0
    begun = [phase for phase in tally.all_phases if phase.kind in (PhaseKind.ANSWER, PhaseKind.REVISE)]
    calls = _calls(begun) + members + deciding
    over = is_over(calls, tally.max_calls)
    why = _too_many(tally, calls) if over else "there was too little time for it and for what follows"
    for number in range(planned + 2, tally.rounds + 1):
        yield DegradedReason(phase="revise", round=number, what="left_out", why=why)
        why = _AS_BEFORE


def _failure(phase: Phase, agent: str, outcome: AgentOutcome | None) -> DegradedReason:
    """Of who reported and gave no answer, or no ballot."""
    what: Literal["cancelled", "failed", "invalid_ballot"]
    what, why = ("invalid_ballot" if phase.kind in COMPARING else "failed"), ""
    if isinstance(outcome, AgentFailed) and outcome.error_type is not ErrorType.INVALID_BALLOT:
        what, why = _what(outcome.error_type), outcome.error_type.value
    return DegradedReason(phase=phase.kind.value, round=phase.number, what=what, who=agent, why=why)


def _what(error_type: ErrorType) -> Literal["cancelled", "failed"]:
    return "cancelled" if error_type is ErrorType.CANCELLED else "failed"


def why_left_out(tally: Tally, steps: Sequence[Step]) -> str:
    """Why the first of these, which would have been of use, was not opened."""
    if not is_payable(tally):
        return _too_many(tally, _calls(tally.all_phases) + sum(step.agents for step in deciding(steps)))
    if tally.phase.closed_by is ClosedBy.DEADLINE:
        return "the deadline came first"
    return f"less than {least_seconds(steps):g} s were left"


def _calls(phases: Sequence[Phase]) -> int:
    return sum(len(phase.agents) for phase in phases)


def _too_many(tally: Tally, calls: int) -> str:
    return f"it would have made {calls} calls, more than max_calls, {tally.max_calls}"


def reports_of(tally: Tally, spent: Spent) -> tuple[PhaseReport, ...]:
    found = [*spent, *(Spending() for _ in tally.all_phases[len(spent) :])]
    return tuple(_report(tally, phase, costs) for phase, costs in zip(tally.all_phases, found, strict=True))


def _stayed(tally: Tally, phase: Phase) -> dict[str, int]:
    """Of a round of revision, how many have kept their own answer, and how many have taken over another's."""
    if phase.kind is not PhaseKind.REVISE:
        return {}
    before, after = choice.standing(tally, phase.number - 1), choice.standing(tally, phase.number)
    answered = [
        agent for agent in phase.agents if agent in phase.outcomes and phase.outcomes[agent].succeeded
    ]
    kept = sum(after[agent] == before[agent] for agent in answered)
    own = sum(after[agent] == choice.in_round(agent, phase.number) for agent in answered)
    return {"kept": kept, "adopted": len(answered) - kept - own}


def _report(tally: Tally, phase: Phase, spending: Spending) -> PhaseReport:
    return PhaseReport(
        phase=phase.kind.value,
        round=phase.number,
        asked=len(phase.agents),
        completed=phase.successes,
        failed=len(phase.outcomes) - phase.successes,
        missing=len(phase.missing),
        **_stayed(tally, phase),
        opened_at=format_timestamp(tally.accepted_at if phase.opened_at is None else phase.opened_at),
        limit=format_timestamp(tally.deadline if phase.limit is None else phase.limit),
        closed_at="" if phase.closed_at is None else format_timestamp(phase.closed_at),
        closed_by="" if phase.closed_by is None else phase.closed_by.value,
        cost=spending.cost(len(phase.agents)),
    )
