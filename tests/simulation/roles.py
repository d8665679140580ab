"""What one process of a history is: its parts, its clock, its version."""

from dataclasses import dataclass

from parley.handlers.routes import Part
from tests.simulation.old_version import OldVersion

ALL_PARTS = frozenset(Part)


@dataclass(frozen=True, slots=True)
class Role:
    """A process that is killed is replaced by one of the same role.

    `skew_seconds`: how far its clock is ahead of the server's, beside the small error that each has. `old`: the
    older version that it runs, with its workers.
    """

    parts: frozenset[Part] = ALL_PARTS
    skew_seconds: float = 0.0
    old: OldVersion | None = None
