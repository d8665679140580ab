"""How late an ending may be: a second past its deadline, and what the faults that struck it cost."""

from collections.abc import Iterable

from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import PUBLISH_TIMEOUT_SECONDS
from parley.handlers.deadline_rearm import LEAST_SWEEP_SECONDS
from parley.handlers.overdue_deadlines import MARKING_SECONDS
from tests.simulation.faults import TWO_HANDS, Kind, Struck

PROMISED_SECONDS = 1.0
# A process killed is replaced after at most this long.
RESTART_SECONDS = 3.0
# After a step that failed the message is delivered again after 0.5 s, 1 s, 2 s, 4 s.
_RETRY_SECONDS = 4.0
_REDELIVERY_SECONDS = topology.QUICK_ACK_WAIT_SECONDS + 1.0
# A subscriber with room for one message has none until it gives up one that was lost on its way, or its lost request:
# after two seconds, looked at once a second.
_OVERDUE_SECONDS = 3.5
# What no message reminds of is found by the sweep, and its deadline comes once the mark is overdue.
NOTICED_SECONDS = LEAST_SWEEP_SECONDS + MARKING_SECONDS + 5.0
_UNANSWERED_SECONDS = PUBLISH_TIMEOUT_SECONDS + _RETRY_SECONDS + 1.0


def allowed(struck: Iterable[Struck], deadline: float) -> float:
    """Seconds after the deadline. A fault whose cost was over before the deadline adds nothing."""
    struck = tuple(struck)
    # Only a message that two processes had at once may leave anything to the sweep: every other loss has to be repaired
    # by a redelivery, a deadline or the sweep at a start.
    noticed = NOTICED_SECONDS if any(one.fault.kind in TWO_HANDS for one in struck) else 0.0
    return PROMISED_SECONDS + noticed + sum(max(0.0, _cost(one) - _spare(one, deadline)) for one in struck)


def _spare(struck: Struck, deadline: float) -> float:
    # A timer is made late when it is armed, and is late at the deadline.
    return 0.0 if struck.fault.kind is Kind.LATE_TIMER else max(0.0, deadline - struck.at)


def _cost(struck: Struck) -> float:
    seconds = struck.fault.seconds
    match struck.fault.kind:
        case Kind.KILL_BEFORE | Kind.KILL_AFTER:
            return _REDELIVERY_SECONDS + RESTART_SECONDS
        case Kind.PAUSE_BEFORE | Kind.PAUSE_AFTER:
            return seconds + _REDELIVERY_SECONDS
        case Kind.LOSE_REQUEST | Kind.LOSE_ANSWER | Kind.DELAY:
            return _UNANSWERED_SECONDS
        case Kind.OUTAGE:
            return seconds + _UNANSWERED_SECONDS
        case Kind.LATE_TIMER:
            return seconds
        case Kind.LOSE_PULL:
            return _OVERDUE_SECONDS
        case Kind.LOSE_DELIVERY | Kind.LATE_DELIVERY:
            return max(seconds, _OVERDUE_SECONDS) + _REDELIVERY_SECONDS
        case _:
            return 0.5
