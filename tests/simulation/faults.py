"""What goes wrong in a history: at the n-th step of all, or the n-th of a kind, something is lost, late, doubled,
paused or dies."""

import random
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    KILL_BEFORE = "killed before a step"
    KILL_AFTER = "killed between a step and its answer"
    PAUSE_BEFORE = "stopped before a step"
    PAUSE_AFTER = "stopped between a step and its answer"
    LOSE_REQUEST = "step lost"
    LOSE_ANSWER = "answer lost"
    DELAY = "step delayed"
    OUTAGE = "broker away"
    LOSE_DELIVERY = "delivery lost"
    LATE_DELIVERY = "delivery late"
    DOUBLE_DELIVERY = "delivery doubled"
    EARLY_TIMER = "deadline fired early"
    LATE_TIMER = "deadline fired late"
    LOSE_PARCEL = "job lost on its way to an actor"
    LATE_PARCEL = "job late at its actor"
    DOUBLE_PARCEL = "job twice at its actor"
    LOSE_PULL = "pull request lost"
    EXPIRE_PULL = "pull request expired"


# Kinds of steps, as `link.label` names them, that a fault may be aimed at. "" is any step.
STEPS = (
    "tally", "mark", "timer", "work", "outcome", "ending", "dead letter", "read", "info", "ack", "nak",
    "stop", "inbox",
)  # fmt: skip
# Those that most histories have come more often.
_OFTEN = (*STEPS, *("tally", "mark", "timer", "work", "outcome", "ending", "ack") * 2)
AT_STEPS = (
    Kind.KILL_BEFORE, Kind.KILL_BEFORE, Kind.KILL_AFTER, Kind.KILL_AFTER, Kind.KILL_AFTER, Kind.PAUSE_BEFORE, Kind.PAUSE_AFTER,
    Kind.LOSE_REQUEST, Kind.LOSE_ANSWER, Kind.LOSE_ANSWER, Kind.DELAY, Kind.OUTAGE,
)  # fmt: skip
_AT_DELIVERIES = (Kind.LOSE_DELIVERY, Kind.LATE_DELIVERY, Kind.DOUBLE_DELIVERY)
_AT_TIMERS = (Kind.EARLY_TIMER, Kind.LATE_TIMER)
_AT_PARCELS = (Kind.LOSE_PARCEL, Kind.LATE_PARCEL, Kind.DOUBLE_PARCEL)
_AT_PULLS = (Kind.LOSE_PULL, Kind.EXPIRE_PULL)
# By which a message can be in two hands at once, or a step be done after its message was settled by another.
TWO_HANDS = frozenset({Kind.LATE_DELIVERY, Kind.DOUBLE_DELIVERY, Kind.DELAY})
# Seconds that a stop, a delay or an absence may last: below and above each `ack_wait`, a PubAck's timeout, and the
# time for which a fan-out's Msg-Ids are remembered. Below `keep_seconds`: a process stopped for longer than tallies
# are kept may run a request again.
_DURATIONS = (0.05, 0.7, 1.5, 3.0, 6.0, 12.0, 40.0, 150.0)
# A history of one deliberation has about this many steps.
_STEPS_EACH = 32


@dataclass(frozen=True, slots=True)
class Fault:
    kind: Kind
    label: str
    nth: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.kind} at {self.label or 'step'} {self.nth}, {self.seconds:g} s"


@dataclass(frozen=True, slots=True)
class Struck:
    fault: Fault
    label: str
    at: float
    victim: str


class Faults:
    """The plan, and what of it has struck."""

    def __init__(self, plan: list[Fault]) -> None:
        self._plan = {(fault.label, fault.nth): fault for fault in plan}
        self._seen: Counter[str] = Counter()
        self.struck: list[Struck] = []

    def meets(self, label: str, victim: str, now: float) -> Fault | None:
        """The fault that waits for this step, if one does."""
        self._seen[label] += 1
        fault = self._plan.get((label, self._seen[label]))
        if label in STEPS:
            self._seen[""] += 1
            fault = fault or self._plan.get(("", self._seen[""]))
        if fault is not None:
            self.struck.append(Struck(fault, label, now, victim))
        return fault


def planned(rng: random.Random, deliberations: int) -> list[Fault]:
    """Up to four faults; one history in eight has none."""
    return [_one(rng, deliberations) for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3, 4)))]


def _one(rng: random.Random, deliberations: int) -> Fault:
    seconds = rng.choice(_DURATIONS)
    lot = rng.random()
    if lot < 0.08:
        return Fault(rng.choice(_AT_TIMERS), "schedule", rng.randint(1, 2 * deliberations), seconds)
    if lot < 0.22:
        return Fault(rng.choice(_AT_DELIVERIES), "delivery", rng.randint(1, 12 * deliberations), seconds)
    if lot < 0.5:
        return Fault(rng.choice(AT_STEPS), "", rng.randint(1, _STEPS_EACH * deliberations), seconds)
    label = rng.choice(_OFTEN)
    few = (
        1 + deliberations
        if label in ("ending", "mark", "timer", "stop", "inbox", "dead letter")
        else 4 * deliberations
    )
    return Fault(rng.choice(AT_STEPS), label, rng.randint(1, few), seconds)


def parcels(rng: random.Random, deliberations: int) -> list[Fault]:
    """What becomes of jobs on their way to an actor, in half of the histories. Apart from the plan, for no invariant
    is loosened by it."""
    count = rng.choice((0, 0, 1, 2))
    return [
        Fault(rng.choice(_AT_PARCELS), "parcel", rng.randint(1, 4 * deliberations), rng.choice(_DURATIONS))
        for _ in range(count)
    ]


def pulls(rng: random.Random, deliberations: int) -> list[Fault]:
    """What becomes of pull requests, in one history of three. Of dice of their own."""
    count = rng.choice((0, 0, 1))
    return [
        Fault(rng.choice(_AT_PULLS), "pull", rng.randint(1, 30 * deliberations), 0.0) for _ in range(count)
    ]
