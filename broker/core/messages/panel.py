"""What single agents of a deliberation are asked with, where it is not the request's own."""

from typing import Annotated, Any

from pydantic import Field, StringConstraints

from parley.broker.core.messages.base import MaxTokens, Message, ModelName, SystemWords, Temperature

MAX_PERSONA_CHARACTERS = 1_000


class Member(Message):
    """One member of a `panel`. What it leaves out is the request's own."""

    model: ModelName | None = Field(None, description="Model that it is asked of.")
    system: SystemWords | None = Field(None, description="Its system message, instead of the role's.")
    persona: Annotated[str, StringConstraints(min_length=1, max_length=MAX_PERSONA_CHARACTERS)] | None = (
        Field(None, description="Who it is among the others, in a few words, at the end of its prompt.")
    )
    temperature: Temperature | None = Field(None, description="Its sampling temperature.")
    max_tokens: MaxTokens | None = Field(None, description="Most tokens of its answer.")
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = Field(
        None, description="Its seed; one more for each further agent that is this member."
    )


def given_by(panel: tuple[Member, ...], number: int) -> dict[str, Any]:
    """What its member gives the agent of this number, from 1. The members are taken in turn."""
    lap, place = divmod(number - 1, len(panel))
    given = {
        name: value for name in Member.model_fields if (value := getattr(panel[place], name)) is not None
    }
    if "seed" in given:
        # In an agent's work stands the seed of the first agent, from which its own is counted.
        given["seed"] += lap - (number - 1)
    return given
