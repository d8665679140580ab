"""The form of an answer: what can be used is passed on as it is, what could keep a reader busy is refused by name."""

import time
import tracemalloc
from typing import Any

import pytest

from parley.broker.core.messages.response_format import schema_of
from tests.mirror.broker.core.test_messages import problems_of, request

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TREE = {"$defs": {"tree": {"properties": {"left": {"$ref": "#/$defs/tree"}}}}, "$ref": "#/$defs/tree"}


def by(schema: Any, **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **more}}


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_object"},
        by(CITY, strict=True, description="A city."),
        by(TREE),
        by({"$id": "https://example.com/answer.json", "type": ["string", "null"]}),
        by({"properties": {"$ref": {"type": "string"}, "a/b": True}, "items": {"$ref": "#/properties/a~1b"}}),
        by({"enum": [{"$ref": "http://nobody/reads/this"}]}),
        by({"prefixItems": [{"type": "string"}], "not": {"items": {"$ref": "#/prefixItems/0"}}}),
        by({"$schema": "http://json-schema.org/draft-07/schema#", "multipleOf": 0.5}),
    ],
)
def test_a_form_that_can_be_used_is_passed_on_as_it_is(form: dict[str, Any]) -> None:
    assert request(response_format=form).response_format == form


def test_any_object_has_no_schema() -> None:
    assert schema_of({"type": "json_object"}) is None
    assert schema_of(by(CITY)) == CITY


@pytest.mark.parametrize(
    ("form", "problem"),
    [
        ({}, "type must be json_object or json_schema"),
        ({"type": "text"}, "type must be json_object or json_schema"),
        ({"type": "json_schema"}, "json_schema must be an object"),
        ({"type": "json_schema", "json_schema": {"schema": CITY}}, "json_schema.name must be 1 to 64 of"),
        ({"type": "json_schema", "json_schema": {"name": "a b", "schema": CITY}}, "json_schema.name must be"),
        ({"type": "json_schema", "json_schema": {"name": "a"}}, "json_schema.schema must be an object"),
        (by("{}"), "json_schema.schema must be an object"),
        (by({"description": "x" * 200_000}), "it is 200082 bytes as JSON, more than 65536"),
        (by({"type": "text"}), "#: type must be of array, boolean, "),
        (by({"required": "city"}), "#: required must be a list"),
        (by({"enum": "city"}), "#: enum must be a list"),
        (by({"properties": ["city"]}), "#: properties must be an object of schemas"),
        (by({"properties": {"city": "string"}}), "#/properties/city must be a schema"),
        (by({"anyOf": {}}), "#: anyOf must be a list of schemas"),
        (by({"items": {"allOf": [3]}}), "#/items/allOf/0 must be a schema"),
        (by({"patternProperties": {"^a": {}}}), "#: patternProperties is not supported"),
        (by({"items": {"$dynamicRef": "#x"}}), "#/items: $dynamicRef is not supported"),
        (by({"items": {"$id": "x"}}), "#/items: $id is supported at the schema's top only"),
        (by({"items": {"$schema": "x"}}), "#/items: $schema is supported at the schema's top only"),
        (by({"items": [{}]}), "#/items must be a schema"),
        (by({"multipleOf": 0}), "#: multipleOf must be a number over 0"),
        (by({"multipleOf": "2"}), "#: multipleOf must be a number over 0"),
        (by({"$ref": "https://example.com/schema"}), "$ref https://example.com/schema: only places in this"),
        (by({"$ref": 5}), "$ref (no text): only places in this schema"),
        (by({"$ref": "#answer"}), "$ref #answer: only places in this schema"),
        (by({"items": {"$ref": "#/$defs/none"}}), "$ref #/$defs/none: there is nothing at this place"),
        (by({"$ref": "#"}), "# refers to itself"),
        (by({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}), "refers to itself"),
        (by({"anyOf": [{"not": {"$ref": "#/anyOf/0"}}]}), "#/anyOf/0 refers to itself"),
        (by({"properties": {"\u202e" * 200: 3}}), "#/properties/\\u202e"),
    ],
)  # fmt: skip
def test_another_form_is_refused_by_its_name(form: dict[str, Any], problem: str) -> None:
    found = problems_of(response_format=form)
    assert found.startswith("response_format: ")
    assert problem in found
    assert len(found) < 250


HOSTILE = {
    "one place written in many ways": by(
        {
            "$defs": {"~~~~~~~~~~": {"allOf": [{}] * 10_000}},
            "anyOf": [
                {"$ref": "#/$defs/" + f"{way:010b}".replace("0", "~").replace("1", "~0")}
                for way in range(800)
            ],
        }
    ),
    "a long name above many": by({"properties": {"k" * 25_000 + "\U0001f600": {"allOf": [{}] * 12_000}}}),
    "a deep chain": by(
        {"$defs": {str(n): {"$ref": f"#/$defs/{n + 1}"} for n in range(1_500)} | {"1500": {}}}
    ),
}


@pytest.mark.parametrize("form", HOSTILE.values(), ids=HOSTILE)
def test_a_look_at_it_takes_little_time_and_memory_whatever_it_is(form: dict[str, Any]) -> None:
    tracemalloc.start()
    try:
        began = time.process_time()
        request(response_format=form)
        assert time.process_time() - began < 5  # unbounded: minutes
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024 * 1024  # unbounded: GiB
    finally:
        tracemalloc.stop()
