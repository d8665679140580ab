"""What a server's error says: in a refusal, or inside an answer with HTTP 200. Pure: JSON in, a `ModelError` out.

A `code`, `status` or `type` in the body counts as the HTTP status would: gateways send `{"error": {"code": 429}}` with
HTTP 200, and in the middle of a stream. What codes and words mean is in `error_meaning`.
"""

import json
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from parley.broker.core.messages import ErrorType
from parley.workers.model.error_meaning import Code, error_type, status_of_codes, status_of_words
from parley.workers.model.model_error import MAX_ERROR_CHARACTERS, ModelError

# A validator's words for what it was sent, the prompt among it. It may speak of anything.
_QUOTED = re.compile(r"input_value=.*|['\"](input|messages|prompt)['\"]: ?[\[{'\"].*", re.DOTALL)
_QUOTING_FIELDS = frozenset({"input", "inputs", "messages", "prompt", "body", "request", "ctx"})
# How deep servers put one error into another.
NESTED_LEVELS = 4
# How deep an error is searched for words.
_SEARCHED_LEVELS = 8
_EXPLANATIONS = ("detail", "message", "msg", "error_msg", "errorMessage")
_WORD_FIELDS = ("error", "errors", *_EXPLANATIONS, "base_resp", "status_msg")
# How much of an error is searched for words.
_SEARCHED_CHARACTERS = 4_096
# Of an error as the server wrote it, what is kept to be searched for a pause and for names of fields.
MAX_SERVER_TEXT_CHARACTERS = 16 * 1024
# What the model wrote stands in these.
_ANSWER_FIELDS = frozenset({"choices", "delta", "logprobs"})
_CODE_FIELDS = (
    "code", "status", "status_code", "statusCode", "type", "error_code", "errorCode", "error_type", "reason",
    "error",  # as a word: "Too Many Requests"
)  # fmt: skip


def refusal(status: int, body: bytes) -> ModelError:
    """The error for an HTTP status that is no answer's."""
    found = _parsed(body)
    words = found and error_text(found)
    text = words or body[:MAX_ERROR_CHARACTERS].decode(errors="replace").strip() or "(no text)"
    codes = _codes(found) if found is not None else []
    kind = error_type(status, codes, _all_text(found, body))
    return ModelError(kind, f"HTTP {status} from the model server: {text}", status=status)


def error_within(answer: Mapping[str, Any]) -> ModelError | None:
    """The error that a body with HTTP 200, or an event of a stream, has instead of an answer; None without one."""
    if not _is_error(answer):
        return None
    codes, said = _codes(answer), error_text(answer)
    status = status_of_codes(codes) or status_of_words(said)
    kind = error_type(status, codes, _all_text(answer, b""))
    text = f"the server broke off: {said}"
    return ModelError(kind, text, status=status, server_text=_beside_the_answer(answer))


def error_in_text(text: str) -> ModelError | None:
    """The error that a text under HTTP 200 tells, no JSON: "Too Many Requests". None if it tells no known one."""
    error = error_within({"error": text.strip()[:_SEARCHED_CHARACTERS]})
    if error is None or (error.error_type is ErrorType.SERVER_ERROR and error.status is None):
        return None
    return error


def raise_within(answer: Mapping[str, Any]) -> None:
    """Raises the error that is within, if there is one."""
    error = error_within(answer)
    if error is not None:
        raise error


def raise_within_choice(choice: Mapping[str, Any]) -> None:
    """The same for one of `choices`: its `message` is no explanation of an error."""
    if isinstance(choice.get("error"), dict):
        raise_within(choice)


def error_text(answer: Any) -> str:
    """The server's error text: of `error` as an object, a string or a list; of `detail`, `message` or `errors`."""
    *_, error = _levels(answer)
    return encodable(error if isinstance(error, str) else json.dumps(error, ensure_ascii=False))[
        :MAX_ERROR_CHARACTERS
    ]


def encodable(text: Any) -> str:
    """The text in UTF-8. JSON may contain half a surrogate pair (`\\ud83d`, an emoji cut by max_tokens).

    Two halves beside each other, of two events of a stream, become one character.
    """
    whole = str(text)
    if whole.isascii():
        return whole
    whole = whole.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return whole.encode(errors="replace").decode()


def _levels(answer: Any) -> Iterator[Any]:
    """The error from the outside to what says most: servers nest them."""
    yield answer
    for _ in range(NESTED_LEVELS):
        answer = _inner(answer)
        if answer is None:
            return
        yield answer


def _inner(error: Any) -> Any:
    """What says more, one level further in; None if nothing does."""
    if isinstance(error, list):
        return error[0] if error else None
    if isinstance(error, dict):
        return next(
            (error[name] for name in _WORD_FIELDS if error.get(name) and error[name] is not True), None
        )
    return None


def _is_error(answer: Mapping[str, Any]) -> bool:
    if is_said(answer.get("error")) or is_said(answer.get("errors")):
        return True
    if "error" in (answer.get("object"), answer.get("type")):
        return True
    if answer.get("choices"):
        return False
    # MiniMax's, which every answer has.
    base = answer.get("base_resp")
    # FastAPI's and others': no answer, but an explanation.
    return bool(
        any(answer.get(name) for name in _EXPLANATIONS)
        or (isinstance(base, dict) and base.get("status_code"))
    )


def is_said(error: Any, levels: int = _SEARCHED_LEVELS) -> bool:
    """Whether an error is one. Servers in Go send its fields with every answer, all of them empty."""
    if isinstance(error, dict):
        error = list(error.values())
    if isinstance(error, list) and levels:
        return any(is_said(inner, levels - 1) for inner in error)
    return bool(error)


def _codes(answer: Any) -> list[Code]:
    """Every code in the error, the innermost first: a gateway wraps what a server said."""
    found: list[Code] = []
    for error in islice(_levels(answer), NESTED_LEVELS):
        if isinstance(error, dict):
            found[:0] = [
                error[name] for name in _CODE_FIELDS if isinstance(error.get(name), str | int | float)
            ]
    return found


def _parsed(body: bytes) -> Any:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict | list) else None


def _beside_the_answer(answer: Mapping[str, Any]) -> str:
    """The error as the server wrote it, with its codes and pauses, and nothing that the model wrote."""
    told = {
        name: value
        for name, value in answer.items()
        if name not in _ANSWER_FIELDS and not (name == "message" and isinstance(value, dict))
    }
    try:
        return json.dumps(told)[:MAX_SERVER_TEXT_CHARACTERS]
    except RecursionError:
        return ""


def _all_text(found: Any, body: bytes) -> str:
    """What is searched for words: all texts of the error, but for what it quotes of the request."""
    text = body.decode(errors="replace") if found is None else "\n".join(_texts(found))
    return _QUOTED.sub("", text)[:_SEARCHED_CHARACTERS]


def _texts(found: Any, levels: int = _SEARCHED_LEVELS) -> Iterator[str]:
    if isinstance(found, dict):
        # Its own words before codes.
        names = sorted(found.keys() - _QUOTING_FIELDS, key=lambda name: name not in _WORD_FIELDS)
        of_field = [f"'{found['param']}'"] if isinstance(found.get("param"), str) else []
        found = [*(found[name] for name in names), *of_field]
    if isinstance(found, str):
        yield found
    elif isinstance(found, list) and levels:
        for inner in found:
            yield from _texts(inner, levels - 1)
