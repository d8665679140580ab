"""Mistakes in the code under test that the simulation has found and that are not mended yet. Counted, told, and not
failed for.

Whoever mends one takes its line out. An empty table is the aim.
"""

from dataclasses import dataclass

from tests.simulation.invariants import Invariant, Violation


@dataclass(frozen=True, slots=True)
class Known:
    """`words` are in the detail of such a violation; `why` says where the mistake is. `condition`: of the histories
    that show it, None: of any."""

    invariant: Invariant
    words: str
    why: str
    condition: str | None = None


KNOWN: tuple[Known, ...] = ()


def known(violation: Violation, condition: str) -> Known | None:
    found = (
        one
        for one in KNOWN
        if one.invariant is violation.invariant
        and one.words in violation.detail
        and one.condition in (None, condition)
    )
    return next(found, None)
