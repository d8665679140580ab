"""The form of an answer: what can be used is passed on as it is, what could keep a reader busy is refused by name."""

import json
import random
import time
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest
import regex

from parley.broker.core.errors import InvalidMessage
from parley.broker.core.messages import AgentRequested, DeliberationRequested, decode
from parley.broker.core.messages.response_format import schema_of
from parley.broker.core.messages.schema_pattern import pattern_parts
from tests.mirror.broker.core.test_messages import problems_of, request, shortened

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
        (by({"required": "city"}), "#: required must be a list of names"),
        (by({"required": [3]}), "#: required must be a list of names"),
        (by({"dependentRequired": {"a": "b"}}), "#: dependentRequired must be an object of lists of names"),
        (by({"minimum": "a"}), "#: minimum must be a number"),
        (by({"items": {"maxLength": []}}), "#/items: maxLength must be a number from 0 on"),
        (by({"uniqueItems": 1}), "#: uniqueItems must be true or false"),
        (by({"$id": 3}), "#: $id must be a text"),
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


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "^[A-Z]",
        r"^\d{4}-\d{2}-\d{2}$",
        r"^(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.){1,8}[a-z]{2,}$",
        r"^[\w.+-]+@[^@\s]+\.[^@\s\]]+?\Z",
        r"(?<year>\d+)|(?P<word>\p{L}+)|(?=a)(?!b)(?<=c)(?<!d)\u00e9\x41\0\/}]",
        "[a-]|[-a]|[^-]|[a[]|[(*]",
        "a" * 1_024,
        "(?:a{64}){60}",
        "(?:(?:(?:a{0,999}){0,999}){0,999})+",
    ],
)
def test_a_pattern_of_the_standard_can_be_used(pattern: str) -> None:
    request(response_format=by({"pattern": pattern}))
    regex.compile(pattern, cache_pattern=False)


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        (5, "must be a text"),
        ("a" * 1_025, "has 1025 characters, more than 1024"),
        ("(?:(?:(?:a{999}){999}){999}){999}", "has more than 4096 parts"),
        ("(?:[a-z]{65}){65}", "has more than 4096 parts"),
        ("(?:a{999,}){999,}", "has more than 4096 parts"),
        ("a{99999}", "has more than 4096 parts"),
        ("(" * 32 + ")" * 32, "has more than 32 groups within each other"),
        ("(", "has a group that is not closed"),
        ("a)", "closes a group at character 2 that is not open"),
        ("*", "has nothing to repeat at character 1"),
        ("a|*", "has nothing to repeat at character 3"),
        ("(?=a)+", "has nothing to repeat at character 6"),
        ("a{2}{2}", "has nothing to repeat at character 5"),
        ("a{3,2}", "repeats from more to less at character 2"),
        ("a{e<=2}", "cannot be read from character 2 on"),
        ("(?if)[a-z]", "cannot be read from character 1 on"),
        ("(?R)", "cannot be read from character 1 on"),
        (r"(a)\1", "cannot be read from character 4 on"),
        (r"\X", "cannot be read from character 1 on"),
        ("\\", "cannot be read from character 1 on"),
        ("[a", "has a set that cannot be read from character 3 on"),
        ("[]", "has a set that cannot be read from character 2 on"),
        ("[[:alpha:]]", "has a set that cannot be read from character 2 on"),
        ("[z-a]", "has a range that ends before it begins at character 4"),
        (r"[a-\d]", "has a range that ends before it begins at character 4"),
    ],
    ids=shortened,
)
def test_a_pattern_that_is_none_or_too_large_is_refused_before_anybody_is_paid(
    pattern: object, problem: str
) -> None:
    found = problems_of(response_format=by({"properties": {"a": {"pattern": pattern}}}))
    assert f"response_format: #/properties/a: pattern {problem}" in found


def test_whatever_pattern_is_taken_the_library_can_compile() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    words = [*"ab1é漢 -_/{}[]()|^$.*+?:<>=#&~!\\\n", "(?:", "(?=", "(?<!", "(?<n>", "(?P<n>", "(?i)", "{2}", "{3,1}", "[a-z]",
             r"\d", r"\b", r"\Z", r"\u0041", r"\x41", r"\p{L}", r"\1", r"\k", r"\0", r"\-", "[[:alpha:]]", "z-a]", "--"]  # fmt: skip
    taken = 0
    for _ in range(20_000):
        pattern = "".join(draw.choice(words) for _ in range(draw.randint(1, 9)))
        with suppress(ValueError):
            pattern_parts(pattern)
            taken += 1
            regex.compile(pattern, cache_pattern=False)  # its error is no ValueError
    assert taken > 500


HOSTILE = {
    "one place written in many ways": by(
        {
            "$defs": {"~~~~~~~~~~": {"allOf": [{}] * 300}},
            "anyOf": [
                {"$ref": "#/$defs/" + f"{way:010b}".replace("0", "~").replace("1", "~0")}
                for way in range(800)
            ],
        }
    ),
    "a long name above many": by({"properties": {"k" * 25_000 + "\U0001f600": {"allOf": [{}] * 1_900}}}),
    "a deep chain": by(
        {"$defs": {str(n): {"$ref": f"#/$defs/{n + 1}"} for n in range(1_500)} | {"1500": {}}}
    ),
    "many schemas": by({"allOf": [{}] * 21_000}),
    "many properties": by({"properties": {str(number): {"type": "string"} for number in range(2_400)}}),
    "many keywords": by(dict.fromkeys(map(str, range(6_000)), 0)),
    "many patterns": by({"properties": {str(n): {"pattern": f"{n}" + "()" * 500} for n in range(60)}}),
    "large patterns": by({"anyOf": [{"pattern": f"{n}" + "a" * 1_000} for n in range(60)]}),
}


@pytest.mark.parametrize("form", HOSTILE.values(), ids=HOSTILE)
def test_a_look_at_it_takes_little_time_and_memory_whatever_it_is(form: dict[str, Any]) -> None:
    body = json.dumps({"task_description": "x", "response_format": form}).encode()
    took = []
    for _ in range(3):
        began = time.process_time()
        with suppress(InvalidMessage):
            decode(DeliberationRequested, body)
        took.append(time.process_time() - began)
    # Up to 10 ms each (measured); 260 ms for many schemas when they had no bound, and minutes for the first two.
    assert min(took) < 0.05
    tracemalloc.start()
    try:
        with suppress(InvalidMessage):
            decode(DeliberationRequested, body)
        assert tracemalloc.get_traced_memory()[1] < 8 * 1024 * 1024  # unbounded: GiB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"allOf": [{}] * 2_000}, "the schema has more than 2000 schemas within it"),
        ({"properties": dict.fromkeys(map(str, range(2_001)), True)}, "the schema has more than 2000 schemas"),
        ({"anyOf": [{"items": {}}] * 1_000}, "the schema has more than 2000 schemas within it"),
        ({"anyOf": [{"pattern": f"{n}" * 900} for n in range(10)]}, "patterns have more than 8192 parts together"),
    ],
    ids=shortened,
)  # fmt: skip
def test_more_than_a_reader_has_time_for_is_refused(schema: dict[str, Any], problem: str) -> None:
    assert problem in problems_of(response_format=by(schema))
    request(response_format=by({"anyOf": [{"pattern": "^[a-z]{99}$"}] * 1_999}))


def test_an_agents_job_is_read_without_another_look_at_the_schema() -> None:
    """Intake has looked at it once; 256 jobs would look again, each in two processes."""
    form = by({"pattern": "("})
    job = AgentRequested(
        task_id="t",
        agent_id="agent-dev-001",
        agent_number=1,
        role="DEV",
        num_agents=1,
        task_description="x",
        response_format=form,
        requested_at="2026-01-01T00:00:00Z",
        deadline="2026-01-01T00:00:00Z",
    )
    assert decode(AgentRequested, job.encode()).response_format == form
