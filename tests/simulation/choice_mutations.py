"""Rules of choosing, broken on purpose."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

from parley.broker.core import choice, endings, phase_changes, reactions, selection_in_ending
from parley.broker.core.events_and_effects import (
    ArmDeadline,
    DeadlineReached,
    Effect,
    Event,
    Reported,
    RequestAgents,
    StopAgents,
)
from parley.broker.core.messages import AgentCompleted, PhaseReport
from parley.broker.core.phase_plan import PhaseKind
from parley.broker.core.reactions import Reaction
from parley.broker.core.selection_in_ending import Spent
from parley.broker.core.states_and_moves import Cause
from parley.broker.core.tally import (
    Choice,
    ClosedBy,
    Outcome,
    Phase,
    SynthesisDecision,
    SynthesisStatus,
    Tally,
)
from parley.broker.jetstream import tally_store
from parley.workers import judge_prompt
from tests.simulation.invariants import Invariant
from tests.simulation.mutations import Mutation

_react = reactions.react
_needs = phase_changes.needs
_choose = choice.choose
_outcome = reactions._outcome
_opened = phase_changes.opened
_close = reactions._close
_with_moved_limit = reactions._with_moved_limit
_chosen = endings._chosen
_reports_of = selection_in_ending.reports_of
_fold = tally_store._distinct_effects
_on_ring = choice._on_ring


def _patched(owner: Any, name: str, broken: Callable[..., Any]) -> Callable[[], AbstractContextManager[Any]]:
    return lambda: patch.object(owner, name, broken)


def _opens_and_leaves_the_last_open(tally: Tally, *_: Any) -> Tally:
    return tally


def _counts_it_in_the_current_phase(tally: Tally, event: Reported, now: float) -> str:
    return "" if event.agent_id in tally.phase.agents and event.agent_id not in tally.phase.outcomes else "no"


def _takes_any_answer_for_one_of_this_phase(before: Tally | None, event: Event, now: float) -> Reaction:
    if isinstance(event, Reported) and before is not None and before.later_phases:
        late = event.phase is PhaseKind.ANSWER and event.agent_id not in before.answers.outcomes
        if late and event.agent_id in before.answers.agents and not before.ended:
            outcome = Outcome(succeeded=event.error_type is None, seq=event.seq, said=event.said)
            answers = before.answers.counting(event.agent_id, outcome)
            return Reaction(before.model_copy(update={"phases": (answers,)}))
    return _react(before, event, now)


def _believes_any_ballot(tally: Tally, event: Reported) -> Outcome:
    counted = _outcome(tally, event)
    said = event.said[:1] * 2 if event.said else "AA"
    if tally.phase.kind is PhaseKind.JUDGE and event.error_type is None:
        return counted.model_copy(update={"succeeded": True, "said": said})
    return counted


def _chooses_the_first(tally: Tally) -> Choice | None:
    chosen = _choose(tally)
    if chosen is None or chosen.winner is None:
        return chosen
    return chosen.model_copy(update={"winner": choice.answered(tally)[-1]})


def _chooses_anew_at_publishing(tally: Tally, chosen: Choice, *rest: Any) -> dict[str, Any]:
    fields = _chosen(tally, chosen, *rest)
    return {**fields, "winner_id": tally.answers.agents[-1] if chosen.winner is not None else None}


def _tells_no_gap(*_: Any) -> tuple[()]:
    return ()


def _moves_every_limit(before: Tally | None, event: Event, now: float) -> Reaction:
    if before is not None and isinstance(event, DeadlineReached) and before.plan and not before.ended:
        at_limit = before.limit <= now < before.deadline
        if at_limit and phase_changes.has_enough(before):
            return Reaction(*_with_moved_limit(before))
    return _react(before, event, now)


def _asks_the_first_judge_only(effects: Sequence[Any]) -> tuple[Effect, ...]:
    return tuple(
        RequestAgents(effect.round, effect.agents[:1], effect.phase)
        if isinstance(effect, RequestAgents) and effect.phase is PhaseKind.JUDGE
        else effect
        for effect in _fold(effects)
    )


def _lets_calls_run_on(effects: Sequence[Any]) -> tuple[Effect, ...]:
    return tuple(
        effect
        for effect in _fold(effects)
        if not (isinstance(effect, StopAgents) and effect.phase is not None)
    )


def _shows_them_as_they_are(answer: AgentCompleted, text: str) -> str:
    return text


def _leaves_out_what_judges_cost(tally: Tally, spent: Spent) -> tuple[PhaseReport, ...]:
    return _reports_of(tally, spent[:1])


def _shows_all_the_same_order(judges: int, among: Sequence[str], seed: int) -> tuple[tuple[str, ...], ...]:
    return (tuple(sorted(among)),) * judges


def _needs_as_many_ballots_as_answers(tally: Tally, cause: Cause, by: ClosedBy, *rest: Any) -> Reaction:
    if tally.phase.successes < tally.min_responses:
        tally = tally.model_copy(update={"min_responses": len(tally.answers.agents) + 1})
    return _close(tally, cause, by, *rest)


def _leaves_the_alarm_of_the_phase_before(effects: Sequence[Any]) -> tuple[Effect, ...]:
    folded = _fold(effects)
    opens = any(isinstance(effect, RequestAgents) and effect.phase is PhaseKind.JUDGE for effect in folded)
    return tuple(effect for effect in folded if not (opens and isinstance(effect, ArmDeadline)))


def _shows_a_member_its_own(tally: Tally, agent: str) -> tuple[str, ...]:
    return choice.pool(tally)


def _believes_the_editor(tally: Tally) -> SynthesisDecision | None:
    written = choice.synthesis_of(tally)
    if written is None or written.seq is None:
        return written
    return written.model_copy(update={"status": SynthesisStatus.ACCEPTED})


def _shows_others_only(phase: Phase, now: Mapping[str, str], *rest: Any) -> dict[str, tuple[str, ...]]:
    seen = _on_ring(phase, now, *rest)
    return {agent: tuple(name for name in names if name != now[agent]) for agent, names in seen.items()}


def _compares_the_last_answers(tally: Tally) -> tuple[str, ...]:
    return tuple(choice._distinct(tally, sorted(set(choice.standing(tally).values()))).values())


CHOICE_MUTATIONS = (
    Mutation(
        "opens a phase and leaves the last one open", Invariant.PHASES_IN_ORDER,
        _patched(reactions, "closed", _opens_and_leaves_the_last_open),
    ),
    Mutation(
        "counts a late answer in a closed phase", Invariant.PHASE_ONCE,
        _patched(tally_store, "react", _takes_any_answer_for_one_of_this_phase),
    ),
    Mutation("moves a limit without need", Invariant.LIMITS, _patched(tally_store, "react", _moves_every_limit)),
    Mutation("believes any ballot", Invariant.WHOLE_BALLOT, _patched(reactions, "_outcome", _believes_any_ballot)),
    Mutation("chooses another than the best", Invariant.CHOICE, _patched(reactions, "choose", _chooses_the_first)),
    Mutation(
        "chooses anew when the ending is published", Invariant.CHOICE,
        _patched(endings, "_chosen", _chooses_anew_at_publishing),
    ),
    Mutation("tells no gap", Invariant.DEGRADED_TELLS, _patched(endings, "reasons_of", _tells_no_gap)),
    Mutation(
        "asks one judge of a panel", Invariant.ASKED,
        _patched(tally_store, "_distinct_effects", _asks_the_first_judge_only),
    ),
    Mutation(
        "lets the calls of a closed phase run on", Invariant.STOPPED,
        _patched(tally_store, "_distinct_effects", _lets_calls_run_on),
    ),
    Mutation(
        "does not look at the phase of an outcome", Invariant.RIGHT_PHASE,
        _patched(reactions, "_why_not_counted", _counts_it_in_the_current_phase),
    ),
    Mutation(
        "shows all judges the same order", Invariant.CHOICE,
        _patched(choice, "orders", _shows_all_the_same_order),
    ),
    Mutation(
        "needs as many ballots as answers", Invariant.AGREES,
        _patched(reactions, "_close", _needs_as_many_ballots_as_answers),
    ),
    Mutation(
        "leaves the alarm of the phase before", Invariant.EFFECTS_FIRST,
        _patched(tally_store, "_distinct_effects", _leaves_the_alarm_of_the_phase_before),
    ),
    Mutation(
        "leaves out what the judges have cost", Invariant.COST,
        _patched(endings, "reports_of", _leaves_out_what_judges_cost),
    ),
    Mutation(
        "lets a member rank its own answer", Invariant.NOT_OWN,
        _patched(choice, "_of_others", _shows_a_member_its_own),
    ),
    Mutation(
        "takes an editor's text without a ballot", Invariant.SYNTHESIS,
        _patched(reactions, "synthesis_of", _believes_the_editor),
    ),
    Mutation(
        "shows judges who wrote an answer", Invariant.BLIND,
        _patched(judge_prompt, "blind", _shows_them_as_they_are),
    ),
    Mutation(
        "has an agent revise the answers of others only", Invariant.ROUNDS,
        _patched(choice, "_on_ring", _shows_others_only),
    ),
    Mutation(
        "lets judges compare the last answers only", Invariant.CHOICE,
        _patched(choice, "pool", _compares_the_last_answers),
    ),
)  # fmt: skip
