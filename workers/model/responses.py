"""Reads a model server's whole answer, and decides what of it is one. Pure: bytes in, values out.

Any fault is a `ModelError` with an `error_type` of the contract's closed set. Streams are put together in
`stream_events`, errors are read in `error_body`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from parley.broker.core.finish_reasons import is_broken_off, is_filtered, is_rate_limit
from parley.broker.core.messages import MAX_FIGURE, MAX_TOOL_CALLS_BYTES, ErrorType, ToolCall, Usage
from parley.workers.model.answer_text import (
    NotText,
    Said,
    ToolPiece,
    said,
    shortened,
    together,
)
from parley.workers.model.error_body import encodable, error_in_text, raise_within, raise_within_choice
from parley.workers.model.model_error import MAX_ERROR_CHARACTERS, ModelError
from parley.workers.model.thinking_marks import without_thinking
from parley.workers.model.token_logprobs import TokenLogprobs

# Larger than any answer that can be passed on: an outcome must fit into one NATS message (1 MiB).
MAX_ANSWER_BYTES = 4 * 1024 * 1024
# What stands for no reason yet: DashScope writes the word.
_NO_REASON = frozenset({"", "null", "none"})
_MAX_REASON_CHARACTERS = 64
_MAX_NAMES_CHARACTERS = 200
# The model waits for what its tools say. `function_call`: OpenAI's first form.
_FOR_TOOLS = frozenset({"tool_calls", "function_call", "tool_use"})
_USAGE = tuple(Usage.model_fields)


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer. `attempts`: the calls it took, this one included.

    `reasoning`: what the model thought before it, where the server says so; at most 16,384 characters, the last ones.
    `refused`: the model said that it will not answer; `content` holds its words. `logprobs`: by token, where asked for.
    """

    content: str
    finish_reason: str
    model: str
    usage: Usage
    attempts: int = 1
    reasoning: str = ""
    refused: bool = False
    logprobs: tuple[dict[str, Any], ...] | None = None


def check_size(size: int) -> None:
    """Raises ModelError for an answer of more than MAX_ANSWER_BYTES."""
    if size > MAX_ANSWER_BYTES:
        raise malformed(f"answer is over {MAX_ANSWER_BYTES} bytes")


def malformed(problem: str) -> ModelError:
    return ModelError(ErrorType.MALFORMED_ANSWER, problem)


def completion(body: bytes, model: str) -> Completion:
    """Reads a plain answer. `model`: as requested, if the server names none. Raises ModelError."""
    answer = _json(body)
    raise_within(answer)
    choice = _first_choice(answer)
    raise_within_choice(choice)
    message = choice.get("message")
    if not isinstance(message, dict):
        message = {"content": choice.get("text")}  # of the older completions API
        if message["content"] is None:
            raise malformed("the answer has no choices[0].message.content")
    try:
        all_said = said(message)
    except NotText as error:
        raise malformed("the answer's choices[0].message.content is no text") from error
    logprobs = TokenLogprobs()
    logprobs.add(choice)
    model = answer.get("model") or model
    return checked(all_said, choice.get("finish_reason"), model, usage_of(answer), logprobs)


def checked(
    all_said: Said, finish_reason: Any, model: Any, usage: Usage, logprobs: TokenLogprobs
) -> Completion:
    """What was said, as an answer. Raises ModelError if it is none, or half of one."""
    reason = encodable(reason_of(finish_reason) or "unknown")[:_MAX_REASON_CHARACTERS]
    if (limited := is_rate_limit(reason)) or is_broken_off(reason):
        kind = ErrorType.RATE_LIMITED if limited else ErrorType.SERVER_ERROR
        raise ModelError(kind, f"the server broke off: finish_reason {reason}")
    content, thought = without_thinking(all_said.content)
    reasoning, refused = "", False
    if all_said.reasoning or thought:
        reasoning = shortened(encodable("\n".join(filter(None, (all_said.reasoning, thought)))))
    if not content.strip():
        content, refused = all_said.refusal, True
    # Words beside a call that the model waits for lead up to it: "Let me look."
    is_unanswered = not content.strip() or reason in _FOR_TOOLS
    if is_unanswered and (calls := _kept(all_said.tools)):
        raise _tool_call(calls, content, usage)
    if not content.strip():
        raise ModelError(ErrorType.EMPTY_ANSWER, _nothing(reason, reasoning))
    return Completion(
        encodable(content),
        reason,
        encodable(model),
        usage,
        reasoning=reasoning,
        refused=refused,
        logprobs=logprobs.kept,
    )


def _tool_call(calls: Sequence[ToolCall], content: str, usage: Usage) -> ModelError:
    names = ", ".join(call.name for call in calls)[:_MAX_NAMES_CHARACTERS]
    text = f"the model asked for a tool instead of answering: {names}; Parley runs none"
    if words := encodable(" ".join(content.split())[:_MAX_NAMES_CHARACTERS]):
        text = f"{text}; it said: {words}"
    return ModelError(ErrorType.TOOL_CALL, text, usage=usage, tool_calls=calls)


def _kept(pieces: Iterable[ToolPiece]) -> list[ToolCall]:
    """The calls of tools, as many as an outcome carries."""
    calls: list[ToolCall] = []
    size = 0
    for _, call_id, name, arguments in together(pieces):
        call = ToolCall(id=encodable(call_id), name=encodable(name) or "?", arguments=encodable(arguments))
        size += len(call.encode())
        if size > MAX_TOOL_CALLS_BYTES:
            call = ToolCall(name=call.name[:_MAX_NAMES_CHARACTERS])  # that there was one is told all the same
            return calls or [call]
        calls.append(call)
    return calls


def reason_of(finish_reason: Any) -> Any:
    """The finish_reason, or None for what says that there is none yet. TGI and SGLang have objects with a `type`."""
    reason = finish_reason.get("type") if isinstance(finish_reason, dict) else finish_reason
    return None if str(reason or "").lower() in _NO_REASON else reason


def _nothing(reason: str, reasoning: str) -> str:
    """Why there is no answer, and what to do."""
    if is_filtered(reason):
        return f"a content filter of the model server held the answer back (finish_reason {reason})"
    if reasoning:
        return f"the model reasoned and came to no answer (finish_reason {reason}): does it need more `max_tokens`?"
    return f"the model answered nothing (finish_reason {reason})"


def _first_choice(answer: Mapping[str, Any]) -> dict[str, Any]:
    choices = answer.get("choices")
    found = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    first = next((choice for choice in found if not choice.get("index")), found[0] if found else None)
    if first is None:
        raise malformed("the answer has no choices[0].message.content")
    return first


def _json(body: bytes) -> dict[str, Any]:
    try:
        answer = from_json(body)
    except ValueError:
        answer = _read_leniently(body)
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]  # Google sends errors so
    if not isinstance(answer, dict):
        raise malformed("the answer is not a JSON object")
    return answer


def _read_leniently(body: bytes) -> Any:
    """As Python reads JSON, which takes twice as long: a byte order mark, half of a surrogate pair."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        known = error_in_text(body[:MAX_ERROR_CHARACTERS].decode(errors="replace"))
        if known is not None:
            raise known from error
        raise malformed("the answer is not JSON" if body.strip() else "the answer is empty") from error


def usage_of(answer: Mapping[str, Any]) -> Usage:
    counts = answer.get("usage")
    if not isinstance(counts, dict):
        return Usage()
    # Only numbers that the wire carries. The others are left out: they are no reason to refuse the answer.
    details = counts.get("prompt_tokens_details")
    if isinstance(details, dict):  # OpenAI's and vLLM's; vLLM tells with --enable-prompt-tokens-details
        counts = {**counts, "cached_tokens": details.get("cached_tokens")}
    known = {key: count for key in _USAGE if type(count := counts.get(key)) is int}
    return Usage(**{key: count for key, count in known.items() if 0 <= count <= MAX_FIGURE})
