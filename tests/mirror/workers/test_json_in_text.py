"""JSON objects in a model's words."""

import time

import pytest

from parley.workers.json_in_text import MAX_CHARACTERS, objects, whole_object


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (' {"a": 1}\n', {"a": 1}), ('{"a": "b\nc"}', {"a": "b\nc"}), ('{"a": 1} more', None), ("[1]", None), ("", None),
        ('"{}"', None), ("{", None),
    ],
)  # fmt: skip
def test_a_text_that_is_an_object(text: str, found: object) -> None:
    assert whole_object(text) == found


def test_outermost_objects_come_from_the_last_one_back() -> None:
    text = 'first {"a": 1}, then ```json\n{"b": {"c": 2}}\n``` {no}'
    assert objects(text) == [{"b": {"c": 2}}, {"a": 1}]


def test_only_the_end_of_a_long_text_is_looked_at() -> None:
    assert (objects('{"a": 1}' + " " * MAX_CHARACTERS)) == []
    assert (objects(" " * MAX_CHARACTERS + '{"a": 1}')) == [{"a": 1}]


@pytest.mark.parametrize("piece", ["{", '{"a":', '{"a":[', '{"a":"'])
def test_hostile_nesting_costs_little(piece: str) -> None:
    began = time.process_time()
    assert (objects(piece * 200_000)) == []
    assert whole_object(piece * 10_000) is None
    assert time.process_time() - began < 1.0
