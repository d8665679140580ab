"""What must hold of a deliberation that chooses: checked from the tally, by rules written a second time."""

from fractions import Fraction
from typing import Any

from parley.broker.core import choice
from parley.broker.core.judging_orders import EVEN, LABELS, choice_seed, shuffled
from parley.broker.core.phase_changes import has_enough
from parley.broker.core.phase_plan import LEAST_SECONDS, PhaseKind, Select
from parley.broker.core.tally import ChoiceStatus, ClosedBy, Phase, Tally
from tests.simulation.invariants import Invariant, holds

# Instants are sums of floats.
_HAIR = 1e-6


def phases_follow(old: Tally, new: Tally, at: float) -> None:
    """Check that the phases of `new` may come after those of `old` at the instant `at`."""
    who = new.task_id
    grown = len(new.all_phases) - len(old.all_phases)
    holds(
        Invariant.PHASES_IN_ORDER,
        grown in (0, 1),
        f"{who} went from {len(old.all_phases)} phases to {len(new.all_phases)}",
    )
    for before, after in zip(old.all_phases[:-1], new.all_phases, strict=False):
        holds(
            Invariant.PHASE_ONCE, before == after, f"a closed phase of {who} changed from {before} to {after}"
        )
    if not old.all_phases:
        return
    before, after = old.all_phases[-1], new.all_phases[len(old.all_phases) - 1]
    if before.closed_at is not None:
        holds(Invariant.PHASE_ONCE, before == after, f"the closed phase {before.kind} of {who} changed")
    _limit_follows(old, before, after, at)
    kinds = [phase.kind for phase in new.all_phases]
    planned = [step.kind for step in new.plan] or [PhaseKind.ANSWER]
    holds(Invariant.PHASES_IN_ORDER, kinds == planned[: len(kinds)], f"{who} has {kinds}, planned {planned}")
    for phase in new.all_phases[:-1]:
        holds(
            Invariant.PHASES_IN_ORDER, phase.closed_at is not None, f"a phase of {who} is open below another"
        )
    if grown:
        _opened(new)


def _opened(new: Tally) -> None:
    closed, opened = new.all_phases[-2:]
    holds(
        Invariant.PHASES_IN_ORDER,
        closed.closed_at == opened.opened_at and closed.closed_by is not None,
        f"{new.task_id} opened {opened.kind} at {opened.opened_at}, and closed {closed.kind} at {closed.closed_at}",
    )
    by_outcome = opened.opened_by is not None
    if closed.closed_by is ClosedBy.ALL:
        holds(
            Invariant.PHASES_IN_ORDER,
            not closed.missing and by_outcome,
            f"{new.task_id} lacks {closed.missing}",
        )
    holds(
        Invariant.PHASES_IN_ORDER,
        closed.successes >= max(2, new.min_responses),
        f"{new.task_id} asks judges to compare {closed.successes} answers, {new.min_responses} needed",
    )


def _limit_follows(old: Tally, before: Phase, after: Phase, at: float) -> None:
    if after.limit is None:
        return
    opened = after.opened_at or old.accepted_at
    within = opened - _HAIR <= after.limit <= old.deadline + _HAIR
    holds(
        Invariant.LIMITS,
        within,
        f"{old.task_id}: limit {after.limit} is not within {opened} and {old.deadline}",
    )
    if before.limit != after.limit:
        # With so little time left no panel can follow.
        too_late = before.kind is PhaseKind.ANSWER and old.deadline - at < LEAST_SECONDS
        moved = after.limit == old.deadline and (too_late or not has_enough(old))
        holds(Invariant.LIMITS, moved, f"{old.task_id}: limit moved from {before.limit} to {after.limit}")


def ballots_are_whole(tally: Tally) -> None:
    """Check each counted ballot against the orders as the table has them."""
    panel = choice.panel(tally)
    for judge, outcome in panel.outcomes.items():
        if outcome.succeeded:
            shown = len(_order(tally, judge))
            whole = sorted(outcome.said or "") == list(LABELS[:shown])
            holds(
                Invariant.WHOLE_BALLOT,
                whole,
                f"{judge} of {tally.task_id} was shown {shown}, said {outcome.said}",
            )


def _order(tally: Tally, judge: str) -> list[str]:
    """What a judge was shown, from the table."""
    agents = [agent for agent, outcome in tally.answers.outcomes.items() if outcome.succeeded]
    base: dict[str, str] = {}
    for agent in shuffled(tuple(agents), choice_seed(tally.task_id, tally.request_seq)):
        base.setdefault(tally.answers.outcomes[agent].said or agent, agent)
    names, judges = list(base.values()), choice.panel(tally).agents
    row = EVEN.get((len(judges), len(names)))
    places = row[judges.index(judge)] if row else LABELS
    return [name for _, name in sorted(zip(places, names, strict=False))]


def choice_is_right(tally: Tally) -> None:
    """Check a decided choice, counted a second time in another way."""
    chosen = tally.choice
    holds(
        Invariant.CHOICE,
        (chosen is None) == (tally.select is Select.NONE),
        f"{tally.task_id}: choice {chosen}",
    )
    if chosen is None:
        return
    answered = [agent for agent, outcome in tally.answers.outcomes.items() if outcome.succeeded]
    holds(
        Invariant.CHOICE,
        chosen.winner is None or chosen.winner in answered,
        f"{tally.task_id} chose {chosen.winner}, who has no answer",
    )
    if tally.select is Select.VOTE:
        _vote_is_right(tally, answered)
    elif chosen.status is not ChoiceStatus.ONLY_ONE:
        _panel_is_right(tally)


def _vote_is_right(tally: Tally, answered: list[str]) -> None:
    said = [tally.answers.outcomes[agent].said for agent in answered if tally.answers.outcomes[agent].said]
    chosen = tally.choice
    assert chosen is not None
    if len(answered) > 1 and said:
        winners = tally.answers.outcomes[chosen.winner or ""].said
        most = max(said.count(each) for each in said)
        holds(Invariant.CHOICE, said.count(winners) == most, f"{tally.task_id}: {winners} won among {said}")


def _panel_is_right(tally: Tally) -> None:
    chosen = tally.choice
    assert chosen is not None
    wins: dict[str, Fraction] = {}
    cast = 0
    for judge, outcome in choice.panel(tally).outcomes.items():
        if not outcome.succeeded:
            continue
        cast += 1
        order = _order(tally, judge)
        ranking = [order[LABELS.index(label)] for label in outcome.said or ""]
        for place, name in enumerate(ranking):  # Borda: on whole ballots it orders as win rates do
            wins[name] = wins.get(name, Fraction()) + len(ranking) - 1 - place
    if not cast:
        holds(
            Invariant.CHOICE, chosen.winner is None, f"{tally.task_id}: {chosen.winner} won without a ballot"
        )
        return
    best = [name for name, points in wins.items() if points == max(wins.values())]
    holds(
        Invariant.CHOICE,
        chosen.winner in best,
        f"{tally.task_id}: {chosen.winner} won, and {wins} says {best}",
    )
    tied = set(chosen.tied) == (set(best) if len(best) > 1 else set())
    holds(Invariant.CHOICE, tied, f"{tally.task_id}: tied {chosen.tied}, and {wins} says {best}")


def ending_tells(tally: Tally, body: dict[str, Any]) -> None:
    """Check what a completed ending says of the choice, and of what is missing."""
    chosen = tally.choice
    if chosen is None:
        return
    holds(
        Invariant.CHOICE, body["winner_id"] == chosen.winner, f"{tally.task_id}: {body['winner_id']} is told"
    )
    if "selection" in (body.get("left_out") or []):
        return
    told = [(gap["phase"], gap["what"], gap["who"]) for gap in body["degraded_reasons"]]
    holds(Invariant.DEGRADED_TELLS, len(told) == len(set(told)), f"{tally.task_id} tells {told}")
    stopped = tally.answers.closed_by in (ClosedBy.ENOUGH, ClosedBy.AGREE)
    gaps = {
        agent for agent in tally.answers.agents
        if (not (outcome := tally.answers.outcomes.get(agent)) and not stopped) or (outcome and not outcome.succeeded)
    }  # fmt: skip
    panel = choice.panel(tally)
    gaps |= {judge for judge in panel.agents if not (cast := panel.outcomes.get(judge)) or not cast.succeeded}
    named = {who for _, _, who in told if who is not None}
    holds(Invariant.DEGRADED_TELLS, named == gaps, f"{tally.task_id} lacks {gaps}, and tells {told}")
    holds(
        Invariant.DEGRADED_TELLS,
        body["degraded"] == bool(told),
        f"{tally.task_id}: degraded {body['degraded']}, {told}",
    )
