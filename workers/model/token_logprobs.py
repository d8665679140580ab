"""The log probabilities of an answer's tokens, as a model server writes them: as many as an outcome carries. Pure."""

from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json

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
            self._size += len(to_json(entry)) + 1
            if self._size > MAX_LOGPROBS_BYTES:
                return
            if isinstance(entry, dict):
                self._entries.append(entry)

    @property
    def kept(self) -> tuple[dict[str, Any], ...] | None:
        """The first ones. None where the server told none."""
        return tuple(self._entries) or None
