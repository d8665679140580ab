"""The states a deliberation can be in, and every legal move between them, as one table.

`react` (reactions.py) decides where a deliberation goes, and takes every new state from `move`, which refuses a move that
is not in the table. docs/architecture.md draws its state diagram from the table, so the picture cannot disagree with
the code.
"""

from collections.abc import Mapping
from enum import StrEnum


class State(StrEnum):
    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    REJECTED = "rejected"


class Cause(StrEnum):
    """Why a deliberation moves."""

    REQUESTED = "requested"
    REFUSED = "refused"
    REPORTED = "agent reported"
    LIMIT = "phase limit"
    DEADLINE = "deadline"
    CANCEL = "cancel"
    ABANDONED = "abandoned"


ENDINGS = frozenset({State.COMPLETED, State.FAILED, State.TIMEOUT, State.CANCELLED, State.REJECTED})
# The contract's word for each, in the answer to `deliberation.get` and in the command.
STATUS_WORDS: dict[State, str] = {
    State.PENDING: "PENDING",
    State.IN_PROGRESS: "IN_PROGRESS",
    State.COMPLETED: "COMPLETED",
    State.FAILED: "FAILED",
    State.TIMEOUT: "TIMEOUT",
    State.CANCELLED: "FAILED",
    State.REJECTED: "FAILED",
}
ENDED_STATUSES = frozenset(STATUS_WORDS[state] for state in ENDINGS)

# (state, cause) → the states it may lead to. None: not recorded yet. No move leaves an ending.
MOVES: Mapping[tuple[State | None, Cause], frozenset[State]] = {
    (None, Cause.REQUESTED): frozenset({State.PENDING, State.TIMEOUT}),
    (None, Cause.REFUSED): frozenset({State.REJECTED}),
    (None, Cause.ABANDONED): frozenset({State.FAILED}),
    (State.PENDING, Cause.REPORTED): frozenset({State.IN_PROGRESS, State.COMPLETED, State.FAILED}),
    (State.PENDING, Cause.DEADLINE): frozenset({State.TIMEOUT}),
    (State.PENDING, Cause.CANCEL): frozenset({State.CANCELLED}),
    (State.PENDING, Cause.ABANDONED): frozenset({State.FAILED}),
    (State.IN_PROGRESS, Cause.REPORTED): frozenset({State.IN_PROGRESS, State.COMPLETED, State.FAILED}),
    (State.IN_PROGRESS, Cause.LIMIT): frozenset({State.IN_PROGRESS, State.COMPLETED}),
    (State.IN_PROGRESS, Cause.DEADLINE): frozenset({State.COMPLETED, State.TIMEOUT}),
    (State.IN_PROGRESS, Cause.CANCEL): frozenset({State.CANCELLED}),
    (State.IN_PROGRESS, Cause.ABANDONED): frozenset({State.FAILED}),
}


class IllegalMove(Exception):
    """A move that is not in the table: a bug in `react`."""


def move(state: State | None, cause: Cause, to: State) -> State:
    """`to`, if the table allows it. Raises IllegalMove otherwise."""
    if to not in MOVES.get((state, cause), frozenset()):
        raise IllegalMove(f"{state} may not become {to} because of {cause}")
    return to
