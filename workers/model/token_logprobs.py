"""The log probabilities of an answer's tokens, as a model server writes them: as many as an outcome carries. Pure."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json, to_json

from parley.broker.core.messages import MAX_LOGPROBS_BYTES


class TokenLogprobs:
    """Those of an answer, whole or in the pieces of a stream."""

    def __init__(self) -> None:
        # Any: as the server writes them.
        self._entries: list[dict[str, Any]] = []
        self._size = 0

    def add(self, choice: Mapping[str, Any]) -> None:
        """Those of a choice, or of a piece of one; most have none."""
        found = choice.get("logprobs")
        entries = found.get("content") if isinstance(found, dict) else None
        for entry in entries if isinstance(entries, list) else ():
            if not isinstance(entry, dict) or (clean := _encodable(entry)) is None:
                continue
            self._size += len(to_json(clean)) + 1
            if self._size > MAX_LOGPROBS_BYTES:
                return
            self._entries.append(clean)

    @property
    def kept(self) -> tuple[dict[str, Any], ...] | None:
        """The first ones. None where the server told none."""
        return tuple(self._entries) or None


def _encodable(entry: dict[str, Any]) -> dict[str, Any] | None:
    """As it can be passed on: a token may be half of a character. None for what nobody could read."""
    try:
        to_json(entry)
    except ValueError:
        try:
            text = json.dumps(entry, ensure_ascii=False).encode(errors="replace")
            return dict(from_json(text))
        except (ValueError, RecursionError):
            return None
    return entry
