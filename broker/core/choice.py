"""Which answers a deliberation chooses from, what each judge is shown of them, and who wins. Pure.

A candidate is called by the agent that wrote it, in a later round with the round's number (`agent-dev-001/2`); `EDITOR`
wrote the answer that is to be confirmed.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from parley.broker.core.ballots import TieBreak, count, denominator, told
from parley.broker.core.judging_orders import LABELS, choice_seed, orders, read_labels, shuffled
from parley.broker.core.phase_plan import CHOOSING, PhaseKind, Select, going_on
from parley.broker.core.tally import (
    Choice,
    ChoiceStatus,
    Outcome,
    Phase,
    SynthesisDecision,
    SynthesisStatus,
    Tally,
)

EDITOR = "editor-001"
# Answers that an editor is shown.
MAX_EDITED = 5
# Answers that who revises its own is shown, that one included.
MAX_REVISED = 3
_NO_PANEL = Phase(number=1, agents=(), kind=PhaseKind.JUDGE)


def judge_id(number: int) -> str:
    """`judge-001`. Numbers count from 1, over all phases of a deliberation."""
    return f"judge-{number:03d}"


def answered(tally: Tally) -> tuple[str, ...]:
    """The agents that have an answer, in an order of the seed's: nothing may depend on their numbers."""
    found = tuple(agent for agent, outcome in tally.answers.outcomes.items() if outcome.succeeded)
    return shuffled(found, _seed(tally))


def pool(tally: Tally) -> tuple[str, ...]:
    """The answers that are compared: each agent's first one and, if that is another, its last one. Of those that are the
    same, one."""
    found = answered(tally)
    if later := revisions(tally):
        found = shuffled((*found, *later), _seed(tally))
    return tuple(_distinct(tally, found).values())


def _distinct(tally: Tally, names: Sequence[str]) -> dict[str, str]:
    """Of these candidates the first with each text, by that text's digest."""
    distinct: dict[str, str] = {}
    answers = written(tally)
    for name in names:
        distinct.setdefault(answers[name].said or name, name)
    return distinct


# ── more than one round ───────────────────────────────────────────────────────────────────────────────────────────


def in_round(agent: str, number: int) -> str:
    """What an answer of this agent is called that it gave in this round."""
    return agent if number == 1 else f"{agent}/{number}"


def written(tally: Tally) -> dict[str, Outcome]:
    """Every answer that may be shown to somebody, the editor's included, by its name."""
    found = {agent: outcome for agent, outcome in tally.answers.outcomes.items() if outcome.succeeded}
    for phase in tally.later_phases:
        number = phase.number if phase.kind is PhaseKind.REVISE else 1
        if phase.kind in (PhaseKind.REVISE, PhaseKind.EDIT):
            found |= {
                in_round(agent, number): outcome
                for agent, outcome in phase.outcomes.items()
                if outcome.succeeded and outcome.kept is None
            }
    return found


def standing(tally: Tally, rounds: int | None = None) -> dict[str, str]:
    """Which answer each agent stands by, by agent: its own of some round, or another's that it has kept. `rounds`: as it
    was after so many; None: now."""
    answers = written(tally)
    now = {agent: agent for agent in answered(tally)}
    for phase in tally.later_phases:
        if phase.kind is not PhaseKind.REVISE or (rounds is not None and phase.number > rounds):
            break
        seen = _on_ring(phase, now, answers, _seed(tally))
        now |= {agent: _revised(phase, agent, now[agent], seen[agent], answers) for agent in phase.agents}
    return now


def revisions(tally: Tally) -> frozenset[str]:
    """The answers of later rounds by which somebody stands."""
    if not tally.later_phases or tally.later_phases[0].kind is not PhaseKind.REVISE:
        return frozenset()
    return frozenset(standing(tally).values()) - tally.answers.outcomes.keys()


def _revised(
    phase: Phase, agent: str, before: str, seen: Sequence[str], answers: Mapping[str, Outcome]
) -> str:
    outcome = phase.outcomes.get(agent)
    if outcome is None or not outcome.succeeded:
        return before
    if outcome.kept is not None:
        return dict(zip(LABELS, seen, strict=False)).get(outcome.kept, before)
    # The same words again, its own or another's, are the same answer.
    again = (name for name in (before, *seen) if _is_same(answers[name].said, outcome.said))
    return next(again, in_round(agent, phase.number))


def _on_ring(
    phase: Phase, now: Mapping[str, str], answers: Mapping[str, Outcome], seed: int
) -> dict[str, tuple[str, ...]]:
    """What each is shown that revises its answer: that one, and two of those who follow it in a circle, all different. Its
    own stands at each place equally often."""
    ring = shuffled(phase.agents, seed + phase.number)
    texts = [answers[now[agent]].said or now[agent] for agent in ring]
    most = min(MAX_REVISED, len(set(texts)))
    found = {}
    for place, agent in enumerate(ring):
        distinct: dict[str, str] = {}
        for at in range(place, place + len(ring)):
            distinct.setdefault(texts[at % len(ring)], now[ring[at % len(ring)]])
            if len(distinct) == most:
                break
        names = tuple(distinct.values())
        turn = place % len(names)
        found[agent] = (*names[turn:], *names[:turn])
    return found


def is_settled(tally: Tally) -> bool:
    """Whether another round would change nothing: all stand by one answer, or nobody has changed its own in the last
    one."""
    now, last = standing(tally), tally.latest(PhaseKind.REVISE)
    if len(_distinct(tally, tuple(now.values()))) < 2:
        return True
    return last is not None and now == standing(tally, last.number - 1)


def _seed(tally: Tally) -> int:
    return choice_seed(tally.task_id, tally.request_seq)


# ── who is shown what ─────────────────────────────────────────────────────────────────────────────────────────────


def left_over(tally: Tally, before: Phase | None = None) -> tuple[str, ...]:
    """The candidates that the heats have left. `before`: only the heats before this phase; None: all there have been."""
    left = pool(tally)
    for phase in tally.later_phases:
        if phase is before:
            break
        if phase.kind is PhaseKind.HEAT:
            left = _winners(phase, left)
    return left


def _winners(heat: Phase, among: tuple[str, ...]) -> tuple[str, ...]:
    """The best of each group. Of a group without a ballot those that stand first, which the seed decides."""
    groups = _groups(heat, among)
    found: list[str] = []
    for judge, group in groups.items():
        outcome = heat.outcomes.get(judge)
        ranking = read_labels(outcome.said or "", group) if outcome and outcome.succeeded else None
        found += (ranking or group)[: going_on(len(groups))]
    return tuple(found)


def _groups(heat: Phase, among: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    number = len(heat.agents)
    return {judge: among[place::number] for place, judge in enumerate(heat.agents)}


def shown(tally: Tally, phase: Phase) -> dict[str, tuple[str, ...]]:
    """What each agent of this phase is shown, in its order; empty where they answer the question."""
    agents, seed = phase.agents, _seed(tally)
    match phase.kind:
        case PhaseKind.REVISE:
            return _on_ring(phase, standing(tally, phase.number - 1), written(tally), seed)
        case PhaseKind.HEAT:
            return _groups(phase, left_over(tally, phase))
        case PhaseKind.JUDGE:
            return dict(zip(agents, orders(len(agents), left_over(tally, phase), seed), strict=True))
        case PhaseKind.RANK:
            return {agent: _of_others(tally, agent) for agent in agents}
        case PhaseKind.EDIT:
            return dict.fromkeys(agents, shuffled(_best(tally), seed))
        case PhaseKind.CONFIRM:
            first, other = shuffled(_to_confirm(tally), seed)
            return {
                agent: (other, first) if number % 2 else (first, other) for number, agent in enumerate(agents)
            }
    return {}


def _of_others(tally: Tally, agent: str) -> tuple[str, ...]:
    """The answers that this agent did not give. Each begins after its own in one circle, so over all of them every answer
    stands once at each place."""
    among, outcomes = pool(tally), tally.answers.outcomes
    own = next(
        (place for place, name in enumerate(among) if _is_same(outcomes[name].said, outcomes[agent].said)),
        among.index(agent) if agent in among else None,
    )
    return among if own is None else (*among[own + 1 :], *among[:own])


def _is_same(one: str | None, other: str | None) -> bool:
    return one is not None and one == other


def _best(tally: Tally) -> tuple[str, ...]:
    """What an editor writes from."""
    chosen = tally.choice
    if chosen is None or chosen.winner is None:
        return ()
    others = [name for name in pool(tally) if name != chosen.winner]
    scores = {name: _score(chosen.scores.get(name)) for name in others}
    return (chosen.winner, *sorted(others, key=lambda name: -scores[name]))[:MAX_EDITED]


def _score(told_as: str | None) -> float:
    """Of candidates that are told in the same parts. One that was not in the last comparison comes after them."""
    return -1.0 if told_as is None else float(told_as.partition("/")[0])


def _to_confirm(tally: Tally) -> tuple[str, ...]:
    assert tally.choice is not None, "chosen before anybody edits"
    return tally.choice.winner or "", EDITOR


def ballots(tally: Tally, phase: Phase) -> dict[str, tuple[str, ...]]:
    """The valid ballots of this phase, by who gave them: the candidates, the best first."""
    seen, found = shown(tally, phase), {}
    for judge, outcome in phase.outcomes.items():
        ranking = read_labels(outcome.said or "", seen[judge]) if outcome.succeeded else None
        if ranking is not None:
            found[judge] = ranking
    return found


def synthesis_of(tally: Tally) -> SynthesisDecision | None:
    """What has become of the editor's answer, by what there is. None if none was asked for."""
    if not tally.synthesize:
        return None
    edit = tally.latest(PhaseKind.EDIT)
    if edit is None:
        return SynthesisDecision(status=SynthesisStatus.LEFT_OUT)
    written = edit.outcomes.get(EDITOR)
    if written is None or not written.succeeded:
        return SynthesisDecision(status=SynthesisStatus.NOT_WRITTEN)
    confirm = tally.later_phases[-1]
    cast = list(ballots(tally, confirm).values()) if confirm.kind is PhaseKind.CONFIRM else []
    if not cast:
        return SynthesisDecision(status=SynthesisStatus.NOT_CONFIRMED, seq=written.seq)
    better = sum(ballot[0] == EDITOR for ballot in cast)
    # Of those asked: each order is shown to half of them, so judges that look at places alone never accept.
    preferred = 2 * better > len(confirm.agents)
    status = SynthesisStatus.ACCEPTED if preferred else SynthesisStatus.REFUSED
    return SynthesisDecision(status=status, seq=written.seq, support=f"{better}/{len(cast)}")


def choose(tally: Tally) -> Choice | None:
    """Who wins by what there is. None if nothing is to be chosen."""
    if tally.select is Select.NONE:
        return None
    return _by_votes(tally) if tally.select is Select.VOTE else _by_ballots(tally)


def voters(tally: Tally) -> int:
    """How many answers a vote was to have: all that were waited for."""
    return len(tally.answers.agents) - len(tally.not_waited_for)


def panel(tally: Tally) -> Phase:
    """The phase whose ballots choose: the last one with a valid ballot, else the last one; an empty one if there is
    none."""
    panels = [phase for phase in tally.later_phases if phase.kind in CHOOSING]
    heard = [phase for phase in panels if phase.successes]
    return (heard or panels or [_NO_PANEL])[-1]


def _by_ballots(tally: Tally) -> Choice:
    if len(left := pool(tally)) == 1:
        return Choice(status=ChoiceStatus.ONLY_ONE, winner=left[0])
    voting = panel(tally)
    among, cast = left_over(tally, voting), list(ballots(tally, voting).values())
    result = count(cast, among)
    if result is None:
        return Choice(status=ChoiceStatus.NO_BALLOTS)
    # A heat alone compares an answer with seven others at most.
    whole = voting.kind is not PhaseKind.HEAT and 2 * len(cast) > len(voting.agents)
    status = ChoiceStatus.DECIDED if whole else ChoiceStatus.INDICATED
    parts = denominator(result.scores.values(), len(cast), len(among))
    return Choice(
        status=ChoiceStatus.TIED if result.tied else status,
        winner=result.winner,
        runner_up=result.runner_up,
        scores={name: None if score is None else told(score, parts) for name, score in result.scores.items()},
        margin=None if result.margin is None else told(result.margin, parts),
        tied=result.tied,
        tie_break=result.tie_break,
    )


def _by_votes(tally: Tally) -> Choice:
    """An answer of which nothing could be read is no vote."""
    found, outcomes, asked = answered(tally), tally.answers.outcomes, voters(tally)
    votes: Mapping[str, str] = {agent: key for agent in found if (key := outcomes[agent].said) is not None}
    if not votes:
        return Choice(status=ChoiceStatus.NO_BALLOTS)
    if len(found) == 1:
        return Choice(status=ChoiceStatus.ONLY_ONE, winner=found[0])
    alike = Counter(votes.values())
    most = max(alike.values())
    leading = [agent for agent, key in votes.items() if alike[key] == most]
    winner = leading[0]
    tied = tuple(leading) if any(votes[agent] != votes[winner] for agent in leading) else ()
    others = [agent for agent, key in votes.items() if key != votes[winner]]
    runner_up = max(others, key=lambda agent: alike[votes[agent]], default=None)
    behind = alike[votes[runner_up]] if runner_up is not None else 0
    status = ChoiceStatus.DECIDED if 2 * len(votes) > asked else ChoiceStatus.INDICATED
    return Choice(
        status=ChoiceStatus.TIED if tied else status,
        winner=winner,
        runner_up=runner_up,
        scores={agent: f"{alike[votes[agent]]}/{asked}" if agent in votes else None for agent in found},
        margin=f"{most - behind}/{asked}",
        tied=tied,
        tie_break=TieBreak.SEED if tied else None,
    )
