"""In which line of a TOML or YAML text a key stands, for errors: `("endpoints", 1, "headers", "x-org")`. Pure."""

import re
import tomllib
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

Key = Sequence[str | int]


def line_in_toml(text: str, key: Key) -> int:
    """The line of the key, or of the nearest one around it. `text` is valid TOML.

    tomllib tells no lines. The key stands where the beginning of the text first has it; a value of several lines begins
    after the last line without which the text is whole.
    """
    lines = text.splitlines(keepends=True)
    whole = first = _before(lines, key)
    for number in range(first + 1, len(lines) + 1):
        try:
            found = tomllib.loads("".join(lines[:number]))
        except tomllib.TOMLDecodeError:
            continue
        if _has(found, key):
            return whole + 1
        whole = number
    return line_in_toml(text, key[:-1]) if len(key) > 1 else 1


def _before(lines: Sequence[str], key: Key) -> int:
    """Lines before which the key cannot be: those before the head of its entry (`[[endpoints]]`). 0 if that is not sure."""
    if len(key) < 2 or not isinstance(key[1], int):
        return 0
    head = re.compile(rf"\s*\[\[\s*{re.escape(str(key[0]))}\s*\]\]")
    heads = [number for number, line in enumerate(lines) if head.match(line)]
    if key[1] >= len(heads):
        return 0
    try:
        entries = tomllib.loads("".join(lines[: heads[key[1]]])).get(str(key[0]), [])
    except tomllib.TOMLDecodeError:
        return 0
    return heads[key[1]] if len(entries) == key[1] else 0


def _has(found: Any, key: Key) -> bool:
    for part in key:
        try:
            found = found[part]
        except (KeyError, IndexError, TypeError):
            return False
    return True


def line_in_yaml(text: str, key: Key) -> int:
    """The line of the key, or of the nearest one around it. `text` is valid YAML."""
    node, line = yaml.compose(text, Loader=yaml.SafeLoader), 1
    for part in key:
        found = next((pair for pair in _parts(node) if pair[0] == part), None)
        if found is None:
            break
        _, at, node = found
        line = at.start_mark.line + 1
    return line


def twice_in_yaml(text: str) -> tuple[str, int] | None:
    """The first key that a mapping has twice, which YAML takes without a word, and its line."""
    return _twice(yaml.compose(text, Loader=yaml.SafeLoader))


def _twice(node: yaml.Node | None) -> tuple[str, int] | None:
    seen: set[Any] = set()
    for name, at, child in _parts(node):
        if name in seen:
            return str(name), at.start_mark.line + 1
        seen.add(name)
        if (found := _twice(child)) is not None:
            return found
    return None


def _parts(node: yaml.Node | None) -> Iterator[tuple[str | int, yaml.Node, yaml.Node]]:
    """(key, where it stands, its value) of a mapping or a sequence."""
    if isinstance(node, yaml.MappingNode):
        yield from ((str(name.value), name, value) for name, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        yield from ((number, value, value) for number, value in enumerate(node.value))
