"""A JSON schema that comes from whoever may ask. Pure.

What could keep a reader of it busy without end, or take its memory, is refused: a reference to another document, a
reference that leads to itself before anything of the answer is read, more schemas or larger patterns than any answer
needs. So is what no reader could use: a server would be paid for an answer first.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

from parley.broker.core.messages.schema_pattern import pattern_parts

# Schemas within a schema, itself included. 64 KiB have room for 21,000 empty ones, which took 0.25 s to look at.
MAX_SCHEMAS: Final = 2_000
# Of all its different patterns together: a worker compiles them for each answer.
MAX_PATTERNS_PARTS: Final = 8_192
_TYPES = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})
_MAX_SHOWN = 80


# Any: every JSON value.
def check_schema(root: dict[str, Any]) -> None:
    """Raises ValueError naming the place of the first problem."""
    # Of each schema, by its identity: those that are read on the same value. Paths would do for names no more than once:
    # a reference can be written in many ways.
    same_value: dict[int, list[int]] = {}
    places: dict[int, _Place] = {}
    patterns: dict[str, int] = {}
    waiting: list[tuple[_Place, Any]] = [(_Place(None, "#"), root)]
    while waiting:
        place, schema = waiting.pop()
        if isinstance(schema, bool) or id(schema) in same_value:
            continue
        if not isinstance(schema, dict):
            raise ValueError(f"{_shown(place)} must be a schema: an object, true or false")  # noqa: TRY004
        on_same, below = _parts(place, schema)
        if "$ref" in schema:
            path = _path_of(schema["$ref"])
            on_same.append((_Place(None, path), _at(root, path)))
        if "pattern" in schema:
            _add_pattern(place, schema["pattern"], patterns)
        same_value[id(schema)] = [id(part) for _, part in on_same]
        places[id(schema)] = place
        waiting += on_same
        waiting += below
        if len(same_value) + len(waiting) > MAX_SCHEMAS:
            raise ValueError(f"the schema has more than {MAX_SCHEMAS} schemas within it")
    _check_loops(same_value, places)


class _Place(NamedTuple):
    """A schema within another one. Written out only for an error: names may be long, and places many."""

    within: "_Place | None"
    word: str | int

    def __str__(self) -> str:
        words, place = [str(self.word)], self.within
        while place is not None:
            words.append(_escaped(str(place.word)) if place.within is not None else str(place.word))
            place = place.within
        if self.within is not None:
            words[0] = _escaped(words[0])
        return "/".join(reversed(words))


# ── the parts of a schema ───────────────────────────────────────────────────────────────────────────────────

_Parts = list[tuple[_Place, Any]]


def _parts(place: _Place, schema: Mapping[str, Any]) -> tuple[_Parts, _Parts]:
    """The schemas under its keywords that are read on the same value, and those on a part of it."""
    on_same: _Parts = []
    below: _Parts = []
    for word, value in schema.items():
        if word in _PLAIN:
            if problem := _PLAIN[word](place, value):
                raise ValueError(f"{_shown(place)}: {word} {problem}")
        elif word in _HOLDS:
            is_same, held = _HOLDS[word]
            (on_same if is_same else below).extend(held(place, word, value))
    return on_same, below


def _one(place: _Place, word: str, value: Any) -> Iterator[tuple[_Place, Any]]:
    yield _Place(place, word), value


def _listed(place: _Place, word: str, parts: Any) -> Iterator[tuple[_Place, Any]]:
    if not isinstance(parts, list):
        raise ValueError(f"{_shown(place)}: {word} must be a list of schemas")  # noqa: TRY004
    within = _Place(place, word)
    return ((_Place(within, number), part) for number, part in enumerate(_few(parts)))


def _named(place: _Place, word: str, parts: Any) -> Iterator[tuple[_Place, Any]]:
    if not isinstance(parts, dict):
        raise ValueError(f"{_shown(place)}: {word} must be an object of schemas")  # noqa: TRY004
    within = _Place(place, word)
    return ((_Place(within, name), part) for name, part in _few(parts).items())


def _few(parts: Any) -> Any:
    if len(parts) > MAX_SCHEMAS:
        raise ValueError(f"the schema has more than {MAX_SCHEMAS} schemas within it")
    return parts


_Held = Callable[[_Place, str, Any], Iterator[tuple[_Place, Any]]]
# Keywords that hold schemas: whether for the same value, and how.
_HOLDS: Mapping[str, tuple[bool, _Held]] = {
    **dict.fromkeys(("not", "if", "then", "else"), (True, _one)),
    **dict.fromkeys(("allOf", "anyOf", "oneOf"), (True, _listed)),
    "dependentSchemas": (True, _named),
    **dict.fromkeys(
        ("items", "contains", "additionalProperties", "propertyNames", "unevaluatedItems", "unevaluatedProperties"),
        (False, _one),
    ),
    "prefixItems": (False, _listed),
    **dict.fromkeys(("properties", "$defs", "definitions"), (False, _named)),
}  # fmt: skip


# ── keywords without schemas ────────────────────────────────────────────────────────────────────────────────


def _type(_: _Place, types: Any) -> str:
    known = all(
        isinstance(name, str) and name in _TYPES for name in (types if isinstance(types, list) else [types])
    )
    return "" if known else f"must be of {', '.join(sorted(_TYPES))}"


def _list(_: _Place, value: Any) -> str:
    return "" if isinstance(value, list) else "must be a list"


def _names(_: _Place, value: Any) -> str:
    are_names = isinstance(value, list) and all(isinstance(name, str) for name in value)
    return "" if are_names else "must be a list of names"


def _dependent(place: _Place, value: Any) -> str:
    are_names = isinstance(value, dict) and not any(_names(place, names) for names in value.values())
    return "" if are_names else "must be an object of lists of names"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(_: _Place, value: Any) -> str:
    return "" if _is_number(value) else "must be a number"


def _step(_: _Place, value: Any) -> str:
    return "" if _is_number(value) and value > 0 else "must be a number over 0"


def _count(_: _Place, value: Any) -> str:
    return "" if _is_number(value) and value >= 0 else "must be a number from 0 on"


def _boolean(_: _Place, value: Any) -> str:
    return "" if isinstance(value, bool) else "must be true or false"


def _at_top(place: _Place, value: Any) -> str:
    if place.within is not None:
        return "is supported at the schema's top only"
    return "" if isinstance(value, str) else "must be a text"


# What the model servers' grammars do not know, and what refers to a place by more than a path.
def _not_supported(_: _Place, __: Any) -> str:
    return "is not supported"


_PLAIN: Mapping[str, Callable[[_Place, Any], str]] = {
    "type": _type,
    "enum": _list,
    "required": _names,
    "dependentRequired": _dependent,
    "multipleOf": _step,
    "uniqueItems": _boolean,
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _number),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties",
                     "minContains", "maxContains"), _count),
    **dict.fromkeys(("$id", "$schema"), _at_top),
    **dict.fromkeys(("patternProperties", "$dynamicRef", "$recursiveRef", "$anchor", "$dynamicAnchor"),
                    _not_supported),
}  # fmt: skip


def _add_pattern(place: _Place, pattern: Any, seen: dict[str, int]) -> None:
    if not isinstance(pattern, str):
        raise ValueError(f"{_shown(place)}: pattern must be a text")  # noqa: TRY004
    if pattern in seen:
        return
    try:
        seen[pattern] = pattern_parts(pattern)
    except ValueError as problem:
        raise ValueError(f"{_shown(place)}: pattern {problem}") from None
    if sum(seen.values()) > MAX_PATTERNS_PARTS:
        raise ValueError(f"the schema's patterns have more than {MAX_PATTERNS_PARTS} parts together")


# ── references ──────────────────────────────────────────────────────────────────────────────────────────────


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _path_of(reference: Any) -> str:
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        raise ValueError(
            f"$ref {_shown(reference)}: only places in this schema can be referred to, as #/$defs/name"
        )
    return unquote(reference)


def _at(root: Mapping[str, Any], path: str) -> Any:
    found: Any = root
    for part in path.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isascii() and name.isdigit() and int(name) < len(found):
            found = found[int(name)]
        elif isinstance(found, dict) and name in found:
            found = found[name]
        else:
            raise ValueError(f"$ref {_shown(path)}: there is nothing at this place")
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
