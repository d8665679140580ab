"""Is it flat? Samples of a long run, and a verdict for each figure. Pure: knows neither clock nor process nor NATS."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

# Fewer samples than this after the warm-up say nothing.
FEWEST_SAMPLES = 6


@dataclass(frozen=True, slots=True)
class Sample:
    """Figures by name, `seconds` into the run, when so many deliberations had `ended`."""

    seconds: float
    ended: int
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Figure:
    """How one figure is judged. `tolerance`: how much more it may be, on average, in the last third of what counts than in the
    first; with `per_deliberation`, for each deliberation that ended in between. Counting begins at `warm_up_seconds`."""

    name: str
    tolerance: float
    warm_up_seconds: float = 0.0
    per_deliberation: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """`rise` None: the run was too short to tell, which is no failure."""

    figure: Figure
    rise: float | None

    @property
    def flat(self) -> bool:
        return self.rise is None or self.rise <= self.figure.tolerance

    def __str__(self) -> str:
        each = " a deliberation" if self.figure.per_deliberation else ""
        if self.rise is None:
            return f"{'—':>6}  {self.figure.name}: the run was too short to tell"
        word = "ok" if self.flat else "GROWS"
        return (
            f"{word:>6}  {self.figure.name}: {self.rise:+.4g}{each}, allowed {self.figure.tolerance:g}{each}"
        )


def judge(figure: Figure, samples: Sequence[Sample]) -> Verdict:
    """Means of thirds: one sample taken in the middle of something decides nothing."""
    counted = [
        sample
        for sample in samples
        if sample.seconds >= figure.warm_up_seconds and figure.name in sample.figures
    ]
    if len(counted) < FEWEST_SAMPLES:
        return Verdict(figure, None)
    third = len(counted) // 3
    first, last = counted[:third], counted[-third:]
    rise = fmean(sample.figures[figure.name] for sample in last) - fmean(
        sample.figures[figure.name] for sample in first
    )
    if figure.per_deliberation:
        rise /= max(1.0, fmean(sample.ended for sample in last) - fmean(sample.ended for sample in first))
    return Verdict(figure, rise)


def header(names: Sequence[str]) -> str:
    return _row([*["min", "ended"], *names])


def row(sample: Sample, names: Sequence[str]) -> str:
    return _row(
        [
            f"{sample.seconds / 60:.1f}",
            str(sample.ended),
            *(_shown(sample.figures.get(name)) for name in names),
        ]
    )


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"
