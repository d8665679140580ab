"""Ask, and get an ending: a real nats-server, the whole service, a simulated model.

The fixture `on` is the service, once with agents in this process and once with Ray actors; `make quick` runs the first.
"""

import json

from parley.broker.core.messages import DeliberationCompleted
from tests.harness import Running


async def test_all_agents_answer(on: Running) -> None:
    ending = await on.client.deliberate("Write a factorial function", agents=3, metadata={"ticket": "P-1"})
    assert isinstance(ending, DeliberationCompleted)
    assert not ending.degraded
    assert [result.agent_id for result in ending.results] == [
        "agent-dev-001",
        "agent-dev-002",
        "agent-dev-003",
    ]
    assert all(result.proposal.content.startswith("[simulated answer]") for result in ending.results)
    assert all(result.proposal.tokens > 0 and result.role == "DEV" for result in ending.results)
    assert (ending.total_agents, ending.successful_responses, ending.failed_responses) == (3, 3, 0)
    assert ending.metadata == {"ticket": "P-1"}
    assert ending.winner_id is None
    # The client has read this message. Any NATS client can.
    raw = await on.ending_of(ending.task_id)
    assert set(raw) >= {
        "task_id", "status", "degraded", "missing_agents", "failed_agents", "results", "total_agents",
        "successful_responses", "failed_responses", "winner_id", "duration_ms", "completed_at", "metadata",
    }  # fmt: skip
    assert DeliberationCompleted.model_validate_json(json.dumps(raw)) == ending
