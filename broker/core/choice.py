"""Which answers a deliberation chooses from, what each judge is shown of them, and who wins. Pure."""

from collections import Counter
from collections.abc import Mapping

from parley.broker.core.ballots import TieBreak, count, denominator, told
from parley.broker.core.judging_orders import MAX_SHOWN, choice_seed, orders, read_labels, shuffled
from parley.broker.core.phase_plan import PhaseKind, Select
from parley.broker.core.tally import Choice, ChoiceStatus, Phase, Tally

_NO_PANEL = Phase(number=1, agents=(), kind=PhaseKind.JUDGE)


def judge_id(number: int) -> str:
    """`judge-001`. Numbers count from 1."""
    return f"judge-{number:03d}"


def answered(tally: Tally) -> tuple[str, ...]:
    """The agents that have an answer, in an order of the seed's: nothing may depend on their numbers."""
    found = tuple(agent for agent, outcome in tally.answers.outcomes.items() if outcome.succeeded)
    return shuffled(found, choice_seed(tally.task_id, tally.request_seq))


def candidates(tally: Tally) -> tuple[str, ...]:
    """The agents whose answers judges compare, at most 8. Of those that gave the same answer, one."""
    distinct: dict[str, str] = {}
    for agent in answered(tally):
        distinct.setdefault(tally.answers.outcomes[agent].said or agent, agent)
    return tuple(distinct.values())[:MAX_SHOWN]


def shown(tally: Tally) -> dict[str, tuple[str, ...]]:
    """What each judge is shown, in its order."""
    judges, seed = panel(tally).agents, choice_seed(tally.task_id, tally.request_seq)
    return dict(zip(judges, orders(len(judges), candidates(tally), seed), strict=True))


def ballots(tally: Tally) -> dict[str, tuple[str, ...]]:
    """The valid ballots, by judge: the candidates, the best first."""
    seen, found = shown(tally), {}
    for judge, outcome in panel(tally).outcomes.items():
        ranking = read_labels(outcome.said or "", seen[judge]) if outcome.succeeded else None
        if ranking is not None:
            found[judge] = ranking
    return found


def choose(tally: Tally) -> Choice | None:
    """Who wins by what there is. None if nothing is to be chosen."""
    if tally.select is Select.NONE:
        return None
    return _by_votes(tally) if tally.select is Select.VOTE else _by_ballots(tally)


def voters(tally: Tally) -> int:
    """How many answers a vote was to have: all that were waited for."""
    return len(tally.answers.agents) - len(tally.not_waited_for)


def panel(tally: Tally) -> Phase:
    """The phase of its judges; an empty one if there is none."""
    panels = (phase for phase in tally.later_phases if phase.kind is PhaseKind.JUDGE)
    return next(panels, _NO_PANEL)


def _by_ballots(tally: Tally) -> Choice:
    among = candidates(tally)
    if len(among) == 1:
        return Choice(status=ChoiceStatus.ONLY_ONE, winner=among[0])
    cast = list(ballots(tally).values())
    result = count(cast, among)
    if result is None:
        return Choice(status=ChoiceStatus.NO_BALLOTS)
    status = ChoiceStatus.DECIDED if 2 * len(cast) > len(panel(tally).agents) else ChoiceStatus.INDICATED
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
