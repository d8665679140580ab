"""The form of an answer: what can be used is passed on as it is, what could keep a reader busy is refused by name."""

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
        by({"items": [{"type": "string"}], "not": {"items": {"$ref": "#/items/0"}}}),
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
    assert found.startswith("response_format: Value error, ")
    assert problem in found
    assert len(found) < 250
