"""The line of a key, in TOML and in YAML."""

import pytest

from parley.line_of_key import Key, line_in_toml, line_in_yaml, twice_in_yaml

TOML = """\
# servers

[[endpoints]]
url = "http://one"  # the first
models = [
    "a",
    # not b
    "c",
]

[[endpoints]]

url = '''
http://two'''
headers = { "X-Title" = "Parley", "X-Org" = "us" }
key.env = "KEY"
[endpoints.query]
api-version = "1"
"""
YAML = """\
# servers

endpoints:
  - url: http://one  # the first
    models:
      - a
      # not b
      - c

  -
    url: >-
      http://two
    headers: {X-Title: Parley, X-Org: us}
    query:
      api-version: "1"
"""


@pytest.mark.parametrize(
    ("key", "line"),
    [
        (("endpoints",), 3),
        (("endpoints", 0), 3),
        (("endpoints", 0, "url"), 4),
        (("endpoints", 0, "models"), 5),
        (("endpoints", 0, "models", 1), 5),
        (("endpoints", 1), 11),
        (("endpoints", 1, "url"), 13),
        (("endpoints", 1, "headers", "X-Org"), 15),
        (("endpoints", 1, "key"), 16),
        (("endpoints", 1, "query"), 17),
        (("endpoints", 1, "query", "api-version"), 18),
        (("endpoints", 1, "weight"), 11),
        (("endpoints", 7, "url"), 3),
        (("elsewhere",), 1),
        ((), 1),
    ],
)
def test_the_line_of_a_key_or_of_what_is_around_it_in_toml(key: Key, line: int) -> None:
    assert line_in_toml(TOML, key) == line


@pytest.mark.parametrize(
    ("key", "line"),
    [
        (("endpoints",), 3),
        (("endpoints", 0), 4),
        (("endpoints", 0, "url"), 4),
        (("endpoints", 0, "models"), 5),
        (("endpoints", 0, "models", 1), 8),
        (("endpoints", 1, "url"), 11),
        (("endpoints", 1, "headers", "X-Org"), 13),
        (("endpoints", 1, "query", "api-version"), 15),
        (("elsewhere",), 1),
        ((), 1),
    ],
)
def test_the_line_of_a_key_or_of_what_is_around_it_in_yaml(key: Key, line: int) -> None:
    assert line_in_yaml(YAML, key) == line


def test_a_key_that_yaml_has_twice_is_found() -> None:
    assert twice_in_yaml(YAML) is None
    assert twice_in_yaml("a: 1\nb:\n  - c: 1\n    d: 2\n    c: 3\n") == ("c", 5)
    assert twice_in_yaml("") is None
