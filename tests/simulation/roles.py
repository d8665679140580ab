"""What one process of a history is: its parts, its clock, its version."""

from dataclasses import dataclass

from parley.handlers.routes import Part

ALL_PARTS = frozenset(Part)


@dataclass(frozen=True, slots=True)
class Role:
    """A process that is killed is replaced by one of the same role.

    `skew_seconds`: how far its clock is ahead of the server's, beside the small error that each has. `old`: it runs the
    version before this one, which drops the fields of a tally that it does not know.
    """

    parts: frozenset[Part] = ALL_PARTS
    skew_seconds: float = 0.0
    old: bool = False
