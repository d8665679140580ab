"""What a process of the service says of itself when somebody asks who serves."""

from typing import Annotated

from pydantic import Field, StringConstraints

from parley.broker.core.messages.base import KIB, Message

# So that an answer stays within a few KiB, whatever a check says.
MAX_PROBLEM_CHARACTERS = 500
MAX_LISTED_ENDPOINTS = 32
Short = Annotated[str, StringConstraints(max_length=2_048)]


class ServiceGet(Message):
    """`deliberation.service`: which processes serve, please. Each answers; the body is not read."""


class ServiceProcess(Message):
    """The answer to `deliberation.service`, one of each process of the service."""

    max_body_bytes = 256 * KIB

    process: Short = Field(description="Host and process id, `host-pid`.")
    parts: tuple[Short, ...] = Field(
        description="What it serves: `intake`, `dispatch`, `aggregate`, `query`."
    )
    version: Short = Field(description="Its version of Parley.")
    started_at: Short = Field(description="Since when it serves, RFC 3339.")
    model: Short = Field("", description="The model that its agents ask. Empty without `dispatch`.")
    endpoints: tuple[Short, ...] = Field(
        (), description="Its model servers, at most 32, without passwords. Empty without `dispatch`."
    )
    slots: int = Field(0, description="Agents it can run at a time.")
    busy: int = Field(0, description="Agents it runs now.")
    problems: dict[str, Short] = Field(
        default_factory=dict,
        description="Why it is not ready, by check, as its `/readyz` says; empty when ready.",
    )
    notes: dict[str, Short] = Field(default_factory=dict, description="What is to be known and does no harm.")
