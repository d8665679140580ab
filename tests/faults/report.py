"""The results as the table of docs/reliability.md."""

import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.faults.cases import Case
from tests.faults.load import AGENTS, PACE, Outcome

COMMAND = "make faults"
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"
HEAD = (
    "| what | deliberations | lost | doubled | heard twice | late | ended as | calm, s | recovery, s | NATS still, s |",
    "|---|--:|--:|--:|--:|--:|---|--:|--:|--:|",
)

Row = tuple[Case, Outcome]


def table(rows: Sequence[Row]) -> str:
    total = sum(len(outcome.asked) for _, outcome in rows)
    machine = f"{os.cpu_count()} cores, {platform.system()}, Python {sys.version.split()[0]}"
    said = f"`{COMMAND}`: {total} deliberations of {AGENTS} agents, {PACE:g} a second, {machine}."
    return "\n".join((said, "", *HEAD, *(_row(case, outcome) for case, outcome in rows)))


def _row(case: Case, outcome: Outcome) -> str:
    cells = (
        case.name,
        len(outcome.asked),
        len(outcome.lost),
        len(outcome.doubled),
        len(outcome.seen_twice),
        len(outcome.late),
        ", ".join(f"{count} {status}" for status, count in sorted(outcome.statuses.items())),
        "" if case.lasting else f"{outcome.calm:.2f}",
        "" if case.lasting else f"{outcome.recovery:.1f}",
        f"{outcome.still:.1f}" if outcome.still else "",
    )
    return f"| {' | '.join(map(str, cells))} |"


def write(path: Path, rows: Sequence[Row]) -> None:
    """Put the table between its markers."""
    before, _, rest = path.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    path.write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{after}")
