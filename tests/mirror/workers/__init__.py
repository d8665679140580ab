"""What the tests of the workers share: one agent's work, as the service would write it."""

import time
from typing import Any

from parley.broker.core.messages import AgentRequested, agent_id
from parley.broker.core.timestamps import format_timestamp
from parley.broker.jetstream.jetstream import JetStream, StoredMessage
from tests.harness import fresh


class Counting(JetStream):
    """`reads`: of single messages."""

    reads = 0

    async def get(self, stream: str, seq: int) -> StoredMessage | None:
        self.reads += 1
        return await super().get(stream, seq)


def work(number: int = 1, *, seconds: float = 60.0, **fields: Any) -> AgentRequested:
    """The request for agent `number`, due in `seconds` from now unless `requested_at` and `deadline` say otherwise."""
    now = time.time()
    asked = {
        "task_id": fresh("w"),
        "role": "DEV",
        "num_agents": 3,
        "task_description": "Write a factorial function",
        "requested_at": format_timestamp(now),
        "deadline": format_timestamp(now + seconds),
        **fields,
    }
    return AgentRequested(agent_id=agent_id(asked["role"], number), agent_number=number, **asked)
