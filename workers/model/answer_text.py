"""What an answer's message says: the answer, the reasoning before it, a refusal. Pure; the JSON is unchecked.

Servers write a text as a string or as a list of parts. They put a model's reasoning into a field of its own
(`reasoning_content`, `reasoning`), into a part (`thinking`), or leave it in the text, which `thinking_marks` reads.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

# Reasoning is passed on up to this length, its end: that is where the answer comes from.
MAX_REASONING_CHARACTERS = 16_384
_REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")


class NotText(ValueError):
    """A message's content is neither a text nor a list of parts."""


class ToolPiece(NamedTuple):
    """A call of a tool, or a piece of a streamed one: the pieces of one call have its `place`."""

    place: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Said:
    """What a message says. `refusal`: the model's words for that it will not answer, in a field of their own. `tools`: what
    it asks for instead."""

    content: str = ""
    reasoning: str = ""
    refusal: str = ""
    tools: Sequence[ToolPiece] = ()


def said(message: Mapping[str, Any]) -> Said:
    """What a message, or a piece of a streamed one, says. Raises NotText."""
    content, reasoning, refusal = _parts(message.get("content"))
    for name in _REASONING_FIELDS:
        if isinstance(value := message.get(name), str) and value:
            reasoning += value
            break  # servers that changed the field's name send both
    if isinstance(value := message.get("refusal"), str):
        refusal += value
    return Said(content, reasoning, refusal, _tools(message))


def _tools(message: Mapping[str, Any]) -> Sequence[ToolPiece]:
    calls = message.get("tool_calls")
    if not isinstance(calls, list) or not calls:
        older = message.get("function_call")  # OpenAI's first form: one call
        calls = [{"function": older}] if isinstance(older, dict) else []
    found = []
    for place, call in enumerate(calls):
        if not isinstance(call, dict):
            continue
        function = call.get("function")
        named = function if isinstance(function, dict) else {}
        index = call.get("index")
        arguments = named.get("arguments")
        found.append(
            ToolPiece(
                index if isinstance(index, int) else place,
                _word(call.get("id")),
                _word(named.get("name")),
                # Ollama and others write the object itself.
                arguments
                if isinstance(arguments, str)
                else ""
                if arguments is None
                else json.dumps(arguments),
            )
        )
    return tuple(found)


def _word(value: Any) -> str:
    return value if isinstance(value, str) else ""


def together(pieces: Iterable[ToolPiece]) -> list[ToolPiece]:
    """Whole calls, in order, of the pieces of a stream. Another id is another call, also at the same place: servers exist
    that count none."""
    calls: list[list[ToolPiece]] = []
    latest: dict[int, list[ToolPiece]] = {}
    for piece in pieces:
        call = latest.get(piece.place)
        if call is None or (piece.id and call[0].id and piece.id != call[0].id):
            call = latest[piece.place] = []
            calls.append(call)
        call.append(piece)
    return [
        ToolPiece(
            parts[0].place,
            next((piece.id for piece in parts if piece.id), ""),
            next((piece.name for piece in parts if piece.name), ""),
            "".join(piece.arguments for piece in parts),
        )
        for parts in calls
    ]


def _parts(content: Any) -> tuple[str, str, str]:
    """(content, reasoning, refusal)."""
    if content is None or isinstance(content, str):
        return content or "", "", ""
    if isinstance(content, dict):
        if content and not {"text", "type"} & content.keys():
            raise NotText  # JSON that somebody has read already
        content = [content]
    if not isinstance(content, list):
        raise NotText
    texts: dict[str, list[str]] = {"text": [], "thinking": [], "refusal": []}
    for part in filter(None, content):
        kind, text = _part(part)
        texts[kind].append(text)
    return "".join(texts["text"]), "".join(texts["thinking"]), "".join(texts["refusal"])


def _part(part: Any) -> tuple[str, str]:
    if isinstance(part, str):
        return "text", part
    if not isinstance(part, dict):
        raise NotText
    kind = str(part.get("type") or "text")
    if kind in ("thinking", "reasoning"):
        inner = part.get("thinking") or part.get("reasoning") or part.get("text") or ""
        # Mistral's: a list of text parts.
        return "thinking", _parts(inner)[0]
    if kind == "refusal":
        return "refusal", _text(part.get("refusal"))
    text = part.get("text")
    return "text", _text(part.get("content") if text is None and kind.endswith("text") else text)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        value = value.get("value")  # OpenAI's assistants: {"text": {"value": …}}
    if value is None:
        return ""  # an image, a tool call
    if not isinstance(value, str):
        raise NotText
    return value


def shortened(reasoning: str) -> str:
    """The end of the reasoning, with a mark where something is left out."""
    if len(reasoning) <= MAX_REASONING_CHARACTERS:
        return reasoning
    return f"…{reasoning[1 - MAX_REASONING_CHARACTERS :]}"
