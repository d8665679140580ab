"""What an answer's message says: the answer, the reasoning before it, a refusal. Pure; the JSON is unchecked.

Servers write a text as a string or as a list of parts. They put a model's reasoning into a field of its own
(`reasoning_content`, `reasoning`), into a part (`thinking`), or leave it in the text, between `<think>` and `</think>`.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

# Reasoning is passed on up to this length, its end: that is where the answer comes from.
MAX_REASONING_CHARACTERS = 16_384
_REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")
# Not `<reasoning>`: people ask for an answer in that form, and few models write it unasked.
_TAGS = (
    *((f"<{name}>", f"</{name}>") for name in ("think", "thinking", "thought", "seed:think")),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
_OPENINGS = tuple(opening for opening, _ in _TAGS)
# Each closing tag begins with one of these. A text without any holds no reasoning.
_CLOSINGS = ("</", "[/", "◁/", "<|")
# A sentence goes on after the tag, which it is about: "<think> is a tag".
_SENTENCE = re.compile(r"[ ,.;:)]+[a-z]")
_FENCE = "```"
# The end of a reasoning whose last sentence stands before the tag.
_SENTENCE_ENDS = (".", "!", "?", "…", "。", ")", "*", ":")


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
    return "text", _text(part.get("text"))


def _text(value: Any) -> str:
    if isinstance(value, dict):
        value = value.get("value")  # OpenAI's assistants: {"text": {"value": …}}
    if value is None:
        return ""  # an image, a tool call
    if not isinstance(value, str):
        raise NotText
    return value


def without_thinking(content: str) -> tuple[str, str]:
    """(answer, reasoning) of a text that may begin with the model's reasoning, in one piece or several.

    A chat template may have written the opening tag into the prompt: then only the closing one is here, on a line of
    its own or after a sentence. Reasoning that the model did not finish has no answer after it.
    """
    if not content.lstrip().startswith(_OPENINGS) and not any(mark in content for mark in _CLOSINGS):
        return content, ""
    answer, found = content, []
    while (cut := _first_reasoning(answer)) is not None:
        answer, reasoning = cut
        found.append(reasoning)
    if found:
        return answer, "\n".join(filter(None, found))
    for opening, closing in _TAGS:
        place = content.find(closing)
        if place >= 0 and opening not in content[:place] and _ends_reasoning(content, place, len(closing)):
            return content[place + len(closing) :].lstrip(), content[:place].strip()
    return content, ""


def _first_reasoning(content: str) -> tuple[str, str] | None:
    """(what follows, reasoning) if the text begins with reasoning."""
    start = content.lstrip()
    for opening, closing in _TAGS:
        if start.startswith(opening):
            reasoning, closed, answer = start[len(opening) :].partition(closing)
            if not closed and _SENTENCE.match(reasoning):
                return None
            return answer.lstrip(), reasoning.strip()
    return None


def _ends_reasoning(content: str, place: int, length: int) -> bool:
    """Whether the closing tag at `place` is one, and no word of the answer."""
    if content[:place].count(_FENCE) % 2 and _FENCE in content[place:]:
        return False  # in a block of code
    before = content[content.rfind("\n", 0, place) + 1 : place]
    end = content.find("\n", place)
    after = content[place + length : end if end >= 0 else len(content)]
    if not before.strip():
        return not after.strip()
    return before.endswith(_SENTENCE_ENDS) and (not after.strip() or after[0].isalnum())


def shortened(reasoning: str) -> str:
    """The end of the reasoning, with a mark where something is left out."""
    if len(reasoning) <= MAX_REASONING_CHARACTERS:
        return reasoning
    return f"…{reasoning[1 - MAX_REASONING_CHARACTERS :]}"
