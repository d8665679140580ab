"""The question that every system asks the model, so that all make the same call."""

from collections.abc import Sequence
from typing import Any

from parley.broker.core.messages import AgentRequested
from parley.workers import prompts

QUESTION = "Write a function that computes the factorial of a non-negative integer."
MODEL = "simulated-model"
TEMPERATURE = 0.7


def prompt() -> Sequence[Any]:
    """The messages of one agent of Parley."""
    request = AgentRequested(
        task_id="bench",
        agent_id="agent-dev-001",
        agent_number=1,
        role="DEV",
        num_agents=3,
        task_description=QUESTION,
        requested_at="2026-01-01T00:00:00Z",
        deadline="2026-01-01T00:05:00Z",
    )
    return prompts.compose(request).messages
