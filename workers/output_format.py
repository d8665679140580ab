"""Reads an answer that was to be JSON: whether it is what was asked for, and its text without a fence.

The schema is the caller's and the answer a model's, so reading them together is bounded: in steps, and each pattern in
time. `format` is not checked, as in JSON Schema's own default.
"""

from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import cache
from typing import Any

import regex
from jsonschema import Draft202012Validator
from jsonschema.exceptions import UnknownType, ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend, validator_for
from pydantic_core import from_json, to_json
from referencing.exceptions import Unresolvable

from parley.broker.core.messages.response_format import schema_of

# A step is a keyword of the schema at a value, one for each name or item that it looks at. An answer of 4 KiB takes
# hundreds; so many take half a second.
MAX_STEPS = 100_000
PATTERN_SECONDS = 0.1
# Of what is wrong with an answer, so much is told: it quotes the answer.
MAX_SHOWN_CHARACTERS = 200

_Check = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]
_left: ContextVar[list[int]] = ContextVar("_left")


class InvalidOutput(ValueError):
    """An answer is not what was asked for. The text says how."""


class UnusableSchema(ValueError):
    """No answer can be read by this schema. The text says why."""


class TooMuch(Exception):
    """The steps are used up."""


# What the library meets in a schema that is none. To check each schema first would take longer than to read an answer.
_UNUSABLE = (UnknownType, Unresolvable, regex.error, TypeError, AttributeError, ValueError)


def read_output(text: str, response_format: Mapping[str, Any]) -> str:
    """The JSON that the text is, alone or in a fence. Raises InvalidOutput, UnusableSchema. Takes up to a second."""
    found = _without_fence(text.strip())
    try:
        value = from_json(found, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidOutput(f"is no JSON: {error}") from error
    schema = schema_of(response_format)
    if schema is None:
        if not isinstance(value, dict):
            raise InvalidOutput("is JSON, and no object")
        return found
    problem = _first_problem(schema, value)
    if problem is not None:
        raise InvalidOutput(f"does not follow the schema: {problem}")
    return found


def _without_fence(text: str) -> str:
    if not text.startswith("```") or not text.endswith("```"):
        return text
    _, _, rest = text.partition("\n")
    return rest.removesuffix("```").strip()


def _first_problem(schema: Mapping[str, Any], value: Any) -> str | None:
    token = _left.set([MAX_STEPS])
    try:
        kind = _counting(validator_for(schema, default=Draft202012Validator))
        errors: Iterator[ValidationError | None] = iter(kind(schema).iter_errors(value))
        error = next(errors, None)
    except TooMuch:
        return f"it takes more than {MAX_STEPS} steps to tell"
    except TimeoutError:
        return "a pattern of the schema takes too long to tell"
    except RecursionError:
        return "it is nested too deeply to tell"
    except _UNUSABLE as problem:
        told = f"response_format: the schema cannot be used: {str(problem)[:MAX_SHOWN_CHARACTERS]}"
        raise UnusableSchema(told) from problem
    finally:
        _left.reset(token)
    if error is None:
        return None
    return f"{error.json_path}: {error.message[:MAX_SHOWN_CHARACTERS]}"


@cache
def _counting(kind: type[Validator]) -> type[Validator]:
    """The same dialect, counting its steps."""
    checks: dict[str, Any] = {**kind.VALIDATORS, "pattern": _pattern, "uniqueItems": _unique_items}
    counting: type[Validator] = extend(kind, {name: _counted(check) for name, check in checks.items()})  # type: ignore[no-untyped-call]
    return counting


def _counted(check: _Check) -> _Check:
    def counted(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[ValidationError] | None:
        left = _left.get()
        left[0] -= 1 + _size(wanted) + _size(value)
        if left[0] < 0:
            raise TooMuch
        return check(validator, wanted, value, schema)

    return counted


def _size(value: Any) -> int:
    return len(value) if isinstance(value, dict | list) else 0


def _pattern(_: Any, pattern: str, value: Any, __: Any) -> Iterator[ValidationError]:
    # Python's own `re` cannot be stopped.
    if isinstance(value, str) and not regex.search(pattern, value, timeout=PATTERN_SECONDS):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


def _unique_items(_: Any, wanted: Any, value: Any, __: Any) -> Iterator[ValidationError]:
    # The library compares each item with each.
    if wanted and isinstance(value, list) and len({to_json(_in_order(item)) for item in value}) < len(value):
        yield ValidationError("has the same item twice")


def _in_order(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _in_order(value[name]) for name in sorted(value)}
    return [_in_order(item) for item in value] if isinstance(value, list) else value
