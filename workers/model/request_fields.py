"""Which fields of a chat request a server takes: some are left out, or have another name there. Pure.

The operator says it (`PARLEY_VLLM_OMIT`, `PARLEY_VLLM_RENAME`), or the server does when it refuses a field that Parley
chose itself. What the caller asked for is never dropped because a server refuses it: the caller reads the refusal.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

# The fields that a request may have beside its model and its messages.
OPTIONAL_FIELDS = (
    "temperature",
    "top_p",
    "max_tokens",
    "seed",
    "stop",
    "stream_options",
    "response_format",
    "logprobs",
    "top_logprobs",
)
# OpenAI's newer name; servers that want it say so in their refusal.
NEWER_MAX_TOKENS = "max_completion_tokens"
# What servers call it that hand the call on to another API, and what a field holds.
_OTHERS_NAMES = {
    "max_tokens": (
        "max_completion_tokens",
        "max_output_tokens",
        "maxOutputTokens",
        "maxTokens",
        "max_new_tokens",
        "max_length",
        "max_gen_len",
        "num_predict",
    ),
    "stream_options": ("include_usage",),
    "response_format": (
        "json_schema",
        "response_schema",
        "responseSchema",
        "grammar",
        "guided",
        "structured",
    ),
}
# How servers speak of `max_tokens` that do not name it.
_OUTPUT_LIMIT = re.compile(
    r"\btokens to (generate|sample|predict)|\b(output|completion|generated|new|response) tokens"
    r"|\b(number|amount) of tokens|\b(max|min)(imum)? tokens|\btokens?\b[^.]{0,20}\bat least\b|\bat least \d+ tokens",
    re.IGNORECASE,
)
# Some servers refuse a `max_tokens` of 1. OpenAI's least is 16.
ENOUGH_TOKENS = 16
# What servers say whose model's chat template has no place for a system message: Gemma's, the first Mistral's, o1-mini's.
_NO_SYSTEM_MESSAGE = re.compile(
    r"(system|developer)['\"`]? (role|message|prompt|instruction)s? (is |are )?(not |un)(supported|enabled|allowed)"
    r"|(does not|doesn't) support ['\"`]?(system|developer)\b"
    r"|only user and assistant roles are supported(?!,? with)|roles must alternate",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"(?<![\d.])\d{2,7}(?![\d.]*\d)")
_FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class FieldRules:
    """`omit`: fields that are not sent. `rename`: (ours, theirs). `system_message`: without it, what it says stands at the
    start of the user's.

    Of fields whose value Parley chose: `omit_chosen`, those that are not sent; `least_tokens`, `most_tokens`, the bounds
    of a `max_tokens`.
    """

    omit: frozenset[str] = frozenset()
    rename: tuple[tuple[str, str], ...] = ()
    omit_chosen: frozenset[str] = frozenset()
    least_tokens: int = 1
    most_tokens: int | None = None
    system_message: bool = True

    def applied(self, body: Mapping[str, Any], chosen: Collection[str] = ()) -> dict[str, Any]:
        """The body as it is sent. `chosen`: the fields whose value Parley chose."""
        if self is PLAIN or self == PLAIN:
            return dict(body)
        names = dict(self.rename)
        left_out = self.omit | self.omit_chosen.intersection(chosen)
        sent = {names.get(key, key): value for key, value in body.items() if key not in left_out}
        limit = names.get("max_tokens", "max_tokens")
        if "max_tokens" in chosen and limit in sent:
            least = max(sent[limit], self.least_tokens)
            sent[limit] = least if self.most_tokens is None else min(least, self.most_tokens)
        if not self.system_message:
            sent["messages"] = _with_system_in_user(body["messages"])
        return sent

    def after_refusal(
        self, body: Mapping[str, Any], chosen: Collection[str], text: str
    ) -> tuple[str, "FieldRules"] | None:
        """What is left out or changed, in words, and the rules with it, after a server refused `body` saying `text`.

        None if it names no field that can be left out.
        """
        no_system = self.system_message and _NO_SYSTEM_MESSAGE.search(text)
        if no_system and list(body.get("messages", ())) != _with_system_in_user(body.get("messages", ())):
            return "no system message, but its words in the user's", replace(self, system_message=False)
        names = dict(self.rename)
        for field in _fields_meant(text, names):
            if field not in body or field in self.omit:
                continue
            if field in self.omit_chosen and field in chosen:
                continue
            newer = field == "max_tokens" and field not in names and _names(text, NEWER_MAX_TOKENS)
            if newer and _names(text, field):
                renamed = replace(self, rename=(*self.rename, (field, NEWER_MAX_TOKENS)))
                return f"`{field}` is sent as `{NEWER_MAX_TOKENS}`", renamed
            if field not in chosen:
                continue
            bounded = self._bounded(body[field], text) if field == "max_tokens" else None
            if bounded is not None:
                return bounded
            left_out = replace(self, omit_chosen=self.omit_chosen | {field})
            return f"`{field}` is left out", left_out
        return None

    def _bounded(self, asked: int, text: str) -> "tuple[str, FieldRules] | None":
        """With a least or a most `max_tokens`, if that is what the server may mean."""
        if asked < ENOUGH_TOKENS and self.least_tokens < ENOUGH_TOKENS:
            return f"{ENOUGH_TOKENS} tokens are asked for", replace(self, least_tokens=ENOUGH_TOKENS)
        now = asked if self.most_tokens is None else min(asked, self.most_tokens)
        less = [int(number) for number in _NUMBER.findall(text) if ENOUGH_TOKENS <= int(number) < now]
        if less:
            return f"{max(less)} tokens are asked for at most", replace(self, most_tokens=max(less))
        return None


PLAIN = FieldRules()
# Whose messages instruct the model. `developer`: OpenAI's newer name.
_INSTRUCTING = frozenset({"system", "developer"})


def _with_system_in_user(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Each system message's words stand before those of the user's that follows; of the last one behind them."""
    found: list[Mapping[str, Any]] = []
    waiting: list[Any] = []
    for message in messages:
        if message["role"] in _INSTRUCTING:
            waiting.append(message["content"])
        elif waiting and message["role"] == "user":
            found.append({**message, "content": _joined([*waiting, message["content"]])})
            waiting = []
        else:
            found.append(message)
    if waiting and found and found[-1]["role"] == "user":
        found[-1] = {**found[-1], "content": _joined([found[-1]["content"], *waiting])}
    elif waiting:
        found.append({"role": "user", "content": _joined(waiting)})
    return found


def _joined(contents: Sequence[Any]) -> Any:
    if any(isinstance(content, list) for content in contents):  # a conversation's own parts
        return [part for content in contents for part in _as_parts(content)]
    return "\n\n".join(contents)


def _as_parts(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [{"type": "text", "text": content}]


def _fields_meant(text: str, names: Mapping[str, str]) -> Iterator[str]:
    """The fields that a refusal speaks of, those first that it names. `names`: of renamed fields, as they are sent."""
    for field in OPTIONAL_FIELDS:
        if any(_names(text, name) for name in (names.get(field, field), *_OTHERS_NAMES.get(field, ()))):
            yield field
    if _OUTPUT_LIMIT.search(text):
        yield "max_tokens"


def _names(text: str, field: str) -> bool:
    return re.search(rf"(?<![A-Za-z0-9_]){re.escape(field)}(?![A-Za-z0-9_])", text, re.IGNORECASE) is not None


def parse_omit(text: str) -> frozenset[str]:
    """`seed, stream_options`. Raises ValueError for what is no optional field."""
    fields = frozenset(part.strip() for part in text.split(",") if part.strip())
    if unknown := sorted(fields - set(OPTIONAL_FIELDS)):
        raise ValueError(f"{', '.join(unknown)}: only these can be left out: {', '.join(OPTIONAL_FIELDS)}")
    return fields


def parse_rename(text: str) -> tuple[tuple[str, str], ...]:
    """`max_tokens=max_completion_tokens`, comma-separated. Raises ValueError for another form or another field."""
    pairs = tuple(
        (ours.strip(), theirs.strip())
        for ours, _, theirs in (part.partition("=") for part in text.split(",") if part.strip())
    )
    for ours, theirs in pairs:
        if ours not in OPTIONAL_FIELDS:
            raise ValueError(f"{ours}: only these can be renamed: {', '.join(OPTIONAL_FIELDS)}")
        if not _FIELD_NAME.fullmatch(theirs) or theirs in ("model", "messages", "stream", *OPTIONAL_FIELDS):
            raise ValueError(f"{ours}={theirs}: write it like max_tokens={NEWER_MAX_TOKENS}")
    if len({ours for ours, _ in pairs}) < len(pairs) or len({theirs for _, theirs in pairs}) < len(pairs):
        raise ValueError("a field has two names, or two fields have the same")
    return pairs
