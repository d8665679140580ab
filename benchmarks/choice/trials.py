"""Many trials of a planted world, on all cores. What one trial draws depends on the seed and its number only, so that
neither the number of processes nor that of the trials changes it."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from random import Random

from benchmarks.choice.planted_world import HOSTILE, PlantedMembers, World
from benchmarks.choice.recorded_losses import unnamed_losses
from benchmarks.choice.simulated_deliberation import deliberate
from parley.broker.core.choice import EDITOR, shown
from parley.broker.core.phase_plan import CHOOSING
from parley.broker.core.tally import SynthesisStatus, Tally

# Trials that a process does at a time.
CHUNK = 500


@dataclass(frozen=True, slots=True)
class Experiment:
    """Trials of one world. `name` is part of what seeds them."""

    name: str
    world: World
    timeout_seconds: float = 60.0


# An experiment, a seed, the number of the first trial, and the number after the last one's.
Chunk = tuple[Experiment, int, int, int]


def one(experiment: Experiment, seed: int, number: int) -> dict[str, float]:
    """What happened in one trial, as counts.

    `gained`: how much better than the mean answer the chosen one is; `to_gain`: how much better the best one is. `won`:
    the quality of the winner, `answered`: that of what the caller gets, `written`: that of the editor's text.
    """
    name = f"{experiment.name}-{seed}-{number}"
    members = PlantedMembers(experiment.world, Random(name))
    tally = deliberate(
        members, name, agents=experiment.world.answers, judges=experiment.world.judges,
        timeout_seconds=experiment.timeout_seconds, synthesize=experiment.world.editor is not None,
        rounds=1 if experiment.world.revision is None or experiment.world.last_only else 2,
    )  # fmt: skip
    winner = tally.choice.winner if tally.choice is not None else None
    edited = tally.synthesis is not None and tally.synthesis.status is SynthesisStatus.ACCEPTED
    own = {agent: members.quality[agent] for agent in tally.answers.agents}
    best, mean = max(own, key=own.__getitem__), sum(own.values()) / len(own)
    won = members.quality[winner] if winner is not None else 0.0
    return {
        "trials": 1,
        "winner": winner is not None,
        "best": winner == best,
        "gained": won - mean if winner is not None else 0.0,
        "to_gain": own[best] - mean,
        "edited": edited,
        "answered": members.quality[EDITOR] if edited else won,
        "won": won,
        "written": members.quality.get(EDITOR, 0.0),
        "ballots": sum(len(phase.agents) for phase in tally.later_phases if phase.kind in CHOOSING),
        "most_shown": max(
            (len(names) for phase in tally.later_phases for names in shown(tally, phase).values()), default=0
        ),
        "hostile": winner == HOSTILE,
        "late": is_late(tally),
        "lost": len(members.lost),
        "unnamed": unnamed_losses(tally, members.lost),
    }


def is_late(tally: Tally) -> bool:
    """Whether it ended after its deadline, or never."""
    return tally.verdict is None or tally.verdict.decided_at > tally.deadline


def summed(chunk: Chunk) -> Counter[str]:
    """The sums of these trials."""
    experiment, seed, first, last = chunk
    counts: Counter[str] = Counter()
    for number in range(first, last):
        counts.update(one(experiment, seed, number))
    return counts


def run(
    experiments: Iterable[Experiment], trials: int, seed: int, processes: int | None = None
) -> Iterator[tuple[Experiment, Mapping[str, float]]]:
    """Each experiment with its sums, in order. `processes`: as many as there are cores."""
    chunks = [
        (experiment, seed, first, min(trials, first + CHUNK))
        for experiment in experiments
        for first in range(0, trials, CHUNK)
    ]
    with ProcessPoolExecutor(processes or len(os.sched_getaffinity(0))) as pool:
        sums: Counter[str] = Counter()
        for chunk, counts in zip(chunks, pool.map(summed, chunks), strict=True):
            sums.update(counts)
            if chunk[3] == trials:
                yield chunk[0], sums
                sums = Counter()
