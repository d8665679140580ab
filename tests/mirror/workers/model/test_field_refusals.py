"""Which errors are about a field that Parley chose. What changes then is in test_request_fields.py."""

import pytest

from parley.broker.core.messages import ErrorType
from parley.workers.model.field_refusals import rules_after
from parley.workers.model.model_error import ModelError
from parley.workers.model.request_fields import PLAIN

BODY = {"model": "m", "messages": [], "seed": 5}
BAD, SERVER = ErrorType.BAD_REQUEST, ErrorType.SERVER_ERROR


@pytest.mark.parametrize(
    ("kind", "status", "text", "about_it"),
    [
        (BAD, 400, "seed", True),
        (BAD, 422, "seed", True),
        (SERVER, None, "seed is not supported", True),
        (SERVER, 500, "seed must be positive", True),
        (SERVER, 500, "the seed server died", False),
        (SERVER, 503, "seed is not supported", False),
        (BAD, 418, "seed", False),
        (ErrorType.RATE_LIMITED, 429, "seed is not supported", False),
        (ErrorType.EMPTY_ANSWER, None, "seed is not supported", False),
    ],
)
def test_an_error_may_be_about_a_field(
    kind: ErrorType, status: int | None, text: str, about_it: bool
) -> None:
    error = ModelError(kind, text, status=status)
    assert (rules_after(error, text, PLAIN, BODY, {"seed"}) is not None) is about_it
    assert rules_after(error, text, PLAIN, BODY, ()) is None
