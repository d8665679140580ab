"""Answers whose quality is known, and judges that see it through noise and favour places. Pure.

An answer's quality is drawn from a normal distribution of spread 1. A judge sees it with an error of spread `sigma`, of
which the share `rho` is common to all judges, and adds `beta` for places: by default from +beta/2 for the first to
-beta/2 for the last. Such figures compare designs. About a language model they say nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import exp, log, sqrt
from random import Random

from benchmarks.choice.simulated_deliberation import ROLE, Report
from parley.broker.core.choice import EDITOR, in_round
from parley.broker.core.judging_orders import LABELS
from parley.broker.core.messages import ErrorType, agent_id


class Favoured(StrEnum):
    """The places that judges favour."""

    NONE = "none"
    LINEAR = "linear"
    FIRST = "first"
    LAST = "last"
    ENDS = "ends"


_FAVOUR: Mapping[Favoured, Callable[[int, int], float]] = {
    Favoured.NONE: lambda _, __: 0.0,
    Favoured.LINEAR: lambda place, shown: 0.5 - place / (shown - 1),
    Favoured.FIRST: lambda place, _: float(place == 0),
    Favoured.LAST: lambda place, shown: float(place == shown - 1),
    Favoured.ENDS: lambda place, shown: float(place in (0, shown - 1)),
}


@dataclass(frozen=True, slots=True)
class Times:
    """How long answers and ballots take, in seconds: log-normal. Better answers take longer: `correlation` of quality
    and the logarithm of the time."""

    answer_median: float = 8.0
    ballot_median: float = 4.0
    spread: float = 0.7
    correlation: float = 0.4


@dataclass(frozen=True, slots=True)
class World:
    """`lost`: the share of the ballots that do not arrive. `hostile`: the chance with which the first agent's answer,
    one spread below the mean, turns a judge. `times` None: all answer at once. `editor`: how much better than the winner's
    answer an editor's is in the mean, with a spread of 1; None: none is asked. `revision`: how much better an agent's second
    answer is than its first in the mean, with a spread of a half; None: there is one round. `last_only`: the second
    answers are all that there is to choose from."""

    answers: int = 5
    judges: int = 3
    sigma: float = 1.0
    rho: float = 0.44
    beta: float = 1.0
    favoured: Favoured = Favoured.LINEAR
    lost: float = 0.0
    hostile: float | None = None
    times: Times | None = None
    editor: float | None = None
    revision: float | None = None
    last_only: bool = False


# What may become of a lost ballot: its judge never reports (None), fails, or ranks what it was not shown.
LOSSES = (
    None,
    Report(error_type=ErrorType.INVALID_BALLOT),
    Report(error_type=ErrorType.SERVER_ERROR),
    Report(said="AA"),
)
REVISION_SPREAD = 0.5
HOSTILE = agent_id(ROLE, 1)
HOSTILE_QUALITY = -1.0


class PlantedMembers:
    """The agents and judges of one deliberation in this world. The same world and `rng` give the same ones."""

    def __init__(self, world: World, rng: Random) -> None:
        self.world = world
        agents = [agent_id(ROLE, number) for number in range(1, world.answers + 1)]
        self.quality = {agent: rng.gauss(0, 1) for agent in agents}
        if world.hostile is not None:
            self.quality[HOSTILE] = HOSTILE_QUALITY
        if world.revision is not None and world.last_only:
            self.quality = {agent: self._revised(own, rng) for agent, own in self.quality.items()}
        # What all judges see wrongly in the same way.
        self._common = {agent: rng.gauss(0, 1) for agent in agents}
        self._rng = rng
        # What came instead of a ballot, by judge.
        self.lost: dict[str, Report | None] = {}

    def answer(self, agent: str) -> Report:
        times = self.world.times
        if times is None:
            return Report(said=agent)
        own = sqrt(1 - times.correlation**2) * self._rng.gauss(0, 1)
        slowness = times.correlation * self.quality[agent] + own
        return Report(said=agent, seconds=times.answer_median * exp(times.spread * slowness))

    def _revised(self, own: float, rng: Random) -> float:
        gain = self.world.revision
        assert gain is not None, "a second round is asked for only in a world that has one"
        return own + rng.gauss(gain, REVISION_SPREAD)

    def revise(self, agent: str, _: Sequence[str]) -> Report:
        name = in_round(agent, 2)
        self.quality[name] = self._revised(self.quality[agent], self._rng)
        self._common[name] = self._rng.gauss(0, 1)
        return Report(said=name)

    def edit(self, winner: str) -> Report:
        gain = self.world.editor
        assert gain is not None, "an editor is asked only in a world that has one"
        self.quality[EDITOR] = self.quality[winner] + self._rng.gauss(gain, 1)
        self._common[EDITOR] = self._rng.gauss(0, 1)
        return Report(said=EDITOR)

    def judge(self, judge: str, shown: Sequence[str]) -> Report | None:
        ballot = self._ballot(shown)
        seconds = self._ballot_seconds()
        if self._rng.random() < self.world.lost:
            self.lost[judge] = loss = self._rng.choice(LOSSES)
            return None if loss is None else replace(loss, seconds=seconds)
        return Report(said=ballot, seconds=seconds)

    def _ballot(self, shown: Sequence[str]) -> str:
        seen = [self._seen(agent, place, len(shown)) for place, agent in enumerate(shown)]
        hostile = self.world.hostile
        if hostile is not None and HOSTILE in shown and self._rng.random() < hostile:
            seen[shown.index(HOSTILE)] = float("inf")
        return "".join(LABELS[place] for place in sorted(range(len(shown)), key=lambda place: -seen[place]))

    def _seen(self, agent: str, place: int, shown: int) -> float:
        world = self.world
        noise = sqrt(world.rho) * self._common[agent] + sqrt(1 - world.rho) * self._rng.gauss(0, 1)
        return self.quality[agent] + world.sigma * noise + world.beta * _FAVOUR[world.favoured](place, shown)

    def _ballot_seconds(self) -> float:
        times = self.world.times
        if times is None:
            return 0.0
        return self._rng.lognormvariate(log(times.ballot_median), times.spread)
