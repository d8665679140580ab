"""A field that is `null` counts as not given: Jackson, .NET and Go write nulls for what a program did not set.

Only a payload that was refused is looked at, so a payload without nulls pays nothing. A `null` stays a problem where
the field is required, and where it is no field: an entry of `metadata`, an item of a list.
"""

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_json

# A payload has fewer fields. One with more problems is hostile, and reading it twice would cost twice.
MOST_PROBLEMS = 64


def refused_for_null(error: ValidationError) -> bool:
    """Whether one of the problems is a `null`."""
    if error.error_count() > MOST_PROBLEMS:
        return False
    return any(problem["input"] is None for problem in error.errors(include_url=False, include_context=False))


def without_nulls(kind: type[BaseModel], body: bytes) -> bytes:
    """`body`, which is JSON, without each `null` of a field that has a default."""
    read = from_json(body)
    return to_json(_stripped(kind, read)) if isinstance(read, dict) else body


def _stripped(kind: type[BaseModel], fields: dict[str, Any]) -> dict[str, Any]:
    kept = {}
    for name, value in fields.items():
        field = kind.model_fields.get(name)
        if value is None and field is not None and not field.is_required():
            continue
        inner = next(_models(field.annotation), None) if field is not None else None
        kept[name] = value if inner is None else _stripped_below(inner, value)
    return kept


def _stripped_below(kind: type[BaseModel], value: Any) -> Any:
    if isinstance(value, dict):
        return _stripped(kind, value)
    if isinstance(value, list):
        return [_stripped_below(kind, each) for each in value]
    return value


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a field's type names, such as `X` in `tuple[X, ...]`. Any: a type's annotation has no type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)
