"""Results with targets: a table, a JSON file, and an exit code."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Target:
    """`value`, in `unit`, must be at most `bound`, or with `at_least` not below it. `uncertainty`: in words."""

    name: str
    value: float
    bound: float
    unit: str = ""
    at_least: bool = False
    uncertainty: str = ""

    @property
    def met(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound


@dataclass(frozen=True, slots=True)
class Result:
    """What one scenario measured. `how`: what ran, in one line. `figures`: further figures, by name with unit."""

    scenario: str
    how: str
    targets: Sequence[Target]
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        return all(target.met for target in self.targets)

    def as_dict(self) -> dict[str, Any]:
        targets = [{**asdict(target), "met": target.met} for target in self.targets]
        return {**asdict(self), "met": self.met, "targets": targets, "figures": dict(self.figures)}


def table(results: Sequence[Result]) -> str:
    """A row for each target; below, what ran and the further figures."""
    rows = [("scenario", "figure", "measured", "uncertainty", "target", "")]
    for result in results:
        for target in result.targets:
            bound = f"{'≥' if target.at_least else '≤'} {_shown(target.bound)} {target.unit}".rstrip()
            value = f"{_shown(target.value)} {target.unit}".rstrip()
            met = "ok" if target.met else "MISSED"
            rows.append((result.scenario, target.name, value, target.uncertainty, bound, met))
    if not any(row[3] for row in rows[1:]):
        rows = [(*row[:3], "", *row[4:]) for row in rows]
    columns = [column for column in zip(*rows, strict=True) if any(column)]
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in zip(*columns, strict=True)
    ]
    for result in results:
        lines += ["", f"{result.scenario}: {result.how}"]
        lines += [f"  {name}: {_shown(value)}" for name, value in result.figures.items()]
    return "\n".join(lines)


def _shown(value: float) -> str:
    """Four digits, or a whole number."""
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.4g}"


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")


def finish(results: Sequence[Result], json_file: Path | None) -> int:
    """Print the table, write the file. Returns the exit code: 1 if a target is missed."""
    print("\n" + table(results))
    if json_file is not None:
        json_file.write_text(json.dumps([result.as_dict() for result in results], indent=1) + "\n")
    return 0 if all(result.met for result in results) else 1
