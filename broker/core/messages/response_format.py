"""The form that an answer is to have, as in OpenAI's chat API: any JSON object, or JSON by a schema. Pure."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field

from parley.broker.core.messages.base import MAX_RESPONSE_FORMAT_BYTES, check_size
from parley.broker.core.messages.json_schema import check_schema

JSON_OBJECT: Final = "json_object"
JSON_SCHEMA: Final = "json_schema"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


# Any: every JSON value.
def _usable(value: dict[str, Any]) -> dict[str, Any]:
    check_size(value, MAX_RESPONSE_FORMAT_BYTES, "it")
    kind = value.get("type")
    if kind == JSON_OBJECT:
        return value
    if kind != JSON_SCHEMA:
        raise ValueError(f"type must be {JSON_OBJECT} or {JSON_SCHEMA}")
    named = value.get(JSON_SCHEMA)
    if not isinstance(named, dict):
        raise ValueError(f'{JSON_SCHEMA} must be an object: {{"name", "schema"}}')  # noqa: TRY004
    name = named.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"{JSON_SCHEMA}.name must be 1 to 64 of A-Z a-z 0-9 _ -")
    schema = named.get("schema")
    if not isinstance(schema, dict):
        raise ValueError(f"{JSON_SCHEMA}.schema must be an object")  # noqa: TRY004
    check_schema(schema)
    return value


ResponseFormat = Annotated[dict[str, Any], Field(max_length=16), AfterValidator(_usable)]


def schema_of(response_format: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Its schema; None where any object will do."""
    return response_format[JSON_SCHEMA]["schema"] if response_format["type"] == JSON_SCHEMA else None
