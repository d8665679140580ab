"""A real model adds two numbers: is the answer that most agents give right more often than one agent's?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from benchmarks.choice.model_calls import ROLE, Model, in_turn, seeds
from benchmarks.choice.simulated_deliberation import PromptlyReporting, deliberate
from benchmarks.choice.statistics import exact_interval, mcnemar, mean_and_error
from benchmarks.report import Result, Target
from parley.broker.core.messages import AnswerKey, agent_id
from parley.broker.core.phase_plan import Select
from parley.workers.answer_keys import digest, final_answer

SUMS = 60
LEAST, MOST = 2, 40
AGENTS = 9
TEMPERATURE = 0.8
ANSWER_TOKENS = 24
LAST_NUMBER = AnswerKey(last="number")
POINTS = 8.0


@dataclass(frozen=True, slots=True)
class Sum:
    """`right`: by agent, whether its answer is right. `vote_right`: whether the winner's is."""

    right: tuple[bool, ...]
    vote_right: bool
    tied: bool

    @property
    def share(self) -> float:
        return sum(self.right) / len(self.right)


async def measure(model: Model, seed: int, told: Callable[[str], None]) -> list[Result]:
    rng = Random(f"sums-{seed}")
    found = []
    for number, start in enumerate(seeds(seed, "sums", SUMS), 1):
        found.append(await _one(model, rng.randint(LEAST, MOST), rng.randint(LEAST, MOST), start))
        if number % 10 == 0:
            right = sum(each.vote_right for each in found)
            told(f"{number} of {SUMS} sums, {right} right by vote")
    return [judge(found, model.short_name, seed)]


async def _one(model: Model, a: int, b: int, seed: int) -> Sum:
    # The question alone: a worker's prompt tells an expert how to think, which a tiny model takes for the task. Of nine
    # wordings this one got most single answers right, on other sums.
    said = await in_turn(
        model.say(
            f"Calculate {a} + {b}. Answer with the number only.",
            seed=seed + number,
            temperature=TEMPERATURE,
            max_tokens=ANSWER_TOKENS,
        )
        for number in range(1, AGENTS + 1)
    )
    texts = {agent_id(ROLE, number): text or "" for number, text in enumerate(said, 1)}
    votes = {agent: final_answer(text, LAST_NUMBER) for agent, text in texts.items()}
    right = {agent: vote == str(a + b) for agent, vote in votes.items()}
    keys = {agent: None if vote is None else digest(vote) for agent, vote in votes.items()}
    members = PromptlyReporting(lambda *_: None, keys)
    task_id = f"sum-{seed}"
    chosen = deliberate(members, task_id, agents=AGENTS, select=Select.VOTE, role=ROLE).choice
    assert chosen is not None, "all report"
    return Sum(tuple(right.values()), right.get(chosen.winner or "", False), bool(chosen.tied))


def judge(found: Sequence[Sum], model: str, seed: int) -> Result:
    gains = [100 * (each.vote_right - each.share) for each in found]
    gain, error = mean_and_error(sum(gains), sum(each * each for each in gains), len(gains))
    target = Target(
        f"vote of {AGENTS} over one answer", gain, POINTS, "points", at_least=True,
        uncertainty=f"± {error:.1f} SE",
    )  # fmt: skip
    votes, ones = sum(each.vote_right for each in found), sum(each.right[0] for each in found)
    low, high = exact_interval(votes, len(found))
    only_vote = sum(each.vote_right and not each.right[0] for each in found)
    only_one = sum(each.right[0] and not each.vote_right for each in found)
    figures = {
        f"one answer right, of {AGENTS * len(found)}, %": 100
        * sum(each.share for each in found)
        / len(found),
        "vote right, %": 100 * votes / len(found),
        "… 95 % interval from": 100 * low,
        "… to": 100 * high,
        "votes tied": float(sum(each.tied for each in found)),
        f"a right one among the {AGENTS}, %": 100 * sum(any(each.right) for each in found) / len(found),
        "first agent right, %": 100 * ones / len(found),
        "right only by vote": float(only_vote),
        "right only by the first agent": float(only_one),
        "chance of such a difference (McNemar, exact)": mcnemar(only_one, only_vote),
    }
    how = f"{len(found)} sums a + b of {LEAST} to {MOST}, temperature {TEMPERATURE}, {model}, seed {seed}"
    return Result("sums", how, [target], figures)
