"""What nobody may see that compares answers, or writes from them: who wrote them. Checked in each such prompt, as it
comes to the model."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from parley.workers.prompts import PERSONAS
from tests.simulation.invariants import Invariant, holds

# What all agents and judges ask.
MODEL = "oracle-7b"
# The persona that an agent's prompt gives it. Its answer names that, an agent and the model.
AS_WHOM = re.compile(r"You are the (.+?) among the experts asked")
_AUTHOR = re.compile(rf"agent-[a-z]+-\d{{3}}|{MODEL}|\bAs the (?:{'|'.join(one.name for one in PERSONAS)})\b")


def is_blind(messages: Sequence[Mapping[str, Any]]) -> None:
    """Check the prompt of a judge, an editor, or an agent that revises its answer."""
    for message in messages:
        found = _AUTHOR.search(message["content"])
        holds(Invariant.BLIND, found is None, f"a prompt with answers shows {found and found[0]!r}")
