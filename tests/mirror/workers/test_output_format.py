"""An answer that was to be JSON: read by its schema, in bounded time whatever the two are."""

import json
import time
from typing import Any

import pytest

from parley.workers.output_format import MAX_STEPS, InvalidOutput, UnusableSchema, read_output

OBJECT = {"type": "json_object"}
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "pattern": "^[A-Z]"}, "people": {"type": "integer"}},
    "required": ["city"],
    "additionalProperties": False,
}


def by(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ('{"a": [1, 2.5, null]}', OBJECT),
        ('{"city": "Rome", "people": 3}', by(CITY)),
        ('["Rome"]', by({"type": "array", "items": {"enum": ["Rome", "Oslo"]}})),
        ("3", by(True)),
        ("3", by({"format": "date"})),
    ],
)
def test_what_was_asked_for_is_kept_as_it_is(text: str, form: dict[str, Any]) -> None:
    assert read_output(text, form) == text
    assert read_output(f"\n```json\n{text}\n```\n", form) == text


@pytest.mark.parametrize(
    ("text", "form", "problem"),
    [
        ("", OBJECT, "is no JSON"),
        ("The answer is {}", OBJECT, "is no JSON"),
        ('{"a": 1', OBJECT, "is no JSON"),
        ('{"a": NaN}', OBJECT, "is no JSON"),
        ("[" * 5_000 + "]" * 5_000, OBJECT, "is no JSON: recursion"),
        ("[1]", OBJECT, "is JSON, and no object"),
        ('{"people": 3}', by(CITY), "$: 'city' is a required property"),
        ('{"city": "Rome", "people": "3"}', by(CITY), "$.people: '3' is not of type 'integer'"),
        ('{"city": "rome"}', by(CITY), "$.city: 'rome' does not match '^[A-Z]'"),
        ('{"city": "Rome", "more": 1}', by(CITY), "'more' was unexpected"),
        ("[1, 1]", by({"uniqueItems": True}), "has the same item twice"),
        ('[{"a": 1, "b": 2}, {"b": 2, "a": 1}]', by({"uniqueItems": True}), "has the same item twice"),
        ("3", by(False), "False schema does not allow 3"),
    ],
)
def test_what_was_not_asked_for_is_told(text: str, form: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidOutput) as caught:
        read_output(text, form)
    assert problem in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "schema", [{"minimum": "a"}, {"pattern": "("}, {"maxLength": []}, {"multipleOf": {}}]
)
def test_a_schema_that_is_none_is_no_fault_of_the_model(schema: dict[str, Any]) -> None:
    number_or_text = '"a"' if {"pattern", "maxLength"} & schema.keys() else "1"
    with pytest.raises(UnusableSchema, match="response_format: the schema cannot be used: "):
        read_output(number_or_text, by(schema))


def deep(levels: int) -> str:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"c": value}
    return json.dumps(value)


TWICE = {"anyOf": [{"properties": {"c": {"$ref": "#/$defs/n"}}, "required": ["z"]}] * 2}
SLOW = [
    pytest.param(by({"pattern": "(x|xx)+$"}), json.dumps("x" * 60 + "!"), "a pattern", id="pattern"),
    pytest.param(by({"$defs": {"n": TWICE}, "$ref": "#/$defs/n"}), deep(60), "steps", id="twice a level"),
    pytest.param(by({"items": {"enum": [*range(9_000)]}}), json.dumps([0] * 90_000), "steps", id="enum"),
    pytest.param(by({"items": {"items": {}}}), json.dumps([[1] * 10] * 90_000), "steps", id="large"),
]


@pytest.mark.parametrize(("form", "text", "words"), SLOW)
def test_to_read_it_takes_no_longer_than_a_few_seconds(form: dict[str, Any], text: str, words: str) -> None:
    began = time.process_time()
    with pytest.raises(InvalidOutput, match=words):
        read_output(text, form)
    assert time.process_time() - began < 5  # unbounded, each takes minutes or years


def test_an_ordinary_answer_is_far_from_the_bound() -> None:
    row = {"type": "object", "properties": {"id": {"type": "integer"}, "name": {"type": "string"}}}
    rows = [{"id": number, "name": "x" * 20} for number in range(2_000)]
    assert MAX_STEPS >= 100_000
    assert read_output(json.dumps(rows), by({"type": "array", "items": row}))


def test_equal_items_are_told_apart_by_type_only_as_json_does() -> None:
    assert read_output('[1, "1", true, null, [1], {"a": 1}]', by({"uniqueItems": True}))
