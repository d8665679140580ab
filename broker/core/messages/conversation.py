"""A question as a conversation, in the form of OpenAI's chat API. Its messages are passed on as they are. Pure."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from parley.broker.core.messages.base import MAX_DESCRIPTION_BYTES, check_size

MAX_MESSAGES = 256
# Instead of a question, and as long.
MAX_MESSAGES_BYTES = MAX_DESCRIPTION_BYTES
MAX_PARTS = 256
SYSTEM_ROLES = ("system", "developer")
_ROLES = (*SYSTEM_ROLES, "user", "assistant", "tool")


# Any: every JSON value.
def _usable(messages: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
    check_size(messages, MAX_MESSAGES_BYTES, "it")
    for place, message in enumerate(messages):
        if problem := _problem(message):
            raise ValueError(f"{place}: {problem}")
    if not any(message["role"] == "user" for message in messages):
        raise ValueError("none of them is the user's")
    return messages


Conversation = Annotated[
    tuple[dict[str, Any], ...],
    Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True),
    AfterValidator(_usable),
]


def _problem(message: Mapping[str, Any]) -> str:
    """What is wrong with it; "" for nothing."""
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES:
        return f"role must be one of {', '.join(_ROLES)}"
    if isinstance(content, str):
        return ""
    if isinstance(content, list):
        if not 0 < len(content) <= MAX_PARTS:
            return f"content has {len(content)} parts; 1 to {MAX_PARTS} are possible"
        return next(
            (f"content.{place}: {p}" for place, part in enumerate(content) if (p := _of_part(part))), ""
        )
    if content is None and role == "assistant" and message.get("tool_calls"):
        return ""
    return "content must be a text or a list of parts"


def _of_part(part: Any) -> str:
    if not isinstance(part, dict) or part.get("type") not in ("text", "image_url"):
        return "type must be text or image_url"
    if part["type"] == "text":
        return "" if isinstance(part.get("text"), str) else "text must be a text"
    image = part.get("image_url")
    if not isinstance(image, dict) or not isinstance(image.get("url"), str):
        return 'image_url must be an object with "url", a text'
    return ""


def has_system_message(messages: Sequence[Mapping[str, Any]]) -> bool:
    return any(message["role"] in SYSTEM_ROLES for message in messages)


def with_words(messages: Sequence[Mapping[str, Any]], words: str) -> list[Mapping[str, Any]]:
    """The conversation with these words at its end: in the user's last message, or in one more. Templates exist that
    take no two messages of a user in a row."""
    last = messages[-1]
    if not words:
        return list(messages)
    if last["role"] != "user":
        return [*messages, {"role": "user", "content": words}]
    content = last["content"]
    joined = (
        f"{content}\n\n{words}" if isinstance(content, str) else [*content, {"type": "text", "text": words}]
    )
    return [*messages[:-1], {**last, "content": joined}]


def question_in(messages: Sequence[Any]) -> str:
    """The words of the user's last message, for people who look for it. `messages`: unchecked JSON."""
    for message in reversed(messages):
        if isinstance(message, dict) and message.get("role") == "user":
            content = message.get("content")
            parts = content if isinstance(content, list) else [{"text": content}]
            texts = [part.get("text") for part in parts if isinstance(part, dict)]
            return "\n".join(text for text in texts if isinstance(text, str))
    return ""
