"""What a seed decides of a history, beside its condition."""

import random
from dataclasses import dataclass

from tests.simulation import asking, faults
from tests.simulation.actors import Moods
from tests.simulation.process import ProcessOptions
from tests.simulation.roles import Role


@dataclass(frozen=True, slots=True)
class Plan:
    """`roles`: one of each process. `last_deadline`: seconds from the beginning."""

    keep_seconds: float
    latency: float
    roles: tuple[Role, ...]
    options: ProcessOptions
    asked: tuple[asking.Asked, ...]
    faults: tuple[faults.Fault, ...]

    @property
    def last_deadline(self) -> float:
        acts = [act for asked in self.asked for act in asked.acts]
        return max(act.at + float(act.body.get("timeout_seconds", 30.0)) for act in acts)

    @classmethod
    def of(cls, rng: random.Random) -> "Plan":
        keep_seconds = rng.choice((180.0, 180.0, 3_600.0))
        count = rng.choice((1, 1, 1, 2, 2, 3))
        strangers_return = keep_seconds < 1_000 and rng.random() < 0.2
        late = (
            60.0 + rng.choice((keep_seconds - 20.0, keep_seconds + 1.0, keep_seconds + 60.0))
            if strangers_return
            else None
        )
        asked = tuple(asking.planned(rng, place, late) for place in range(count))
        moods = Moods(
            failing=rng.choice((0.0, 0.1, 0.5)),
            silent=rng.choice((0.0, 0.1, 0.6)),
            thinking_seconds=rng.choice((0.01, 0.5, 5.0, 30.0)),
        )
        options = ProcessOptions(
            keep_seconds=keep_seconds, in_hand=rng.choice((1, 3, 64)), slots_each=rng.choice((1, 3, 16)),
            skew_seconds=rng.choice((0.0, 0.0, 0.3)), moods=moods,
        )  # fmt: skip
        return cls(
            keep_seconds=keep_seconds,
            latency=rng.choice((0.000_5, 0.002, 0.008)),
            roles=(Role(),) * rng.choice((1, 2, 2, 2, 3)),
            options=options,
            asked=asked,
            faults=tuple(faults.planned(rng, count)),
        )
