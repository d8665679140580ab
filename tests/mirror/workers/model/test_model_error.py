"""What an error says of its endpoint."""

from parley.broker.core.agent_error_table import Signal
from parley.broker.core.messages import ErrorType
from parley.workers.model.model_error import ModelError


def test_an_error_says_whether_its_endpoint_is_alive_dead_or_neither() -> None:
    def signal(kind: ErrorType, status: int | None = None, retry_after: float | None = None) -> Signal:
        return ModelError(kind, "no", retry_after, status).signal

    assert signal(ErrorType.BAD_REQUEST, 400) is signal(ErrorType.CONTEXT_TOO_LONG, 400) is Signal.ALIVE
    assert signal(ErrorType.UNAUTHORIZED, 401) is signal(ErrorType.MODEL_NOT_FOUND, 404) is Signal.ALIVE
    assert signal(ErrorType.RATE_LIMITED, 429) is signal(ErrorType.SERVER_ERROR, 503, 1.0) is Signal.ALIVE
    assert signal(ErrorType.CONNECTION_FAILED) is signal(ErrorType.CONNECTION_LOST) is Signal.DEAD
    assert signal(ErrorType.FIRST_BYTE_TIMEOUT) is Signal.DEAD
    assert [signal(ErrorType.SERVER_ERROR, status) for status in (502, 504)] == [Signal.DEAD] * 2
    assert [signal(ErrorType.SERVER_ERROR, status) for status in (500, 503, None)] == [Signal.AMBIGUOUS] * 3
    assert signal(ErrorType.DEADLINE_EXCEEDED) is signal(ErrorType.CANCELLED) is Signal.IGNORED
