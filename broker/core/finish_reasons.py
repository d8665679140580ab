"""What a model server's `finish_reason` tells of an answer. Servers have words of their own, in any case. Pure."""

# The answer reached the most tokens that it, or the context, may have.
_TOO_LONG = frozenset({"length", "max_tokens", "max_output_tokens", "model_length", "token_limit"})
# The model, or a filter between, would not answer, or not go on.
_FILTERED = frozenset(
    {
        "content_filter", "content_filtered", "safety", "refusal", "recitation", "blocked", "blocklist", "spii",
        "prohibited_content", "sensitive", "guardrail_intervened", "error_toxic",
    }
)  # fmt: skip


def is_too_long(finish_reason: str) -> bool:
    return _word(finish_reason) in _TOO_LONG


def is_filtered(finish_reason: str) -> bool:
    return _word(finish_reason) in _FILTERED


def _word(finish_reason: str) -> str:
    # Google's: `content_filter: RECITATION`.
    return finish_reason.partition(":")[0].strip().lower().replace("-", "_")
