"""JSON in a model's words: objects, wherever they stand: alone, in a fence, after a sentence. Pure."""

import json
from typing import Any

# What is looked at: the end of a text. A model's last word counts, and what it wrote before may be long.
MAX_CHARACTERS = 64 * 1024
# Places in a text at which an object is tried, from the last one back.
MAX_TRIES = 64


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands there twice: which one is meant cannot be told")
    return found


# Models and grammars write raw control characters into strings.
_DECODER = json.JSONDecoder(strict=False, object_pairs_hook=_once_each)


def whole_object(text: str) -> dict[str, Any] | None:
    """The object that the text is, white space aside. None if it is anything else."""
    stripped = text.strip()
    if not stripped.startswith("{") or len(stripped) > MAX_CHARACTERS:
        return None
    found = _object_at(stripped, 0)
    return found[0] if found is not None and found[1] == len(stripped) else None


def whole_value(text: str) -> dict[str, Any] | list[Any] | None:
    """The object or list that the text is, in a fence or not. None if it is anything else."""
    stripped = text.strip()
    if stripped.startswith("```") and stripped.endswith("```"):
        stripped = stripped.partition("\n")[2].removesuffix("```").strip()
    if not stripped.startswith(("{", "[")) or len(stripped) > MAX_CHARACTERS:
        return None
    try:
        found: dict[str, Any] | list[Any] = _DECODER.decode(stripped)
    except (ValueError, RecursionError):
        return None
    return found


def ends_with_object(text: str) -> bool:
    """Whether nothing comes after the last object but marks, such as the end of a fence."""
    return not any(map(str.isalnum, text[-MAX_CHARACTERS:].rpartition("}")[2]))


def objects(text: str) -> list[dict[str, Any]]:
    """The objects in the text's end that are within no other, the last one first."""
    end = text[-MAX_CHARACTERS:]
    found: list[tuple[int, dict[str, Any]]] = []
    place = len(end)
    for _ in range(MAX_TRIES):
        place = end.rfind("{", 0, place)
        if place < 0:
            break
        read = _object_at(end, place)
        if read is not None:
            found = [(start, inner) for start, inner in found if start >= read[1]] + [(place, read[0])]
    return [one for _, one in found]


def _object_at(text: str, place: int) -> tuple[dict[str, Any], int] | None:
    try:
        found, end = _DECODER.raw_decode(text, place)
    except (ValueError, RecursionError):
        return None
    return (found, end) if isinstance(found, dict) else None
