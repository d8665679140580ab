"""Mistakes in the code under test that the simulation has found and that are not mended yet. Counted, told, and not failed for.

Whoever mends one takes its line out. An empty table is the aim.
"""

from dataclasses import dataclass

from tests.simulation.invariants import Invariant, Violation


@dataclass(frozen=True, slots=True)
class Known:
    """`words` are in the detail of such a violation; `why` says where the mistake is."""

    invariant: Invariant
    words: str
    why: str


KNOWN = (
    Known(
        Invariant.ONE_ENDING,
        "for a stranger's hold on its Msg-Id ran out",
        "handlers/perform.py: an ending stored under its second Msg-Id is stored again under the first, if a stranger's hold on that "
        "runs out before whoever stored it has marked it",
    ),
)


def known(violation: Violation) -> Known | None:
    found = (one for one in KNOWN if one.invariant is violation.invariant and one.words in violation.detail)
    return next(found, None)
