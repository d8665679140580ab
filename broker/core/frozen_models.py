"""Frozen pydantic models, made without a look at what is known to be right: one of valid values, one with other values in
some of its fields, and many that share the names of those fields that were given. For models without private attributes
and extra fields, which ours are. Pure."""

from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel

AnyModel = TypeVar("AnyModel", bound=BaseModel)
_set = object.__setattr__


def made(kind: type[AnyModel], **fields: Any) -> AnyModel:
    """As `kind(**fields)` where each value is known to be a valid one, in a quarter of the time (measured). Defaults are
    shared, and count as given. Raises TypeError for a field that is missing or unknown."""
    defaults, required = _defaults(kind)
    names, values = _all_names(kind), {**defaults, **fields}
    if len(values) != len(names) or not required <= fields.keys():
        raise TypeError(f"{kind.__name__} is not made of {', '.join(fields)}")
    model = object.__new__(kind)
    _set(model, "__dict__", values)
    _set(model, "__pydantic_fields_set__", names)
    _set(model, "__pydantic_extra__", None)
    _set(model, "__pydantic_private__", None)
    return model


def changed(model: AnyModel, /, **fields: Any) -> AnyModel:
    """As `model.model_copy(update=fields)`, in a third of the time (measured): each outcome copies its tally several
    times."""
    given = model.__pydantic_fields_set__
    copy = object.__new__(type(model))
    _set(copy, "__dict__", {**model.__dict__, **fields})
    _set(copy, "__pydantic_fields_set__", given if given >= fields.keys() else given | fields.keys())
    _set(copy, "__pydantic_extra__", None)
    _set(copy, "__pydantic_private__", None)
    return copy


def with_shared_names(model: AnyModel) -> AnyModel:
    """The model, without a set of its own of the fields that were given if these are all: 2 KiB for 26 (measured).
    Thousands of messages are held at a time, and each was sent whole."""
    all_names = _all_names(type(model))
    if len(model.__pydantic_fields_set__) == len(all_names):
        _set(model, "__pydantic_fields_set__", all_names)
    return model


@cache
def _defaults(kind: type[BaseModel]) -> tuple[dict[str, Any], frozenset[str]]:
    """The values of fields that have a default, and the names of those that have none."""
    fields = kind.model_fields
    required = frozenset(name for name, field in fields.items() if field.is_required())
    defaults = {
        name: field.get_default(call_default_factory=True)
        for name, field in fields.items()
        if name not in required
    }
    return defaults, required


@cache
def _all_names(kind: type[BaseModel]) -> set[str]:
    return set(kind.model_fields)
