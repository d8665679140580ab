"""The error of a call to a model server: its type, its text, and what it says of the endpoint. Pure."""

from collections.abc import Sequence

from parley.broker.core.agent_error_table import POLICIES, Signal
from parley.broker.core.messages import ErrorType, ToolCall, Usage

NO_TOKENS = Usage()
# A server's error text is passed on up to this length; some servers quote the whole prompt.
MAX_ERROR_CHARACTERS = 500
# A gateway without a server behind it. A 500 may be caused by the request, and vLLM sheds load with 503.
GATEWAY_STATUSES = frozenset({502, 504})
# A living server that asks for the same call again: a timeout, a conflict, too early; TGI's broken generation, Groq's
# lack of room, a call that was given up in between.
REPEATED_STATUSES = frozenset({408, 409, 424, 425, 498, 499})


class ModelError(Exception):
    """A request that got no answer.

    `retry_after`: the pause that the server asked for, in seconds. `status`: of the HTTP response, if any.
    `attempts`: the calls that were made, the failed one included. `is_ours`: the cause lies in this process, and says
    nothing of the endpoint. `usage`: tokens of answers that came and were of no use. `tool_calls`: with TOOL_CALL.
    `server_text`: an error inside an answer, as the server wrote it; it may hold secrets, and leaves the client empty.
    """

    def __init__(
        self,
        error_type: ErrorType,
        message: str,
        retry_after: float | None = None,
        status: int | None = None,
        attempts: int = 1,
        *,
        is_ours: bool = False,
        usage: Usage = NO_TOKENS,
        tool_calls: Sequence[ToolCall] = (),
        server_text: str = "",
    ) -> None:
        super().__init__(error_type, message)
        self.is_ours = is_ours
        self.error_type = error_type
        self.message = message
        self.retry_after = retry_after
        self.status = status
        self.attempts = attempts
        self.usage = usage
        self.tool_calls = tool_calls
        self.server_text = server_text

    @property
    def public_text(self) -> str:
        """The message for other callers: without the server's own text, which may quote a prompt."""
        if self.error_type is ErrorType.SERVER_ERROR:
            status = self.status
            return "the model server broke off" if status is None else f"HTTP {status} from the model server"
        return self.message

    @property
    def signal(self) -> Signal:
        """What this error says of its endpoint."""
        if self.is_ours:
            return Signal.IGNORED
        if self.error_type is ErrorType.SERVER_ERROR:
            if self.retry_after is not None or self.status in REPEATED_STATUSES:
                return Signal.ALIVE  # only a living server asks to come back
            if self.status in GATEWAY_STATUSES:
                return Signal.DEAD
        return POLICIES[self.error_type].signal

    def __str__(self) -> str:
        return self.message
