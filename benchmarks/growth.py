"""Does a figure grow in a long run? Pure: no clock, no process, no NATS."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

# Fewer samples after the warm-up give no answer.
FEWEST_SAMPLES = 6


@dataclass(frozen=True, slots=True)
class Sample:
    """Figures by name, `seconds` into the run. `ended`: deliberations that had ended by then."""

    seconds: float
    ended: int
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Limit:
    """How much a figure may rise from the first third of the samples to the last, on average.

    `per_deliberation`: the tolerance is for each deliberation that ended in between. Samples before `warm_up_seconds`
    do not count.
    """

    name: str
    tolerance: float
    warm_up_seconds: float = 0.0
    per_deliberation: bool = False


@dataclass(frozen=True, slots=True)
class Growth:
    """`rise` is None if the run was too short to tell. That is no failure."""

    limit: Limit
    rise: float | None

    @property
    def flat(self) -> bool:
        return self.rise is None or self.rise <= self.limit.tolerance

    def __str__(self) -> str:
        each = " a deliberation" if self.limit.per_deliberation else ""
        if self.rise is None:
            return f"{'—':>6}  {self.limit.name}: the run was too short to tell"
        word = "ok" if self.flat else "GROWS"
        return f"{word:>6}  {self.limit.name}: {self.rise:+.4g}{each}, allowed {self.limit.tolerance:g}{each}"


def judge(limit: Limit, samples: Sequence[Sample]) -> Growth:
    """Compares means of thirds, so that one odd sample decides nothing."""
    counted = [
        sample
        for sample in samples
        if sample.seconds >= limit.warm_up_seconds and limit.name in sample.figures
    ]
    if len(counted) < FEWEST_SAMPLES:
        return Growth(limit, None)
    third = len(counted) // 3
    first, last = counted[:third], counted[-third:]
    rise = fmean(each.figures[limit.name] for each in last) - fmean(
        each.figures[limit.name] for each in first
    )
    if limit.per_deliberation:
        rise /= max(1.0, fmean(each.ended for each in last) - fmean(each.ended for each in first))
    return Growth(limit, rise)


def header(names: Sequence[str]) -> str:
    return _row(["min", "ended", *names])


def row(sample: Sample, names: Sequence[str]) -> str:
    figures = (_shown(sample.figures.get(name)) for name in names)
    return _row([f"{sample.seconds / 60:.1f}", str(sample.ended), *figures])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"
