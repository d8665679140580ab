"""A real model as judge of its own answers: does it give valid ballots, and does a place win?"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from random import Random

from benchmarks.choice.model_calls import ROLE, Model, in_turn, seeds, shown_orders
from benchmarks.choice.simulated_deliberation import PromptlyReporting, deliberate
from benchmarks.choice.statistics import exact_interval, mean_and_error
from benchmarks.report import Result, Target
from parley.broker.core.judging_orders import LABELS
from parley.broker.core.messages import AgentCompleted, AgentOutcome, agent_id
from parley.broker.core.tally import Choice

QUESTIONS = (
    "Why is the sky blue?",
    "How can a small shop attract more customers?",
    "What is a good way to learn to play the guitar?",
    "Why do leaves change colour in autumn?",
    "How do you keep bread fresh for longer?",
)
ANSWERS = 6
ANSWER_TOKENS = 60
TEMPERATURE = 0.7
BALLOTS = 60
SHOWN = (2, 3, 4, 5, 6)
PANELS, JUDGES, COMPARED = 20, 3, 3
# Of the panels: of the wins by one place, and the mean margin.
MOST_BY_ONE_PLACE = 12
MOST_MARGIN = 0.15

# By question: the model's answers to it, all different.
Answers = Mapping[str, Sequence[AgentCompleted]]


async def measure(model: Model, seed: int, told: Callable[[str], None]) -> list[Result]:
    answers = await _answers(model, seed)
    told(f"{sum(map(len, answers.values()))} different answers to {len(answers)} questions")
    valid = await _valid_ballots(model, answers, seed)
    told(f"valid ballots: {valid.targets[0].value:g} of {BALLOTS}")
    return [valid, await _panels(model, answers, seed, told)]


async def _answers(model: Model, seed: int) -> Answers:
    starts = dict(zip(QUESTIONS, seeds(seed, "answers", len(QUESTIONS)), strict=True))
    found: dict[str, Sequence[AgentCompleted]] = {}
    for question, start in starts.items():
        # Some more than are needed: answers may be alike.
        said = await in_turn(
            model.answer(
                question, number, agents=ANSWERS, seed=start, temperature=TEMPERATURE,
                max_tokens=ANSWER_TOKENS,
            )
            for number in range(1, ANSWERS + 3)
        )  # fmt: skip
        different = {each.key: each for each in said if isinstance(each, AgentCompleted)}
        found[question] = list(different.values())[:ANSWERS]
        if len(found[question]) < ANSWERS:
            raise RuntimeError(
                f"{model.name} has only {len(found[question])} answers to: {question}: {said[-1]}"
            )
    return found


async def _valid_ballots(model: Model, answers: Answers, seed: int) -> Result:
    rng = Random(f"shown-{seed}")
    calls = []
    for number, start in enumerate(seeds(seed, "ballots", BALLOTS)):
        question = QUESTIONS[number % len(QUESTIONS)]
        shown = rng.sample(answers[question], SHOWN[number // len(QUESTIONS) % len(SHOWN)])
        calls.append(model.judge(question, shown, 1, seed=start))
    outcomes = await in_turn(calls)
    return judge_ballots(outcomes, model.short_name, seed)


def judge_ballots(outcomes: Sequence[AgentOutcome], model: str, seed: int) -> Result:
    """A ballot counts if the model's first words held it: a judge without one is asked again."""
    cast = [each for each in outcomes if isinstance(each, AgentCompleted) and each.ballot is not None]
    at_once = [each for each in cast if each.attempt == 1]
    low, high = exact_interval(len(at_once), len(outcomes))
    target = Target(
        "valid ballots at the first try", len(at_once), len(outcomes), at_least=True,
        uncertainty=f"{100 * low:.0f} to {100 * high:.0f} %",
    )  # fmt: skip
    first = sum(each.ballot.ranking[0] == "A" for each in cast if each.ballot is not None)
    figures = {
        "valid after a second try": float(len(cast)),
        "looked for in other words": float(sum(each.ballot.repaired for each in cast if each.ballot)),
        "put what was shown first on the first place": float(first),
        "tokens a ballot": sum(each.usage.completion_tokens for each in cast) / max(1, len(cast)),
    }
    how = (
        f"{model}, {len(outcomes)} ballots over {SHOWN[0]} to {SHOWN[-1]} answers by json_schema, seed {seed}"
    )
    return Result("ballots", how, [target], figures)


# ── panels ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Panel:
    """`order`: the candidates as the first judge is shown them; the other judges' orders follow from it."""

    order: tuple[str, ...]
    chosen: Choice

    @property
    def wins(self) -> Mapping[int, Fraction]:
        """Its one win, by place in `order`. Those who are tied share it: a rule or a seed would name one of them."""
        winners = self.chosen.tied or (self.chosen.winner,)
        return {self.order.index(name): Fraction(1, len(winners)) for name in winners if name is not None}


async def _panels(model: Model, answers: Answers, seed: int, told: Callable[[str], None]) -> Result:
    even, shared = [], []
    for number in range(PANELS):
        question = QUESTIONS[number % len(QUESTIONS)]
        task_id = f"panel-{seed}-{number}"
        rng = Random(task_id)
        by_agent = {
            agent_id(ROLE, place): each
            for place, each in enumerate(rng.sample(answers[question], COMPARED), 1)
        }
        start = rng.randrange(2**31)
        orders = shown_orders(task_id, {agent: each.key for agent, each in by_agent.items()}, JUDGES)
        first = next(iter(orders.values()))
        even.append(Panel(first, await _choice(model, question, by_agent, task_id, orders, start)))
        one_order = dict.fromkeys(orders, first)
        shared.append(Panel(first, await _choice(model, question, by_agent, task_id, one_order, start)))
        margins = f"{even[-1].chosen.margin}, with one order for all {shared[-1].chosen.margin}"
        told(f"panel {number + 1} of {PANELS}: margin {margins}")
    return judge_panels(even, shared, model.short_name, seed)


async def _choice(
    model: Model,
    question: str,
    by_agent: Mapping[str, AgentCompleted],
    task_id: str,
    orders: Mapping[str, Sequence[str]],
    seed: int,
) -> Choice:
    """What a panel chooses whose judges see the answers in these orders."""
    outcomes = await in_turn(
        model.judge(question, [by_agent[agent] for agent in order], number, seed=seed)
        for number, order in enumerate(orders.values(), 1)
    )
    ballots = {
        judge: [orders[judge][LABELS.index(label)] for label in outcome.ballot.ranking]
        for judge, outcome in zip(orders, outcomes, strict=True)
        if isinstance(outcome, AgentCompleted) and outcome.ballot is not None
    }

    def rank(judge: str, shown: Sequence[str]) -> str | None:
        ballot = ballots.get(judge)
        return None if ballot is None else "".join(LABELS[shown.index(agent)] for agent in ballot)

    members = PromptlyReporting(rank, {agent: each.key for agent, each in by_agent.items()})
    chosen = deliberate(members, task_id, agents=len(by_agent), judges=len(orders), role=ROLE).choice
    assert chosen is not None, "whoever answers at once can be chosen from"
    return chosen


def judge_panels(even: Sequence[Panel], shared: Sequence[Panel], model: str, seed: int) -> Result:
    """`even`: as Parley shows the answers. `shared`: the same panels, with one order for all judges."""
    wins, margin, error = _figures(even)
    named = f"as first seen {' / '.join(f'{float(wins[place]):.1f}' for place in range(COMPARED))}"
    targets = [
        Target("most wins by one place", float(max(wins.values())), MOST_BY_ONE_PLACE, uncertainty=named),
        Target("mean margin", margin, MOST_MARGIN, uncertainty=f"± {error:.2f} SE"),
    ]
    shared_wins, shared_margin, _ = _figures(shared)
    figures = {
        "panels tied": float(sum(bool(panel.chosen.tied) for panel in even)),
        "one order for all: most wins by one place": float(max(shared_wins.values())),
        "one order for all: mean margin": shared_margin,
    }
    how = f"{len(even)} panels of {JUDGES} over {COMPARED} answers, all by {model}, seed {seed}; who is tied shares a win"
    return Result("panels", how, targets, figures)


def _figures(panels: Sequence[Panel]) -> tuple[Counter[int], float, float]:
    """Wins by place, the mean margin and its standard error."""
    wins: Counter[int] = Counter()
    for panel in panels:
        wins.update(panel.wins)
    margins = [float(Fraction(panel.chosen.margin or 0)) for panel in panels]
    return wins, *mean_and_error(sum(margins), sum(each * each for each in margins), len(margins))
