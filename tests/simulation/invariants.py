"""What must hold, whatever process dies. `watch` checks it."""

from enum import Enum


class Invariant(Enum):
    """(number, when it is checked, what must hold)."""

    ONE_ENDING = (1, "each step", "an accepted request has at most one ending in the stream")
    AN_ENDING = (2, "at rest", "an accepted request has exactly one ending, and its tally is marked with it")
    IN_TIME = (
        3,
        "each step",
        "an ending is stored within a second after its deadline, plus what the faults cost",
    )
    AGREES = (
        4,
        "each step",
        "an ending says what its tally decided, and the tally decided as the contract says",
    )
    ABSORBS = (
        5,
        "each step",
        "a tally moves only as the table of states allows, and changes after its end only by its mark",
    )
    EFFECTS_FIRST = (6, "each step", "no message is acknowledged before its effects are stored")
    COUNTED_ONCE = (
        7,
        "each step",
        "a tally counts stored outcomes of its own agents, each once, and loses none it counted",
    )
    COMES_TO_REST = (8, "at rest", "every message is acknowledged in the end or in DEAD_LETTERS")
    MARK_KEPT = (9, "each step", "the mark names the ending's sequence, is set once, and is never lost")
    HEARD_ONCE = (
        10,
        "each step",
        "core NATS carries an ending twice only after a fault, or if two messages that may have decided it meet",
    )
    HEARD = (11, "each step", "the ending is sent to the requester's inbox before it is marked")
    RECORD_FIRST = (
        12,
        "each step",
        "no agent is requested and no deadline armed before the deliberation is recorded",
    )
    NOT_LOST = (
        13,
        "each step",
        "a request is acknowledged only if it is recorded, refused with an ending, or its task_id is taken",
    )
    NO_BUG = (14, "each step", "no handler fails, except while NATS is away")
    STATUS_TRUE = (15, "each step", "a query is answered with an ending only once that is stored")
    WITHIN_SLOTS = (16, "each step", "no actor runs more jobs than it has slots")
    HANDED_OVER = (
        17,
        "each step",
        "a job lost on its way to an actor is soon sent again, and a dead actor's jobs are given back",
    )
    ROOM_ASKED = (
        18,
        "each step",
        "a subscriber asks for no more than it has room for, and asks anew once its connection is back",
    )
    ONE_CLOCK = (
        19,
        "each step",
        "an ending is decided at the server's instant, whatever a process's own clock says",
    )
    WHOLE = (
        20,
        "each step",
        "an ending's results are in it or in the object that it names, unless neither takes them",
    )
    WITHIN_MEMORY = (
        21,
        "each step",
        "no process has more bytes in hand than its subscribers' limits together",
    )

    PHASES_IN_ORDER = (
        22,
        "each step",
        "phases come in the order of the plan, each is opened by the write that closes the one before, and the last is open",
    )
    PHASE_ONCE = (23, "each step", "a closed phase never changes")
    RIGHT_PHASE = (
        24,
        "each step",
        "an outcome is counted in the phase that it names, by an agent asked there",
    )
    LIMITS = (
        25,
        "each step",
        "a limit is within its phase and the deadline; it moves to the deadline where too little came, or nothing can follow",
    )
    WHOLE_BALLOT = (26, "each step", "a counted ballot ranks each answer that its judge was shown once")
    CHOICE = (
        27,
        "each step",
        "the choice is what the counted ballots say, is stored once, and the ending repeats it",
    )
    DEGRADED_TELLS = (
        28,
        "each step",
        "a completed ending is degraded exactly if something planned is missing, and each gap is told once",
    )
    ASKED = (29, "each step", "who opened a phase has requested all its work before it is acknowledged")
    STOPPED = (
        30,
        "each step",
        "who closed a phase has told the calls that still run for it to stop before it is acknowledged",
    )

    COST = (
        31,
        "each step",
        "an ending's calls and attempts are those of the outcomes that its phases counted",
    )
    BLIND = (32, "each step", "nobody who compares answers is shown an agent's id, its persona or its model")
    NOT_OWN = (33, "each step", "nobody ranks an answer of its own, or the same one of another")
    SYNTHESIS = (
        34,
        "each step",
        "an editor's text is the answer only where most of the judges asked prefer it to the winner's",
    )
    ROUNDS = (
        35,
        "each step",
        "who revises is shown its own answer and two others at most, all different, each at its place",
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
