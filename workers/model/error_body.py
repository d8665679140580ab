"""What a server's error says: in a refusal, or inside an answer with HTTP 200. Pure: JSON in, a `ModelError` out.

Codes first, then words. A `code`, `status` or `type` in the body counts as the HTTP status would: gateways
send `{"error": {"code": 429}}` with HTTP 200, and in the middle of a stream.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from parley.broker.core.messages import ErrorType
from parley.workers.model.model_error import MAX_ERROR_CHARACTERS, REPEATED_STATUSES, ModelError

_UNAUTHORIZED, _NOT_FOUND = ErrorType.UNAUTHORIZED, ErrorType.MODEL_NOT_FOUND
_BY_STATUS: Mapping[int, ErrorType] = {
    401: _UNAUTHORIZED,
    403: _UNAUTHORIZED,
    404: _NOT_FOUND,
    413: ErrorType.CONTEXT_TOO_LONG,
    429: ErrorType.RATE_LIMITED,
    **dict.fromkeys(REPEATED_STATUSES, ErrorType.SERVER_ERROR),
}
# In small letters, without `_`, `-`, blanks, and `error` or `exception` at the end.
_CONTEXT_CODES = frozenset(
    {
        "contextlengthexceeded", "exceedcontextsize", "contextwindowexceeded", "stringabovemaxlength", "contextoverflow",
        "promptlengthexceeded", "inputtoolong", "prompttoolong", "requesttoolarge", "maxcontextlengthexceeded",
    }
)  # fmt: skip
_STATUS_BY_CODE: Mapping[str, int] = {
    **dict.fromkeys(
        ("ratelimit", "ratelimitexceeded", "ratelimitreached", "toomanyrequests", "resourceexhausted",
         "insufficientquota", "quotaexceeded", "throttling", "throttled", "tokens", "requests"), 429),
    **dict.fromkeys(("overloaded", "engineoverloaded", "serviceunavailable", "unavailable", "nocapacity"), 503),
    **dict.fromkeys(("server", "internalserver", "internal", "apierror", "api", "upstream", "provider"), 500),
    **dict.fromkeys(("badgateway",), 502),
    **dict.fromkeys(("gatewaytimeout", "deadlineexceeded", "timeout"), 504),
    **dict.fromkeys(("invalidapikey", "authentication", "unauthenticated", "unauthorized", "incorrectapikey"), 401),
    **dict.fromkeys(("permissiondenied", "permission", "forbidden"), 403),
    **dict.fromkeys(("modelnotfound", "notfound"), 404),
    **dict.fromkeys(
        ("invalidrequest", "badrequest", "invalidargument", "validation", "failedprecondition",
         "contentfilter", "contentpolicyviolation", "unsupportedvalue", "unsupportedparameter"), 400),
}  # fmt: skip
# Where these words stand, another status may be meant: 500 (Ollama), 422 (TGI), none at all in a stream.
_CONTEXT_STATUSES = frozenset({400, 413, 422, 500})
_CONTEXT_WORDS = re.compile(
    r"context ?(length|size|window|limit)|(maximum|max) context|context_length|context_window|n_ctx|max_model_len"
    r"|max_seq_len|max_input_(tokens|length)|maximum (model|sequence|input|prompt) length"
    r"|max_new_tokens`? must be|input length|too many (input |prompt )?tokens"
    r"|(prompt|input|messages?|conversation|sequence)\b[^.]{0,60}\b(is|are|was|were)? ?(too long|too large|longer than)"
    r"|(prompt|input|sequence|request(ed)? tokens|number of tokens|token count)[^.]{0,80}\b(exceed|greater than|more than)"
    r"|too large for model with \d+ maximum context|reduce the length of|exceed(s|ed|ing)? (the )?(model'?s? )?context",
    re.IGNORECASE,
)
# The answer's length is the caller's `max_tokens`, not the prompt.
_ABOUT_THE_ANSWER = re.compile(
    r"at most \d+ completion|max_(completion_)?tokens\b[^.]{0,20} cannot be (greater|larger|more) than",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\s*[0-9]{3}\s*")
# How much of an error is searched for words.
_SEARCHED_CHARACTERS = 4_096
_CODE_FIELDS = ("code", "status", "status_code", "type", "error_code", "reason")


def refusal(status: int, body: bytes) -> ModelError:
    """The error for an HTTP status that is no answer's."""
    found = _parsed(body)
    words = found and error_text(found)
    text = words or body[:MAX_ERROR_CHARACTERS].decode(errors="replace").strip() or "(no text)"
    error_type = _error_type(
        status, *(_codes(found) if found is not None else ()), text=_all_text(found, body)
    )
    return ModelError(error_type, f"HTTP {status} from the model server: {text}", status=status)


def error_within(answer: Mapping[str, Any]) -> ModelError | None:
    """The error that a body with HTTP 200, or an event of a stream, has instead of an answer; None without one."""
    if not _is_error(answer):
        return None
    codes = _codes(answer)
    status = _status(codes)
    error_type = _error_type(status, *codes, text=_all_text(answer, b""))
    return ModelError(error_type, f"the server broke off: {error_text(answer)}", status=status)


def error_text(answer: Any) -> str:
    """The server's error text: of `error` as an object, a string or a list; of `detail`, `message` or `errors`."""
    error = answer
    for _ in range(4):  # servers nest them
        inner = _inner(error)
        if inner is None:
            break
        error = inner
    return encodable(error if isinstance(error, str) else json.dumps(error, ensure_ascii=False))[
        :MAX_ERROR_CHARACTERS
    ]


def encodable(text: Any) -> str:
    """The text in UTF-8. JSON may contain half a surrogate pair (`\\ud83d`, an emoji cut by max_tokens)."""
    return str(text).encode(errors="replace").decode()


def _inner(error: Any) -> Any:
    """What says more, one level further in; None if nothing does."""
    if isinstance(error, list):
        return error[0] if error else None
    if isinstance(error, dict):
        return next(
            (error[name] for name in ("error", "errors", "message", "detail", "msg") if error.get(name)), None
        )
    return None


def _is_error(answer: Mapping[str, Any]) -> bool:
    if (
        answer.get("error")
        or answer.get("errors")
        or answer.get("object") == "error"
        or answer.get("type") == "error"
    ):
        return True
    # FastAPI's and others': no answer, but an explanation.
    return not answer.get("choices") and any(answer.get(name) for name in ("detail", "message"))


def _codes(answer: Any) -> list[str | int]:
    """Every code in the error, the innermost first: a gateway wraps what a server said."""
    found: list[str | int] = []
    error = answer
    for _ in range(4):
        if isinstance(error, dict):
            found[:0] = [error[name] for name in _CODE_FIELDS if isinstance(error.get(name), str | int)]
        error = _inner(error)
        if error is None:
            break
    return found


def _status(codes: list[str | int]) -> int | None:
    """The HTTP status that the codes stand for."""
    numbers = (int(code) for code in codes if _NUMBER.fullmatch(str(code)))
    for number in numbers:
        if 400 <= number < 600:
            return number
    named = (_STATUS_BY_CODE.get(_plain(code)) for code in codes if isinstance(code, str))
    return next((status for status in named if status is not None), None)


def _plain(code: str) -> str:
    letters = re.sub(r"[^a-z]", "", code[:80].lower())
    return letters.removesuffix("error").removesuffix("exception") or letters


def _error_type(status: int | None, *codes: str | int, text: str) -> ErrorType:
    named = {_plain(code) for code in codes if isinstance(code, str)}
    if named & _CONTEXT_CODES:
        return ErrorType.CONTEXT_TOO_LONG
    if "modelnotfound" in named and status in (None, 400):
        return ErrorType.MODEL_NOT_FOUND
    about_context = _CONTEXT_WORDS.search(text) and not _ABOUT_THE_ANSWER.search(text)
    if about_context and (status is None or status in _CONTEXT_STATUSES):
        return ErrorType.CONTEXT_TOO_LONG
    if status is None or status >= 500:
        return ErrorType.SERVER_ERROR
    return _BY_STATUS.get(status, ErrorType.BAD_REQUEST)


def _parsed(body: bytes) -> Any:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict | list) else None


def _all_text(found: Any, body: bytes) -> str:
    """What is searched for words: the error's text, whole."""
    if found is None:
        return body[:_SEARCHED_CHARACTERS].decode(errors="replace")
    return json.dumps(found, ensure_ascii=False)[:_SEARCHED_CHARACTERS]
