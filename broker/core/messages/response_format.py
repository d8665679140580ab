"""The form that an answer is to have, as in OpenAI's chat API: any JSON object, or JSON by a schema. Pure.

A schema comes from whoever may ask, so what could keep a reader of it busy without end is refused: a reference to
another document, a reference that leads to itself before anything of the answer is read.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, NamedTuple
from urllib.parse import unquote

from pydantic import AfterValidator, Field

from parley.broker.core.messages.base import MAX_RESPONSE_FORMAT_BYTES, check_size

JSON_OBJECT: Final = "json_object"
JSON_SCHEMA: Final = "json_schema"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TYPES = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})
# Keywords that hold schemas: for a part of the value, and for the same value. By what they hold.
_ONE = ("items", "contains", "additionalProperties", "propertyNames", "unevaluatedItems",
        "unevaluatedProperties")  # fmt: skip
_LISTED = ("prefixItems",)
_NAMED = ("properties", "$defs", "definitions")
_SAME_ONE = ("not", "if", "then", "else")
_SAME_LISTED = ("allOf", "anyOf", "oneOf")
_SAME_NAMED = ("dependentSchemas",)
# What the model servers' grammars do not know, and what refers to a place by more than a path.
_NOT_SUPPORTED = ("patternProperties", "$dynamicRef", "$recursiveRef", "$anchor", "$dynamicAnchor")
_MAX_SHOWN = 80


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
    _check_schema(schema)
    return value


ResponseFormat = Annotated[dict[str, Any], Field(max_length=16), AfterValidator(_usable)]


def schema_of(response_format: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Its schema; None where any object will do."""
    return response_format[JSON_SCHEMA]["schema"] if response_format["type"] == JSON_SCHEMA else None


class _Place(NamedTuple):
    """A schema within another one. Written out only for an error: names may be long, and places many."""

    within: "_Place | None"
    word: str

    def __str__(self) -> str:
        words, place = [self.word], self.within
        while place is not None:
            words.append(place.word)
            place = place.within
        return "/".join(reversed(words))


def _check_schema(root: dict[str, Any]) -> None:
    """Raises ValueError naming the place of the first problem."""
    # Of each schema, by its identity: those that are read on the same value. Paths would do for names no more than once:
    # a reference can be written in many ways.
    same_value: dict[int, list[int]] = {}
    places: dict[int, _Place] = {}
    waiting: list[tuple[_Place, Any]] = [(_Place(None, "#"), root)]
    while waiting:
        place, schema = waiting.pop()
        if isinstance(schema, bool) or id(schema) in same_value:
            continue
        if not isinstance(schema, dict):
            raise ValueError(f"{_shown(place)} must be a schema: an object, true or false")  # noqa: TRY004
        _check_keywords(place, schema)
        on_same = list(_parts(place, schema, _SAME_ONE, _SAME_LISTED, _SAME_NAMED))
        if "$ref" in schema:
            reference = _path_of(schema["$ref"])
            on_same.append((_Place(None, reference), _at(root, reference)))
        same_value[id(schema)] = [id(part) for _, part in on_same]
        places[id(schema)] = place
        waiting += on_same
        waiting += _parts(place, schema, _ONE, _LISTED, _NAMED)
    _check_loops(same_value, places)


def _check_keywords(place: _Place, schema: Mapping[str, Any]) -> None:
    for word in _NOT_SUPPORTED:
        if word in schema:
            raise ValueError(f"{_shown(place)}: {word} is not supported")
    for word in ("$id", "$schema"):
        if word in schema and place.within is not None:
            raise ValueError(f"{_shown(place)}: {word} is supported at the schema's top only")
    types = schema.get("type", [])
    for name in types if isinstance(types, list) else [types]:
        if not isinstance(name, str) or name not in _TYPES:
            raise ValueError(f"{_shown(place)}: type must be of {', '.join(sorted(_TYPES))}")
    for word in ("required", "enum"):
        if word in schema and not isinstance(schema[word], list):
            raise ValueError(f"{_shown(place)}: {word} must be a list")
    step = schema.get("multipleOf", 1)
    if isinstance(step, bool) or not isinstance(step, int | float) or step <= 0:
        raise ValueError(f"{_shown(place)}: multipleOf must be a number over 0")


def _parts(
    place: _Place,
    schema: Mapping[str, Any],
    one: tuple[str, ...],
    listed: tuple[str, ...],
    named: tuple[str, ...],
) -> Iterator[tuple[_Place, Any]]:
    """The schemas under these keywords, each with its place."""
    for word in one:
        if word in schema:
            yield _Place(place, word), schema[word]
    for word in listed:
        parts = schema.get(word, [])
        if not isinstance(parts, list):
            raise ValueError(f"{_shown(place)}: {word} must be a list of schemas")  # noqa: TRY004
        within = _Place(place, word)
        yield from ((_Place(within, str(number)), part) for number, part in enumerate(parts))
    for word in named:
        parts = schema.get(word, {})
        if not isinstance(parts, dict):
            raise ValueError(f"{_shown(place)}: {word} must be an object of schemas")  # noqa: TRY004
        within = _Place(place, word)
        yield from ((_Place(within, _escaped(name)), part) for name, part in parts.items())


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _path_of(reference: Any) -> str:
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        raise ValueError(
            f"$ref {_shown(reference)}: only places in this schema can be referred to, as #/$defs/name"
        )
    return unquote(reference)


def _at(root: Mapping[str, Any], reference: str) -> Any:
    found: Any = root
    for part in _path_of(reference).split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isascii() and name.isdigit() and int(name) < len(found):
            found = found[int(name)]
        elif isinstance(found, dict) and name in found:
            found = found[name]
        else:
            raise ValueError(f"$ref {_shown(reference)}: there is nothing at this place")
    return found


def _check_loops(same_value: Mapping[int, list[int]], places: Mapping[int, _Place]) -> None:
    done: set[int] = set()
    for start in same_value:
        # Of the way from `start`: each schema, and those that follow it and are still to be tried.
        way: dict[int, Iterator[int]] = {}
        if start not in done:
            way[start] = iter(same_value[start])
        while way:
            last, following = next(reversed(way.items()))
            after = next(following, None)
            if after is None:
                done.add(last)
                del way[last]
            elif after in way:
                itself = f"{_shown(places[after])} refers to itself"
                raise ValueError(f"{itself}: nothing of an answer would ever be read by it")
            elif after not in done:
                way[after] = iter(same_value.get(after, ()))


def _shown(place: Any) -> str:
    text = ascii(str(place))[1:-1] if isinstance(place, str | _Place) else "(no text)"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
