"""What a model server's `finish_reason` tells of an answer. Servers have words of their own, in any case. Pure."""

import re

# The answer reached the most tokens that it, or the context, may have.
_TOO_LONG = frozenset({"length", "max_tokens", "max_output_tokens", "model_length", "token_limit"})
# The model, or a filter between, would not answer, or not go on.
_FILTERED = frozenset(
    {
        "content_filter", "content_filtered", "safety", "refusal", "recitation", "blocked", "blocklist", "spii",
        "prohibited_content", "sensitive", "guardrail_intervened", "error_toxic",
    }
)  # fmt: skip
# A server that has no room, or lets no more calls in.
_RATE_LIMITED = re.compile(r"(^|_)(rate_?limit|too_many_requests|throttl|quota)")
# The server gave the answer up, with HTTP 200 and the text so far. A vLLM that stops ends all its answers with `abort`
# (`--shutdown-timeout 0`, its default); gateways end one with `error` or `upstream_error` if its server failed, DeepSeek
# with `insufficient_system_resource`, Zhipu with `network_error`, Google with `malformed_function_call`.
_BROKEN_OFF = re.compile(
    r"(^|_)(error|errored|exception|abort|aborted|fail|failed|failure|cancel|cancelled|canceled|interrupted|timeout"
    r"|timed_out|overload|overloaded|unavailable|incomplete|disconnect|disconnected|malformed|crash|crashed"
    r"|insufficient_system_resource)(_|$)"
)
_USUAL = frozenset({"stop", "length", "unknown"})
_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_NO_LETTERS = re.compile(r"[\W_]+")


def is_too_long(finish_reason: str) -> bool:
    return _word(finish_reason) in _TOO_LONG


def is_filtered(finish_reason: str) -> bool:
    return _word(finish_reason) in _FILTERED


def is_rate_limit(finish_reason: str) -> bool:
    return finish_reason not in _USUAL and _RATE_LIMITED.search(_spaced(finish_reason)) is not None


def is_broken_off(finish_reason: str) -> bool:
    """Whether what came is half of an answer, for a reason that lies with the server."""
    if finish_reason in _USUAL or any(
        word in _FILTERED or word in _TOO_LONG for word in map(_word, finish_reason.split(":"))
    ):
        return False
    return _BROKEN_OFF.search(_spaced(finish_reason)) is not None


def _spaced(finish_reason: str) -> str:
    """The reason with `_` between its words: `modelError`, `error: timeout`."""
    return _NO_LETTERS.sub("_", _CAPITAL.sub("_", finish_reason)).lower()


def _word(finish_reason: str) -> str:
    # Google's: `content_filter: RECITATION`.
    return finish_reason.partition(":")[0].strip().lower().replace("-", "_")
