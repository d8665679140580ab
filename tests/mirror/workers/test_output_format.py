"""An answer that was to be JSON: read by its schema, in bounded time whatever the two are."""

import asyncio
import json
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from parley.workers.output_format import MAX_STEPS, InvalidOutput, UnusableSchema, read_in_thread, read_output

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
        ("3", by({})),
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
        ("3", by({"not": {}}), "3 should not be valid under {}"),
    ],
)
def test_what_was_not_asked_for_is_told(text: str, form: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidOutput) as caught:
        read_output(text, form)
    assert problem in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "schema",
    [
        {"minimum": "a"},
        {"pattern": "("},
        {"pattern": r"\p{Nothing}"},
        {"maxLength": []},
        {"multipleOf": 0},
        {"patternProperties": {}},
        {"$ref": "#/x"},
    ],
)
def test_a_schema_that_is_none_is_no_fault_of_the_model(schema: dict[str, Any]) -> None:
    number_or_text = '"a"' if {"pattern", "maxLength"} & schema.keys() else "1"
    with pytest.raises(UnusableSchema, match=r"response_format: the schema cannot be used \([A-Za-z_]+\)"):
        read_output(number_or_text, by(schema))


def deep(levels: int) -> str:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"c": value}
    return json.dumps(value)


TWICE = {"anyOf": [{"properties": {"c": {"$ref": "#/$defs/n"}}, "required": ["z"]}] * 2}
SLOW = [
    pytest.param(by({"pattern": "(x|xx)+$"}), json.dumps("x" * 60 + "!"), "too long", id="pattern"),
    pytest.param(by({"$defs": {"n": TWICE}, "$ref": "#/$defs/n"}), deep(60), "too long", id="twice a level"),
    pytest.param(by({"items": {"enum": [*range(9_000)]}}), json.dumps([0] * 90_000), "too long", id="enum"),
    pytest.param(by({"items": {"items": {}}}), json.dumps([[1] * 10] * 90_000), "too long", id="large"),
    pytest.param(
        by({"items": {"not": {"pattern": "^(?:(?:a|aa)+)+\\d$"}}}),
        json.dumps(["a" * 20] * 5_000),
        "too long",
        id="patterns",
    ),
    pytest.param(
        by(
            {
                "$defs": {
                    "n": {"oneOf": [{"$ref": "#/$defs/m"}] * 300},
                    "m": {"oneOf": [{"type": "null"}] * 900},
                },
                "$ref": "#/$defs/n",
            }
        ),
        json.dumps("x" * 900_000),
        "too long",
        id="branches",
    ),
]


@pytest.mark.parametrize(("form", "text", "words"), SLOW)
def test_to_read_it_takes_no_longer_than_a_few_seconds(form: dict[str, Any], text: str, words: str) -> None:
    began = time.process_time()
    with pytest.raises(InvalidOutput, match=words):
        read_output(text, form)
    assert time.process_time() - began < 5  # unbounded, each takes minutes or years


LARGE_PATTERNS = {
    "nested repeats": "(?:(?:(?:a{999}){999}){999}){999}",
    "full case folding": "(?if)" + r"[a-z\p{L}]" * 4_000,
    "as large as may be": r"(?:[^a-z\p{L}]x(?:ab|cd){2}){450}",
}
READER = """
import json, resource, sys, time
from parley.workers.output_format import InvalidOutput, UnusableSchema, read_output
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 64 * 1024 * 1024,) * 2)
form = {"type": "json_schema", "json_schema": {"name": "a", "schema": json.load(sys.stdin)}}
began = time.process_time()
try:
    read_output(json.dumps(["x"] * 100), form)
    print("read")
except (InvalidOutput, UnusableSchema) as error:
    print(error)
print(time.process_time() - began)
"""


@pytest.mark.parametrize("pattern", LARGE_PATTERNS.values(), ids=LARGE_PATTERNS)
def test_a_large_pattern_takes_neither_memory_nor_time(pattern: str) -> None:
    """Whatever intake has let through. Compiled, the first one takes gigabytes, and no time limit ends it."""
    schema = json.dumps({"items": {"pattern": pattern}})
    ended = subprocess.run(
        [sys.executable, "-P", "-c", READER], input=schema, capture_output=True, text=True, timeout=60, check=True
    )  # fmt: skip
    said, seconds = ended.stdout.splitlines()
    assert said.startswith(
        ("response_format: the schema cannot be used (UnusableSchema)", "does not follow the schema")
    )
    assert float(seconds) < 0.5


def test_an_ordinary_answer_is_far_from_the_bound() -> None:
    row = {"type": "object", "properties": {"id": {"type": "integer"}, "name": {"type": "string"}}}
    rows = [{"id": number, "name": "x" * 20} for number in range(2_000)]
    assert MAX_STEPS >= 100_000
    assert read_output(json.dumps(rows), by({"type": "array", "items": row}))


def test_equal_items_are_told_apart_by_type_only_as_json_does() -> None:
    assert read_output('[1, "1", true, null, [1], {"a": 1}]', by({"uniqueItems": True}))


DRAFT_7 = "http://json-schema.org/draft-07/schema#"


async def test_nothing_is_read_from_anywhere_else_whatever_dialect_the_schema_names(tmp_path: Path) -> None:
    """Older dialects have keywords in which the library follows a reference to a file or a server."""
    secret = tmp_path / "key.json"
    secret.write_text('{"type": "service_account", "private_key": "SECRET"}')
    heard: list[bytes] = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readline())
        writer.close()

    async with await asyncio.start_server(hear, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/x"
        for target in (url, secret.as_uri()):
            for keyword in ("dependencies", "extends", "properties"):
                schema = {"$schema": DRAFT_7, keyword: {"a": {"$ref": target}}}
                told = await asyncio.gather(read_in_thread('{"a": 1}', by(schema)), return_exceptions=True)
                assert "SECRET" not in str(told)
    assert heard == []


def test_a_dialect_of_the_schemas_own_choice_changes_no_bound() -> None:
    slow = {"$schema": DRAFT_7, "dependencies": {"a": {"patternProperties": {"^(a+)+$": {}}}}}
    began = time.process_time()
    assert read_output(json.dumps({"a": 1, "a" * 40 + "!": 1}), by(slow))
    recursive = {
        "$schema": DRAFT_7,
        "properties": {"c": {"$ref": "#"}},
        "anyOf": [{"properties": {"c": {"$ref": "#"}}}] * 2,
    }
    with pytest.raises(InvalidOutput, match="too long"):
        read_output(deep(60), by(recursive))
    assert time.process_time() - began < 5


def test_many_branches_take_no_memory_each() -> None:
    text = json.dumps("x" * 100_000)
    tracemalloc.start()
    try:
        for keyword in ("anyOf", "oneOf"):
            with pytest.raises(InvalidOutput):
                read_output(text, by({keyword: [{"type": "null"}] * 400}))
        assert tracemalloc.get_traced_memory()[1] < 4 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_of_long_names_and_numbers_a_line_is_told() -> None:
    with pytest.raises(InvalidOutput) as caught:
        read_output(json.dumps({"k" * 300_000: 1}), by({"additionalProperties": {"type": "string"}}))
    assert len(str(caught.value)) < 300
    with pytest.raises(InvalidOutput, match="numbers that are too large"):
        read_output("1" * 4_000, by({"multipleOf": 0.1}))


def test_each_of_several_branches_counts() -> None:
    either = {"oneOf": [{"type": "integer"}, {"minimum": 5}], "anyOf": [{"type": "number"}, {"type": "null"}]}
    assert read_output("3", by(either)) == "3"
    with pytest.raises(InvalidOutput, match="is 2 of oneOf"):
        read_output("7", by(either))
    with pytest.raises(InvalidOutput, match="is none of anyOf"):
        read_output('"x"', by({"anyOf": either["anyOf"]}))
