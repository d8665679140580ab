"""What must be so, whatever dies. Each has a number, a name, and one line of plain words; `watch` checks them."""

from enum import Enum


class Invariant(Enum):
    """(number, when it is checked, what must be so)."""

    ONE_ENDING = (1, "each step", "an accepted request has at most one ending in the stream")
    AN_ENDING = (2, "at rest", "an accepted request has exactly one ending, and its tally is marked with it")
    IN_TIME = (
        3,
        "each step",
        "an ending is stored no later than its deadline and a second, faults' own costs added",
    )
    AGREES = (
        4,
        "each step",
        "an ending says what its tally decided, and the tally decided as the contract says",
    )
    ABSORBS = (
        5,
        "each step",
        "a tally that has ended never changes but for its mark, and moves only as the table of states allows",
    )
    EFFECTS_FIRST = (6, "each step", "no message is acknowledged before what follows from it is stored")
    COUNTED_ONCE = (
        7,
        "each step",
        "a tally counts stored outcomes of its own agents, each once, and loses none it counted",
    )
    COMES_TO_REST = (
        8,
        "at rest",
        "every message ends acknowledged or in dead letters; none is handed out for ever",
    )
    MARK_KEPT = (9, "each step", "the mark names the ending's place, is set once, and is never lost")
    HEARD_ONCE = (
        10,
        "each step",
        "core NATS carries an ending twice only where a fault struck or two messages that may have decided it came together",
    )
    HEARD = (11, "each step", "who gave an inbox has been sent the ending before it is marked")
    RECORD_FIRST = (
        12,
        "each step",
        "no agent is asked and no deadline armed before the deliberation is recorded",
    )
    NOT_LOST = (
        13,
        "each step",
        "a request is acknowledged only if it is recorded, refused aloud, or its name was taken",
    )
    NO_BUG = (14, "each step", "no handler fails but by a broker that is away")
    STATUS_TRUE = (
        15,
        "each step",
        "a question is answered with an ending only once it is stored, and with that one",
    )
    ROOM_ASKED = (
        16,
        "each step",
        "a subscriber asks for no more than it has room for, and asks anew once its connection is back",
    )

    @property
    def number(self) -> int:
        return int(self.value[0])

    @property
    def words(self) -> str:
        return str(self.value[2])

    def __str__(self) -> str:
        return f"I{self.number} ({self.name.lower().replace('_', ' ')}): {self.words}"


class Violation(Exception):
    """An invariant does not hold."""

    def __init__(self, invariant: Invariant, detail: str) -> None:
        super().__init__(invariant, detail)
        self.invariant = invariant
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.invariant}\n      but {self.detail}"


def holds(invariant: Invariant, so: bool, detail: str) -> None:
    if not so:
        raise Violation(invariant, detail)
