"""What the codes and the words of a server's error mean: the type of the error, and the HTTP status they stand for. Pure.

Codes first, then words. Both are known by their kind, not one by one: each server has spellings of its own.
"""

import re
from collections.abc import Mapping, Sequence

from parley.broker.core.messages import ErrorType
from parley.workers.model.model_error import REPEATED_STATUSES

# As JSON has them: 429, "429", "rate_limit_exceeded".
Code = str | int | float

_UNAUTHORIZED, _NOT_FOUND = ErrorType.UNAUTHORIZED, ErrorType.MODEL_NOT_FOUND
_BY_STATUS: Mapping[int, ErrorType] = {
    401: _UNAUTHORIZED,
    403: _UNAUTHORIZED,
    404: _NOT_FOUND,
    413: ErrorType.CONTEXT_TOO_LONG,
    429: ErrorType.RATE_LIMITED,
    **dict.fromkeys(REPEATED_STATUSES, ErrorType.SERVER_ERROR),
}

# ── codes, in small letters, without `_`, `-`, blanks, and `error` or `exception` at the end ─────────────────────

_CONTEXT_CODE = re.compile(
    r"context(length|size|window|limit)?(exceed|overflow|limitreached|toolong|toolarge)"
    r"|exceed(s|ed)?(max|model)*(context|prompt|input)"
    r"|(prompt|input|sequence|content|conversation)[a-z]{0,16}(length|size|limit|tokens?)(limit)?(exceed|reached)"
    r"|(prompt|input|content|text|sequence|entity|payload|body|messages?|conversation|request)(length|size|tokens?)?(is)?"
    r"(toolong|toolarge|toobig|abovemax)"
)
# Also said of the tokens that a rate allows.
_TOKENS_CODE = re.compile(
    r"tokens?(limit|count|length)(exceed|reached)|toomany[a-z]{0,8}tokens|tokens?exceed"
)
# Of any text in the request, a stop sequence among them.
_ANY_TEXT_CODE = re.compile(r"stringabovemax|stringtoolong")
_RATE_CODE = re.compile(
    r"per(second|minute|hour|day)|daily|hourly|monthly|ratelimit|quota|throttl|toomanyrequests"
)
_MODEL_CODES = frozenset(
    {"modelnotfound", "invalidmodel", "modelnotavailable", "modelnotexist", "deploymentnotfound"}
)
_KEY_CODES = frozenset(
    {"invalidapikey", "incorrectapikey", "apikeyinvalid", "unauthenticated", "authentication"}
)
_STATUS_BY_CODE: Mapping[str, int] = {
    **dict.fromkeys(("resourceexhausted", "tokens", "requests"), 429),
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
# A longer one is a sentence.
_MAX_NAME_CHARACTERS = 40
_NUMBER = re.compile(r"\s*([0-9]{3})(?:\.0)?\s*")

# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────

# Where these words stand, another status may be meant: 500 (Ollama), 422 (TGI), none at all in a stream.
_CONTEXT_STATUSES = frozenset({400, 413, 422, 500})
_CONTEXT_WORDS = re.compile(
    r"context ?(length|size|window|limit)|(maximum|max) context|context_length|context_window"
    r"|(exceed|greater|larger|longer|more than)[^.]{0,60}(n_ctx|max_model_len|max_seq_len)"
    r"|(n_ctx|max_model_len|max_seq_len|context|context size)( is| was)? too (small|short)"
    r"|max_input_(tokens|length)|maximum (model|sequence|input|prompt) length|exceed(s|ed)? model token limit"
    r"|max_new_tokens`? must be|too many (input |prompt )?tokens"
    r"|range of input length|input length[^.]{0,40} (exceed|too|longer|greater|more than)"
    r"|(prompt|input|messages?|conversation|sequence|content|text|question)\b[^.]{0,60}\b(is|are|was|were)? ?"
    r"(too (long|large|big)|longer than)|(request|payload)( entity| body| payload)?( is)? too (long|large|big)"
    r"|(prompt|input(?! should be)|sequence|request(ed)? tokens|number of tokens|token count)"
    r"[^.]{0,80}\b(exceed|greater than|more than)"
    r"|(messages?|conversation|content|text|request)\b[^.]{0,60}\bexceed[^.]{0,60}\b(tokens?|length|characters)\b"
    r"|(inputs?|prompt|messages?|conversation|content|text|request)\b[^.]{0,60}\b(less|fewer) than \d+ tokens"
    r"|(inputs?|prompt|messages?|conversation|content|text|request)\b[^.]{0,40}\b\d+ tokens\b[^.]{0,40}"
    r"\b(limit|max|maximum|at most|only|allowed)\b"
    r"|\btokens? limit[^.]{0,20}\b(exceed|reached)|\bexceed(s|ed|ing)? (the |its |your )?tokens? limit"
    r"|\b(prompt|input|sequence|context)\b[^.>]{0,60}\d\)?( tokens)? ?> ?\(?(max|limit|\d)"
    r"|\b(shorten|shorter|truncate|trim|reduce)\b[^.]{0,20}\b(prompt|inputs?|messages?|conversation|context)\b"
    r"|too large for model with \d+ maximum context|reduce the length of|exceed(s|ed|ing)? (the )?(model'?s? )?context",
    re.IGNORECASE,
)
# The answer's length is the caller's `max_tokens`, not the prompt; memory, queues, time and rates are the server's; a
# filter held it back; a field is named.
_ABOUT_ANOTHER = re.compile(
    r"at most \d+ completion|max_(completion_)?tokens\b[^.]{0,20} cannot be (greater|larger|more) than"
    r"|out of memory|\boom\b|(failed|unable) to allocate|timeout|timed out|time limit|(took|taking) too long"
    r"|\bqueued?\b|\bbuffers?\b|preempted"
    r"|flagged|moderation|safety|\bpolicy\b|per[ -](second|minute|hour|day)|rate.?limit|\bquota\b|please wait"
    r"|\b[tr]p[mds]\b|\bimages?\b|\b(response|headers?|ur[il])( \w+)?( is| are)? too (long|large|big)"
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
# "HTTP 429: slow", "Error code: 503 - …", "[401] no"; no figure of something: "500 tokens are too many".
_STATUS_WORDS = re.compile(
    r"\W*(?:(?:api|client|server|upstream|error|http(?:/\d(?:\.\d)?)?|status|code|response|returned|received|got"
    r"|request|failed|with)\b\W*){0,6}([45]\d\d)\b(?![.,]\d|\s*(?:%|tokens?|characters?|words?|messages?|bytes?|m?s\b|sec))",
    re.IGNORECASE,
)
_RATE_WORDS = re.compile(
    r"too many (concurrent )?requests|\b(tokens|requests) per (second|minute|hour|day)\b|\brate.?limited\b|\bthrottl(ed|ing)\b"
    r"|(rate.?limit|quota)s?\b[^.]{0,40}\b(reach|exceed|hit\b|exhaust)"
    r"|(reach|exceed|hit\b|exhaust)[^.]{0,40}\b(rate.?limit|quota)",
    re.IGNORECASE,
)


def error_type(status: int | None, codes: Sequence[Code], text: str) -> ErrorType:
    """The type of an error. `status`: of HTTP, or what the error says of it itself. `text`: all its words."""
    names = [code for code in codes if isinstance(code, str)]
    named = {_plain(name) for name in names}
    another = _ABOUT_ANOTHER.search(text) is not None
    # A sentence in place of a code is read as words.
    if any(_is_context(_plain(name), status, another) for name in names if " " not in name):
        return ErrorType.CONTEXT_TOO_LONG
    about_context = not another and _CONTEXT_WORDS.search(text)
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


def status_of_codes(codes: Sequence[Code]) -> int | None:
    """The HTTP status that the codes stand for."""
    found = (_NUMBER.fullmatch(str(code)) for code in codes)
    for number in (int(one[1]) for one in found if one):
        if 400 <= number < 600:
            return number
    named = (_status_of_name(code) for code in codes if isinstance(code, str))
    return next((status for status in named if status is not None), None)


def status_of_words(text: str) -> int | None:
    """The HTTP status that a message begins with, or 429 for one that speaks of a rate."""
    found = _STATUS_WORDS.match(text)
    if found:
        return int(found[1])
    return 429 if _RATE_WORDS.search(text) else None


def _status_of_name(code: str) -> int | None:
    name = _plain(code)
    known = _STATUS_BY_CODE.get(name)
    if known is None and len(code) <= _MAX_NAME_CHARACTERS and _RATE_CODE.search(name):
        return 429
    return known


def _plain(code: str) -> str:
    letters = re.sub(r"[^a-z]", "", code[:80].lower())
    return letters.removesuffix("error").removesuffix("exception") or letters


def _is_context(code: str, status: int | None, another: bool) -> bool:
    """Whether a code says that the prompt is too long. `another`: the error's words are about something else."""
    if _RATE_CODE.search(code):
        return False
    if _CONTEXT_CODE.search(code):
        return True
    if another:
        return False
    in_doubt = _TOKENS_CODE.search(code) and (status is None or status in _CONTEXT_STATUSES)
    return bool(in_doubt or _ANY_TEXT_CODE.search(code))
