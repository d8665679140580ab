"""What each `error_type` means: one table for balancer, breakers, readiness, metrics and documents. Pure."""

from collections.abc import Mapping
from enum import StrEnum, auto
from typing import NamedTuple

from parley.broker.core.messages import ErrorType


class Signal(StrEnum):
    """What the end of a call says of its endpoint."""

    ALIVE = auto()  # the server answered, if only to refuse
    DEAD = auto()  # nothing answered
    AMBIGUOUS = auto()  # the request itself may be the cause
    SLOW = auto()  # a probe still waited when its time was up
    IGNORED = auto()  # the call was cancelled, or cut short by its own deadline


class ErrorPolicy(NamedTuple):
    """One row of the table.

    `meaning`: what happened. `retried`: whether the call is repeated, within its attempts and its deadline.
    `acts`: the person to act on it, and what to change. `retry_note`: what the contract adds to `retried`.
    `signal`: what the error says of the endpoint's health. `timeout`: the error is that a time limit passed.
    `final`: every call to this endpoint would fail alike, so one such endpoint makes the service unready.
    """

    meaning: str
    retried: bool
    signal: Signal
    acts: str
    retry_note: str = ""
    timeout: bool = False
    final: bool = False


# Packed by hand: the formatter would give each argument a line of its own.
# fmt: off
POLICIES: Mapping[ErrorType, ErrorPolicy] = {
    ErrorType.RATE_LIMITED: ErrorPolicy("HTTP 429", retried=True,
        retry_note="with `Retry-After`: at another endpoint, or after it",
        signal=Signal.ALIVE, acts="operator: more capacity"),
    ErrorType.SERVER_ERROR: ErrorPolicy(
        "HTTP 408, 409, 424, 425, 498, 499 or 5xx, an error inside an answer, or an answer that the server gave up",
        retried=True, signal=Signal.AMBIGUOUS, acts="operator"),
    ErrorType.CONNECTION_FAILED: ErrorPolicy("no connection: refused, timed out, no such host, or no TLS",
        retried=True, retry_note="at the next endpoint", signal=Signal.DEAD, acts="operator"),
    ErrorType.CONNECTION_LOST: ErrorPolicy("the connection closed before the answer was complete",
        retried=True, signal=Signal.DEAD, acts="operator"),
    ErrorType.FIRST_BYTE_TIMEOUT: ErrorPolicy(
        "a streamed call got no headers within `PARLEY_VLLM_FIRST_BYTE_TIMEOUT_SECONDS`", retried=True,
        signal=Signal.DEAD, acts="operator", timeout=True),
    # The server may hang, or the answer may be long.
    ErrorType.TOTAL_TIMEOUT: ErrorPolicy("one call took longer than `PARLEY_VLLM_TOTAL_TIMEOUT_SECONDS`",
        retried=True, signal=Signal.AMBIGUOUS, acts="operator", timeout=True),
    ErrorType.MALFORMED_ANSWER: ErrorPolicy(
        "the answer is not JSON, a web page say, has no choices, or is too large to pass on", retried=True,
        signal=Signal.ALIVE, acts="operator"),
    ErrorType.CONTEXT_TOO_LONG: ErrorPolicy("the prompt does not fit the model's context: by the error's code or words, or HTTP 413",
        retried=False, signal=Signal.ALIVE, acts="caller"),
    ErrorType.BAD_REQUEST: ErrorPolicy("another HTTP 4xx", retried=False, signal=Signal.ALIVE, acts="caller"),
    ErrorType.UNAUTHORIZED: ErrorPolicy("HTTP 401 or 403", retried=False, signal=Signal.ALIVE,
        acts="operator: `VLLM_API_KEY`", final=True),
    ErrorType.MODEL_NOT_FOUND: ErrorPolicy("HTTP 404, or a redirect that is not followed", retried=False, signal=Signal.ALIVE,
        acts="caller or operator", final=True),
    ErrorType.EMPTY_ANSWER: ErrorPolicy("the model answered with no text", retried=False, signal=Signal.ALIVE,
        acts="caller: `max_tokens`, the prompt"),
    # The caller chose how much time a call gets.
    ErrorType.DEADLINE_EXCEEDED: ErrorPolicy(
        "the deliberation's deadline passed; the agent counts as missing", retried=False,
        signal=Signal.IGNORED, acts="caller: `timeout_seconds`", timeout=True),
    ErrorType.CANCELLED: ErrorPolicy("the deliberation was cancelled, or ended without this agent",
        retried=False, signal=Signal.IGNORED, acts="nobody"),
    ErrorType.INVALID_BALLOT: ErrorPolicy(
        "a judge answered, and ranked none or not all of what it was shown", retried=True,
        retry_note="once, by the same judge, with more room", signal=Signal.ALIVE,
        acts="operator: structured outputs, a stronger model"),
    ErrorType.INVALID_OUTPUT: ErrorPolicy(
        "the answer is not what its `response_format` asks for", retried=True,
        retry_note="once, by the same agent, with another seed", signal=Signal.ALIVE,
        acts="caller: `max_tokens`, the prompt; operator: structured outputs, a stronger model"),
    ErrorType.TOOL_CALL: ErrorPolicy("the model asked for a tool instead of answering; its calls are in `tool_calls`",
        retried=False, signal=Signal.ALIVE, acts="caller: Parley runs no tools"),
    ErrorType.INTERNAL_ERROR: ErrorPolicy("a bug in Parley; the work is in `DEAD_LETTERS`", retried=False,
        retry_note="but the work is delivered up to five times", signal=Signal.IGNORED,
        acts="Parley's developers"),
}
# fmt: on
