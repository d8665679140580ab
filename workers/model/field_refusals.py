"""Whether a server's error is about a field of the request that Parley chose itself, and what to send instead. Pure."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from parley.broker.core.messages import ErrorType
from parley.workers.model.model_error import ModelError
from parley.workers.model.request_fields import FieldRules

# Refusals that may be about a field of the request.
_FIELD_REFUSALS = frozenset({ErrorType.BAD_REQUEST, ErrorType.SERVER_ERROR})
_FIELD_STATUSES = frozenset({400, 404, 415, 422, 500, 501})
# What a server that breaks over a field says. Another 500 may name a field by chance.
_ABOUT_A_FIELD = re.compile(
    r"support|alternate|unknown|unexpected|unrecogni|invalid|extra|not (allowed|permitted)"
    r"|\bmust be\b|\bat least\b|too (small|low)|minimum",
    re.IGNORECASE,
)


def rules_after(
    error: ModelError, text: str, rules: FieldRules, body: Mapping[str, Any], chosen: Collection[str]
) -> tuple[str, FieldRules] | None:
    """What changes, in words, and the rules with it, after a server refused `body` saying `text`.

    None if the error is about no field whose value Parley chose: `chosen`.
    """
    if error.error_type not in _FIELD_REFUSALS or error.status not in (None, *_FIELD_STATUSES):
        return None
    if error.error_type is ErrorType.SERVER_ERROR and not _ABOUT_A_FIELD.search(text):
        return None
    return rules.after_refusal(body, chosen, text)
