"""More fields of a chat call, as a model server wants them. They are passed on as they are."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from parley.broker.core.messages.base import MAX_EXTRA_BYTES, check_size

MAX_EXTRA_FIELDS = 64
# What the request or Parley itself decides. The others of OpenAI's chat API, and a server's own, may be given.
OWN_FIELDS = frozenset(
    {
        "model", "messages", "stream", "stream_options", "n", "temperature", "top_p", "max_tokens",
        "max_completion_tokens", "seed", "stop", "response_format",
        "logprobs", "top_logprobs",
    }
)  # fmt: skip


# Any: every JSON value.
def _none_of_ours(extra: dict[str, Any]) -> dict[str, Any]:
    if ours := sorted(OWN_FIELDS & extra.keys()):
        raise ValueError(f"{', '.join(ours)} cannot be given here: a field of the request, or Parley's own")
    check_size(extra, MAX_EXTRA_BYTES, "it")
    return extra


ExtraFields = Annotated[dict[str, Any], Field(max_length=MAX_EXTRA_FIELDS), AfterValidator(_none_of_ours)]
