"""Reads an answer that was to be JSON: whether it is what was asked for, and its text without a fence.

The schema is the caller's and the answer a model's, so reading them together is bounded in steps and in time, reads
nothing from anywhere else, and tells of them what fits into a line. The dialect is that of 2020-12, whatever the schema
says: others have keywords that `response_format` does not know. `format` is not checked, as in JSON Schema's own default.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import regex
from jsonschema import Draft202012Validator
from jsonschema.exceptions import UnknownType, ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend
from pydantic_core import from_json, to_json
from referencing import Registry
from referencing.exceptions import Unresolvable

from parley.broker.core.messages.response_format import schema_of
from parley.broker.core.messages.schema_pattern import pattern_parts

# A step is a keyword of the schema at a value, one for each name or item that it looks at. An answer of 4 KiB takes
# hundreds.
MAX_STEPS = 100_000
# Of one answer's reading, and of one pattern in it.
READ_SECONDS = 1.0
PATTERN_SECONDS = 0.1
# Letters of a value that count as a step.
STEP_CHARACTERS = 256
# Answers that are read at a time, in threads of their own: those of asyncio look up names of hosts.
AT_ONCE = 2
# Of what is wrong with an answer, so much is told: it quotes the answer.
MAX_SHOWN_CHARACTERS = 200

_Check = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]


class InvalidOutput(ValueError):
    """An answer is not what was asked for. The text says how."""


class UnusableSchema(ValueError):
    """No answer can be read by this schema. The text says why."""


class TooMuch(Exception):
    """The steps or the time are used up."""


@dataclass(slots=True)
class _Budget:
    steps: int
    end: float
    # Compiled for this answer. Not the library's own cache, which keeps 500 of whatever size for good.
    patterns: dict[str, "regex.Pattern[str]"] = field(default_factory=dict)

    def take(self, steps: int) -> None:
        self.steps -= steps
        if self.steps < 0 or time.monotonic() > self.end:
            raise TooMuch


_budget: ContextVar[_Budget] = ContextVar("_budget")
# What the library meets in a schema that is none. To check each schema first would take longer than to read an answer.
_UNUSABLE = (
    UnknownType,
    Unresolvable,
    UnusableSchema,
    regex.error,
    ZeroDivisionError,
    TypeError,
    AttributeError,
    ValueError,
)


async def read_in_thread(text: str, response_format: Mapping[str, Any]) -> str:
    """As `read_output`, beside other work."""
    return await asyncio.get_running_loop().run_in_executor(_threads(), read_output, text, response_format)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(AT_ONCE, "output-format")


def read_output(text: str, response_format: Mapping[str, Any]) -> str:
    """The JSON that the text is, alone or in a fence. Raises InvalidOutput, UnusableSchema. Takes up to a second or
    two."""
    found = _without_fence(text.strip())
    try:
        value = from_json(found, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidOutput(f"is no JSON: {_cut(error)}") from error
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
    # Under another `$schema` the library would leave this dialect, at each reference to the top. References are to places
    # in the schema, so an `$id` would only be an address to read wrongly.
    ours = {name: part for name, part in schema.items() if name not in ("$schema", "$id")}
    token = _budget.set(_Budget(MAX_STEPS, time.monotonic() + READ_SECONDS))
    try:
        # An empty registry: the default one reads what a reference names from the network, and from files.
        errors: Iterator[ValidationError | None] = iter(
            _dialect()(ours, registry=Registry()).iter_errors(value)
        )
        error = next(errors, None)
    except (TooMuch, TimeoutError):
        return "it takes too long to tell"
    except (RecursionError, OverflowError):
        return "it is nested too deeply to tell, or has numbers that are too large"
    except _UNUSABLE as problem:
        # Without the library's words: it quotes what it has read.
        raise UnusableSchema(
            f"response_format: the schema cannot be used ({type(problem).__name__})"
        ) from problem
    finally:
        _budget.reset(token)
    return None if error is None else _cut(f"{error.json_path[: MAX_SHOWN_CHARACTERS // 2]}: {error.message}")


def _cut(text: object) -> str:
    return str(text)[:MAX_SHOWN_CHARACTERS]


@cache
def _dialect() -> Callable[..., Validator]:
    """The library's, counting its steps, with what could take too long or too much memory replaced."""
    ours = {
        "pattern": _pattern,
        "uniqueItems": _unique_items,
        "anyOf": _any_of,
        "oneOf": _one_of,
        "patternProperties": _not_supported,
        "$dynamicRef": _not_supported,
    }
    checks: dict[str, Any] = {**Draft202012Validator.VALIDATORS, **ours}
    kind: Callable[..., Validator] = extend(  # type: ignore[no-untyped-call]
        Draft202012Validator, {name: _counted(check) for name, check in checks.items()}
    )
    return kind


def _counted(check: _Check) -> _Check:
    def counted(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[ValidationError] | None:
        _budget.get().take(1 + _size(wanted) + _size(value))
        return check(validator, wanted, value, schema)

    return counted


def _size(value: Any) -> int:
    if isinstance(value, str):
        return len(value) // STEP_CHARACTERS
    return len(value) if isinstance(value, dict | list) else 0


def _pattern(_: Any, pattern: str, value: Any, __: Any) -> Iterator[ValidationError]:
    if not isinstance(value, str):
        return
    compiled = _compiled(pattern)
    # Python's own `re` cannot be stopped.
    left = max(0.001, min(PATTERN_SECONDS, _budget.get().end - time.monotonic()))
    if not compiled.search(value, timeout=left):
        yield ValidationError(f"{_cut(repr(value[:MAX_SHOWN_CHARACTERS]))} does not match {pattern!r}")


def _compiled(pattern: str) -> "regex.Pattern[str]":
    """Raises UnusableSchema for a pattern whose size has no bound: to compile one cannot be stopped."""
    budget = _budget.get()
    if pattern not in budget.patterns:
        try:
            parts = pattern_parts(pattern)
        except ValueError as problem:
            raise UnusableSchema("a pattern that cannot be read, or is too large") from problem
        budget.take(parts)
        budget.patterns[pattern] = regex.compile(pattern, cache_pattern=False)
    return budget.patterns[pattern]


def _unique_items(_: Any, wanted: Any, value: Any, __: Any) -> Iterator[ValidationError]:
    # The library compares each item with each.
    if wanted and isinstance(value, list) and len({to_json(_in_order(item)) for item in value}) < len(value):
        yield ValidationError("has the same item twice")


# The library keeps an error for each branch, and in each error the value.
def _any_of(validator: Any, wanted: Any, value: Any, _: Any) -> Iterator[ValidationError]:
    if not any(_fits(validator, one, value) for one in wanted):
        yield ValidationError("is none of anyOf")


def _one_of(validator: Any, wanted: Any, value: Any, _: Any) -> Iterator[ValidationError]:
    fitting = sum(_fits(validator, one, value) for one in wanted)
    if fitting != 1:
        yield ValidationError(f"is {fitting or 'none'} of oneOf")


def _fits(validator: Any, schema: Any, value: Any) -> bool:
    return bool(validator.evolve(schema=schema).is_valid(value))


def _not_supported(*_: Any) -> Iterator[ValidationError]:
    raise UnusableSchema("not supported")


def _in_order(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _in_order(value[name]) for name in sorted(value)}
    return [_in_order(item) for item in value] if isinstance(value, list) else value
