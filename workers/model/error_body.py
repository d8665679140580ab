"""What a server's error says: in a refusal, or inside an answer with HTTP 200. Pure: JSON in, a `ModelError` out.

Codes first, then words. A `code`, `status` or `type` in the body counts as the HTTP status would: gateways
send `{"error": {"code": 429}}` with HTTP 200, and in the middle of a stream.
"""

import json
import re
from collections.abc import Iterator, Mapping
from itertools import islice
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
        "modelmaxprompttokensexceeded",
    }
)  # fmt: skip
_MODEL_CODES = frozenset(
    {"modelnotfound", "invalidmodel", "modelnotavailable", "modelnotexist", "deploymentnotfound"}
)
_KEY_CODES = frozenset(
    {"invalidapikey", "incorrectapikey", "apikeyinvalid", "unauthenticated", "authentication"}
)
_STATUS_BY_CODE: Mapping[str, int] = {
    **dict.fromkeys(
        ("ratelimit", "ratelimitexceeded", "ratelimitreached", "toomanyrequests", "resourceexhausted",
         "insufficientquota", "quotaexceeded", "throttling", "throttled", "tokens", "requests"), 429),
    **dict.fromkeys(("overloaded", "engineoverloaded", "serviceunavailable", "unavailable", "nocapacity"), 503),
    **dict.fromkeys(("server", "internalserver", "internal", "apierror", "api", "upstream", "provider"), 500),
    **dict.fromkeys(("badgateway",), 502),
    **dict.fromkeys(("gatewaytimeout", "deadlineexceeded", "timeout"), 504),
    **dict.fromkeys((*_KEY_CODES, "unauthorized"), 401),
    **dict.fromkeys(("permissiondenied", "permission", "forbidden"), 403),
    **dict.fromkeys((*_MODEL_CODES, "notfound"), 404),
    **dict.fromkeys(
        ("invalidrequest", "badrequest", "invalidargument", "validation", "failedprecondition",
         "contentfilter", "contentpolicyviolation", "unsupportedvalue", "unsupportedparameter"), 400),
}  # fmt: skip
# Where these words stand, another status may be meant: 500 (Ollama), 422 (TGI), none at all in a stream.
_CONTEXT_STATUSES = frozenset({400, 413, 422, 500})
_CONTEXT_WORDS = re.compile(
    r"context ?(length|size|window|limit)|(maximum|max) context|context_length|context_window"
    r"|(exceed|greater|larger|longer|more than)[^.]{0,60}(n_ctx|max_model_len|max_seq_len)"
    r"|max_input_(tokens|length)|maximum (model|sequence|input|prompt) length|exceed(s|ed)? model token limit"
    r"|max_new_tokens`? must be|too many (input |prompt )?tokens"
    r"|range of input length|input length[^.]{0,40} (exceed|too|longer|greater|more than)"
    r"|(prompt|input|messages?|conversation|sequence)\b[^.]{0,60}\b(is|are|was|were)? ?(too long|too large|longer than)"
    r"|(prompt|input(?! should be)|sequence|request(ed)? tokens|number of tokens|token count)"
    r"[^.]{0,80}\b(exceed|greater than|more than)"
    r"|too large for model with \d+ maximum context|reduce the length of|exceed(s|ed|ing)? (the )?(model'?s? )?context",
    re.IGNORECASE,
)
# The answer's length is the caller's `max_tokens`, not the prompt; memory, time and rates are the server's; a filter
# held it back; a field is named.
_ABOUT_ANOTHER = re.compile(
    r"at most \d+ completion|max_(completion_)?tokens\b[^.]{0,20} cannot be (greater|larger|more) than"
    r"|out of memory|\boom\b|(failed|unable) to allocate|timeout|timed out|time limit"
    r"|flagged|moderation|safety|\bpolicy\b|per (second|minute|hour|day)|\bimages?\b"
    r"|(^|['\"`])(stop|seed|temperature)(\[\d+\])?['\"`:]",
    re.IGNORECASE | re.MULTILINE,
)
_MODEL_WORDS = re.compile(
    r"\Amodel not exist|\A(the )?(requested )?model [^ ]{1,100} (does not exist|(was |is )?not found)"
    r"|\Ainvalid model( name| id)?\s*(['\"`:]|\Z)|invalid model name passed|is not a valid model",
    re.IGNORECASE,
)
_KEY_WORDS = re.compile(
    r"(incorrect|invalid) api[ _-]?key|api[ _-]?key (is )?(not valid|invalid)", re.IGNORECASE
)
# A validator's words for what it was sent, the prompt among it. It may speak of anything.
_QUOTED = re.compile(r"input_value=.*|['\"](input|messages|prompt)['\"]: ?[\[{'\"].*", re.DOTALL)
_QUOTING_FIELDS = frozenset({"input", "inputs", "messages", "prompt", "body", "request", "ctx"})
# How deep servers put one error into another.
NESTED_LEVELS = 4
# How deep an error is searched for words.
_SEARCHED_LEVELS = 8
_NUMBER = re.compile(r"\s*([0-9]{3})(?:\.0)?\s*")
_EXPLANATIONS = ("detail", "message", "msg", "error_msg", "errorMessage")
_WORD_FIELDS = ("error", "errors", *_EXPLANATIONS, "base_resp", "status_msg")
# How much of an error is searched for words.
_SEARCHED_CHARACTERS = 4_096
_CODE_FIELDS = (
    "code", "status", "status_code", "statusCode", "type", "error_code", "errorCode", "error_type", "reason",
    "error",  # as a word: "Too Many Requests"
)  # fmt: skip


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
    if _says(answer.get("error")) or _says(answer.get("errors")):
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


def _says(error: Any, levels: int = _SEARCHED_LEVELS) -> bool:
    """Whether an error is one. Servers in Go send its fields with every answer, all of them empty."""
    if isinstance(error, dict):
        error = list(error.values())
    if isinstance(error, list) and levels:
        return any(_says(inner, levels - 1) for inner in error)
    return bool(error)


def _codes(answer: Any) -> list[str | int | float]:
    """Every code in the error, the innermost first: a gateway wraps what a server said."""
    found: list[str | int | float] = []
    for error in islice(_levels(answer), NESTED_LEVELS):
        if isinstance(error, dict):
            found[:0] = [
                error[name] for name in _CODE_FIELDS if isinstance(error.get(name), str | int | float)
            ]
    return found


def _status(codes: list[str | int | float]) -> int | None:
    """The HTTP status that the codes stand for."""
    found = (_NUMBER.fullmatch(str(code)) for code in codes)
    for number in (int(one[1]) for one in found if one):
        if 400 <= number < 600:
            return number
    named = (_STATUS_BY_CODE.get(_plain(code)) for code in codes if isinstance(code, str))
    return next((status for status in named if status is not None), None)


def _plain(code: str) -> str:
    letters = re.sub(r"[^a-z]", "", code[:80].lower())
    return letters.removesuffix("error").removesuffix("exception") or letters


def _error_type(status: int | None, *codes: str | int | float, text: str) -> ErrorType:
    named = {_plain(code) for code in codes if isinstance(code, str)}
    another = _ABOUT_ANOTHER.search(text)
    if named & _CONTEXT_CODES and not (another and "stringabovemaxlength" in named):
        return ErrorType.CONTEXT_TOO_LONG
    about_context = _CONTEXT_WORDS.search(text) and not another
    if about_context and (status is None or status in _CONTEXT_STATUSES):
        return ErrorType.CONTEXT_TOO_LONG
    if status in (None, 400, 422):
        if named & _KEY_CODES or _KEY_WORDS.search(text):
            return _UNAUTHORIZED
        if named & _MODEL_CODES or _MODEL_WORDS.search(text):
            return _NOT_FOUND
    if status is None or status >= 500:
        return ErrorType.SERVER_ERROR
    # Below 400 the caller is not to blame: 304, say.
    return _BY_STATUS.get(status, ErrorType.BAD_REQUEST if status >= 400 else ErrorType.MALFORMED_ANSWER)


def _parsed(body: bytes) -> Any:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict | list) else None


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
