"""What each `error_type` means: one table, from which agents, breakers, readiness, metrics and the documents read. Pure."""

from collections.abc import Mapping
from enum import StrEnum, auto
from typing import NamedTuple

from parley.broker.core.messages import ErrorType


class Signal(StrEnum):
    """What the end of a call says of its endpoint, whatever it says of the call."""

    ALIVE = auto()  # the server answered, if only to refuse
    DEAD = auto()  # nothing answered
    AMBIGUOUS = auto()  # the request itself may be the cause
    SLOW = auto()  # a probe still waited when its time was up
    IGNORED = auto()  # the call was cancelled, or cut short by its own deadline


class Actor(StrEnum):
    """Who should act on an error."""

    CALLER = auto()
    OPERATOR = auto()
    NOBODY = auto()


class ErrorPolicy(NamedTuple):
    """`retried`: by the agent, within its deadline and attempts. `signal`: what it says of the endpoint's health.

    `final`: every call of every agent to this endpoint would end so, so one such endpoint makes the service not ready.
    """

    meaning: str
    retried: bool
    signal: Signal
    acts: Actor
    final: bool = False


POLICIES: Mapping[ErrorType, ErrorPolicy] = {
    ErrorType.RATE_LIMITED: ErrorPolicy(
        "The model server answered 429 at every attempt.", True, Signal.ALIVE, Actor.OPERATOR
    ),
    ErrorType.SERVER_ERROR: ErrorPolicy(
        "The model server answered 5xx, or broke off its answer.", True, Signal.AMBIGUOUS, Actor.OPERATOR
    ),
    ErrorType.CONNECTION_FAILED: ErrorPolicy(
        "No connection to the model server could be opened.", True, Signal.DEAD, Actor.OPERATOR
    ),
    ErrorType.CONNECTION_LOST: ErrorPolicy(
        "The connection was closed before the answer was complete.", True, Signal.DEAD, Actor.OPERATOR
    ),
    ErrorType.FIRST_BYTE_TIMEOUT: ErrorPolicy(
        "The model server sent nothing within the time for the first byte.", True, Signal.DEAD, Actor.OPERATOR
    ),
    ErrorType.TOTAL_TIMEOUT: ErrorPolicy(
        "The answer was not complete within the time for one call.", True, Signal.AMBIGUOUS, Actor.OPERATOR
    ),
    ErrorType.CONTEXT_TOO_LONG: ErrorPolicy(
        "Prompt and answer do not fit into the model's context.", False, Signal.ALIVE, Actor.CALLER
    ),
    ErrorType.BAD_REQUEST: ErrorPolicy(
        "The model server refused the request.", False, Signal.ALIVE, Actor.CALLER
    ),
    ErrorType.UNAUTHORIZED: ErrorPolicy(
        "The model server refused the key.", False, Signal.ALIVE, Actor.OPERATOR, final=True
    ),
    ErrorType.MODEL_NOT_FOUND: ErrorPolicy(
        "The model server does not serve this model.", False, Signal.ALIVE, Actor.OPERATOR, final=True
    ),
    ErrorType.EMPTY_ANSWER: ErrorPolicy("The model answered nothing.", False, Signal.ALIVE, Actor.CALLER),
    ErrorType.MALFORMED_ANSWER: ErrorPolicy(
        "The answer could not be read, or is too large.", True, Signal.ALIVE, Actor.OPERATOR
    ),
    ErrorType.DEADLINE_EXCEEDED: ErrorPolicy(
        "The deliberation's deadline passed first.", False, Signal.IGNORED, Actor.CALLER
    ),
    ErrorType.CANCELLED: ErrorPolicy(
        "The deliberation was ended first.", False, Signal.IGNORED, Actor.NOBODY
    ),
    ErrorType.INTERNAL_ERROR: ErrorPolicy(
        "A fault of Parley's own; the logs tell.", False, Signal.IGNORED, Actor.OPERATOR
    ),
}
