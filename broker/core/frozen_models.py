"""A frozen pydantic model with other values in some of its fields. Pure."""

from typing import Any, TypeVar

from pydantic import BaseModel

AnyModel = TypeVar("AnyModel", bound=BaseModel)
_set = object.__setattr__


def changed(model: AnyModel, **fields: Any) -> AnyModel:
    """As `model.model_copy(update=fields)`, in a third of the time (measured): for models without private attributes and
    extra fields, which ours are. Each outcome copies its tally several times."""
    copy = object.__new__(type(model))
    _set(copy, "__dict__", {**model.__dict__, **fields})
    _set(copy, "__pydantic_fields_set__", model.__pydantic_fields_set__ | fields.keys())
    _set(copy, "__pydantic_extra__", None)
    _set(copy, "__pydantic_private__", None)
    return copy
