"""Figures with a target each, and the verdict. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Target:
    """`value` in `unit` is to be at most `bound`, or with `at_least` no less."""

    name: str
    value: float
    bound: float
    unit: str = ""
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}


@dataclass(frozen=True, slots=True)
class Found:
    """What one scenario came to. `how`: what was run, in a line; `figures`: what else was measured, by name with its unit."""

    scenario: str
    how: str
    targets: Sequence[Target]
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        return all(target.met for target in self.targets)

    def as_dict(self) -> dict[str, Any]:
        targets = [target.as_dict() for target in self.targets]
        return {
            "scenario": self.scenario,
            "how": self.how,
            "met": self.met,
            "targets": targets,
            "figures": dict(self.figures),
        }


def table(found: Sequence[Found]) -> str:
    """A row for each target, and below it what was run and what else was measured."""
    rows = [("scenario", "figure", "measured", "target", "")]
    for each in found:
        for target in each.targets:
            bound = f"{'≥' if target.at_least else '≤'} {_shown(target.bound)} {target.unit}".rstrip()
            value = f"{_shown(target.value)} {target.unit}".rstrip()
            rows.append((each.scenario, target.name, value, bound, "ok" if target.met else "MISSED"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    for each in found:
        lines += ["", f"{each.scenario}: {each.how}"]
        lines += [f"  {name}: {_shown(value)}" for name, value in each.figures.items()]
    return "\n".join(lines)


def _shown(value: float) -> str:
    """Four figures, or a whole number."""
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.4g}"
