"""What must hold of a deliberation that chooses: checked from the tally, by rules written a second time."""

from fractions import Fraction
from itertools import combinations
from typing import Any

from parley.broker.core.judging_orders import EVEN, LABELS, MAX_SHOWN, choice_seed, shuffled
from parley.broker.core.phase_changes import has_enough
from parley.broker.core.phase_plan import COMPARING, LEAST_SECONDS, OF_MEMBERS, PhaseKind, Select
from parley.broker.core.tally import ChoiceStatus, ClosedBy, Phase, SynthesisStatus, Tally
from tests.simulation.invariants import Invariant, holds
from tests.simulation.rounds import later_answers, revising, text_of

# Instants are sums of floats.
_HAIR = 1e-6


def is_plain(tally: Tally) -> bool:
    return tally.select is Select.NONE and not tally.plan


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
    ordered = sorted(kinds, key=list(PhaseKind).index) == kinds
    single = [kind for kind in kinds if kind not in (PhaseKind.HEAT, PhaseKind.REVISE)]
    holds(Invariant.PHASES_IN_ORDER, ordered and len(single) == len(set(single)), f"{who} has {kinds}")
    numbers = [phase.number for phase in new.all_phases]
    rounds = [1 + kinds[: place + 1].count(PhaseKind.REVISE) for place in range(len(kinds))]
    holds(Invariant.PHASES_IN_ORDER, numbers == rounds, f"{who} numbers {kinds} as {numbers}")
    holds(
        Invariant.PHASES_IN_ORDER, max(rounds, default=1) <= new.rounds, f"{who} of {new.rounds} has {kinds}"
    )
    asked = [agent for phase in new.later_phases if phase.kind not in OF_MEMBERS for agent in phase.agents]
    holds(Invariant.PHASES_IN_ORDER, len(asked) == len(set(asked)), f"{who} asks one twice: {asked}")
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
    answers = new.answers.successes
    holds(
        Invariant.PHASES_IN_ORDER,
        answers >= max(2, new.min_responses),
        f"{new.task_id} asks judges to compare {answers} answers, {new.min_responses} needed",
    )
    if opened.kind is PhaseKind.EDIT:
        chosen = new.choice
        holds(
            Invariant.CHOICE,
            chosen is not None and chosen.winner is not None,
            f"{new.task_id}: edits {chosen}",
        )
    if opened.kind is PhaseKind.CONFIRM:
        holds(
            Invariant.PHASES_IN_ORDER, closed.successes == 1, f"{new.task_id} confirms what was not written"
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
        # Of two different answers nobody can be shown two of others.
        too_few = before.kind is PhaseKind.ANSWER and old.select is Select.RANK and len(_pool(old)) < 3
        moved = after.limit == old.deadline and (too_late or too_few or not has_enough(old))
        holds(Invariant.LIMITS, moved, f"{old.task_id}: limit moved from {before.limit} to {after.limit}")


def ballots_are_whole(tally: Tally) -> None:
    """Check each counted ballot against the orders as the table has them."""
    for phase in tally.later_phases:
        for judge, outcome in phase.outcomes.items():
            if outcome.succeeded and phase.kind in COMPARING:
                shown = _order(tally, phase, judge)
                whole = sorted(outcome.said or "") == list(LABELS[: len(shown)])
                told = f"{judge} of {tally.task_id} was shown {shown}, said {outcome.said}"
                holds(Invariant.WHOLE_BALLOT, whole and 2 <= len(shown) <= MAX_SHOWN, told)


def _order(tally: Tally, phase: Phase, judge: str) -> list[str]:
    """What a judge was shown, by the rules written a second time."""
    seed = choice_seed(tally.task_id, tally.request_seq)
    names, at = _pool(tally), phase.agents.index(judge)
    for heat in tally.later_phases[len(revising(tally)) :]:
        if heat.kind is not PhaseKind.HEAT:
            break
        if heat.agents == phase.agents:
            return names[at :: len(phase.agents)]
        names = _left(heat, names)
    match phase.kind:
        case PhaseKind.RANK:
            said = tally.answers.outcomes[judge].said
            own = next(place for place, name in enumerate(names) if tally.answers.outcomes[name].said == said)
            return names[own + 1 :] + names[:own]
        case PhaseKind.CONFIRM:
            assert tally.choice is not None
            names = list(shuffled((tally.choice.winner or "", "editor-001"), seed))
            return names[::-1] if at % 2 else names
        case PhaseKind.JUDGE:
            names = list(shuffled(tuple(names), seed))
    row = EVEN.get((len(phase.agents), len(names)))
    places = row[at] if row else LABELS
    return [name for _, name in sorted(zip(places, names, strict=False))]


def _pool(tally: Tally) -> list[str]:
    names = [agent for agent, outcome in tally.answers.outcomes.items() if outcome.succeeded]
    base: dict[str, str] = {}
    for name in shuffled((*names, *later_answers(tally)), choice_seed(tally.task_id, tally.request_seq)):
        base.setdefault(text_of(tally, name), name)
    return list(base.values())


def _left(heat: Phase, names: list[str]) -> list[str]:
    """Whom a round of heats leaves."""
    groups, left = len(heat.agents), []
    for place, judge in enumerate(heat.agents):
        group, outcome = names[place::groups], heat.outcomes.get(judge)
        if outcome is not None and outcome.succeeded:
            group = [group[LABELS.index(label)] for label in outcome.said or ""]
        left += group[: max(1, 8 // groups)]
    return left


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
        chosen.winner is None or chosen.winner in (*answered, *later_answers(tally)),
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
    voting = _voting(tally)
    for judge, outcome in (voting.outcomes if voting else {}).items():
        if voting is None or not outcome.succeeded:
            continue
        cast += 1
        order = _order(tally, voting, judge)
        ranking = [order[LABELS.index(label)] for label in outcome.said or ""]
        for place, name in enumerate(ranking):
            # Borda: on whole ballots it orders as win rates do. Each rival that ranked neither below nor above is left out.
            wins[name] = wins.get(name, Fraction()) + len(ranking) - 1 - place
    if voting is not None and voting.kind is not PhaseKind.JUDGE and cast:
        wins = _win_rates(tally, voting)
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


def _voting(tally: Tally) -> Phase | None:
    """The last phase that has a ballot."""
    kinds = (PhaseKind.HEAT, PhaseKind.JUDGE, PhaseKind.RANK)
    heard = [phase for phase in tally.later_phases if phase.kind in kinds and phase.successes]
    return heard[-1] if heard else None


def _win_rates(tally: Tally, voting: Phase) -> dict[str, Fraction]:
    """Of ballots that do not all rank the same: the share of the rankings won against each rival, and the mean of these."""
    pairs: dict[tuple[str, str], list[bool]] = {}
    for judge, outcome in voting.outcomes.items():
        if outcome.succeeded:
            order = _order(tally, voting, judge)
            ranking = [order[LABELS.index(label)] for label in outcome.said or ""]
            for better, worse in combinations(ranking, 2):
                pairs.setdefault((better, worse), []).append(True)
                pairs.setdefault((worse, better), []).append(False)
    shares: dict[str, list[Fraction]] = {}
    for (name, _), won in pairs.items():
        shares.setdefault(name, []).append(Fraction(sum(won), len(won)))
    return {name: sum(each, Fraction()) / len(each) for name, each in shares.items()}


def synthesis_is_right(tally: Tally) -> None:
    """Check what became of an editor's answer: it is never the answer without most of the ballots for it."""
    told = tally.synthesis
    holds(
        Invariant.SYNTHESIS,
        (told is not None) == (tally.synthesize and tally.choice is not None),
        f"{tally.task_id}: synthesis {told}",
    )
    if told is None:
        return
    confirm = next((phase for phase in tally.later_phases if phase.kind is PhaseKind.CONFIRM), None)
    first = [
        _order(tally, confirm, judge)[LABELS.index((outcome.said or "")[0])]
        for judge, outcome in (confirm.outcomes.items() if confirm else ())
        if confirm is not None and outcome.succeeded
    ]
    preferred = confirm is not None and first.count("editor-001") * 2 > len(confirm.agents)
    accepted = told.status is SynthesisStatus.ACCEPTED
    holds(Invariant.SYNTHESIS, accepted == preferred, f"{tally.task_id}: {told}, and first were {first}")


def ending_tells(tally: Tally, body: dict[str, Any]) -> None:
    """Check what a completed ending says of the choice, and of what is missing."""
    if is_plain(tally):
        return
    chosen = tally.choice.winner if tally.choice is not None else None
    holds(Invariant.CHOICE, body["winner_id"] == chosen, f"{tally.task_id}: {body['winner_id']} is told")
    if "selection" in (body.get("left_out") or []):
        return
    accepted = tally.synthesis is not None and tally.synthesis.status is SynthesisStatus.ACCEPTED
    holds(
        Invariant.SYNTHESIS,
        (body["answer_from"] == "synthesis") == accepted or not (body["synthesis"] or {}).get("content"),
        f"{tally.task_id}: the answer is from {body['answer_from']}, {tally.synthesis}",
    )
    told = [(gap["phase"], gap["round"], gap["what"], gap["who"]) for gap in body["degraded_reasons"]]
    holds(Invariant.DEGRADED_TELLS, len(told) == len(set(told)), f"{tally.task_id} tells {told}")
    stopped = tally.answers.closed_by in (ClosedBy.ENOUGH, ClosedBy.AGREE)
    gaps = {
        agent for agent in tally.answers.agents
        if (not (outcome := tally.answers.outcomes.get(agent)) and not stopped) or (outcome and not outcome.succeeded)
    }  # fmt: skip
    for phase in tally.later_phases:
        gaps |= {
            name for name in phase.agents if not (said := phase.outcomes.get(name)) or not said.succeeded
        }
    named = {who for *_, who in told if who is not None}
    holds(Invariant.DEGRADED_TELLS, named == gaps, f"{tally.task_id} lacks {gaps}, and tells {told}")
    holds(
        Invariant.DEGRADED_TELLS,
        body["degraded"] == bool(told),
        f"{tally.task_id}: degraded {body['degraded']}, {told}",
    )
