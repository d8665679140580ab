"""Rounds of revision, by rules written a second time: what each agent is shown, and by which answer it stands."""

from parley.broker.core.judging_orders import LABELS, choice_seed, shuffled
from parley.broker.core.phase_plan import PhaseKind
from parley.broker.core.tally import Outcome, Phase, Tally


def revising(tally: Tally) -> list[Phase]:
    return [phase for phase in tally.later_phases if phase.kind is PhaseKind.REVISE]


def outcome_of(tally: Tally, name: str) -> Outcome:
    """Where the answer of this name is."""
    agent, _, number = name.partition("/")
    phase = tally.answers if not number else revising(tally)[int(number) - 2]
    return phase.outcomes[agent]


def text_of(tally: Tally, name: str) -> str:
    return outcome_of(tally, name).said or name


def standing(tally: Tally, rounds: int) -> dict[str, str]:
    """By which answer each agent stands after so many rounds."""
    now = {agent: agent for agent, outcome in tally.answers.outcomes.items() if outcome.succeeded}
    for phase in revising(tally)[: rounds - 1]:
        seen = shown_to(tally, phase, now)
        before = dict(now)
        for agent, outcome in phase.outcomes.items():
            said = outcome.said or ""
            if outcome.succeeded and said.startswith("keep:"):
                place = LABELS.index(said[-1])
                now[agent] = seen[agent][place] if place < len(seen[agent]) else before[agent]
            elif outcome.succeeded:
                # The first with these words: its own, then in the order in which it was shown them.
                alike = [name for name in (before[agent], *seen[agent]) if text_of(tally, name) == said]
                now[agent] = (alike or [f"{agent}/{phase.number}"])[0]
    return now


def shown_to(tally: Tally, phase: Phase, now: dict[str, str]) -> dict[str, list[str]]:
    """What each agent is shown in this round: its own answer and the next two on the ring that are others."""
    ring = shuffled(phase.agents, choice_seed(tally.task_id, tally.request_seq) + phase.number)
    found = {}
    for place, agent in enumerate(ring):
        names: list[str] = []
        for step in range(len(ring)):
            name = now[ring[(place + step) % len(ring)]]
            if text_of(tally, name) not in [text_of(tally, one) for one in names] and len(names) < 3:
                names.append(name)
        found[agent] = [names[(place + at) % len(names)] for at in range(len(names))]
    return found


def seqs_shown(tally: Tally, number: int, agent: str) -> list[int]:
    """Where the answers are that this agent is shown in this round."""
    phase = revising(tally)[number - 2]
    names = shown_to(tally, phase, standing(tally, number - 1))[agent]
    return [outcome_of(tally, name).seq for name in names]


def later_answers(tally: Tally) -> list[str]:
    """The answers of later rounds by which somebody stands at the end: by round, and by the agents' numbers."""
    last = set(standing(tally, len(revising(tally)) + 1).values())
    names = [f"{agent}/{phase.number}" for phase in revising(tally) for agent in phase.agents]
    return [name for name in names if name in last]
