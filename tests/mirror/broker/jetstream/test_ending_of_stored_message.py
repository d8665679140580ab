"""What is stored where an ending should be, and counts as that ending."""

import pytest

from parley.broker.core.messages import DeliberationFailed
from parley.broker.jetstream import topology
from parley.broker.jetstream.ending_of_stored_message import ending_of
from parley.broker.jetstream.jetstream import StoredMessage

ENDING = DeliberationFailed(
    task_id="t-1", status="failed", error="no luck", total_agents=1, successful_responses=0, failed_responses=1,
    duration_ms=1, timestamp="2026-01-01T00:00:00Z", failed_agents=(), missing_agents=(), results=(),
)  # fmt: skip


@pytest.mark.parametrize(
    ("subject", "body", "task_id", "counts"),
    [
        (topology.FAILED, ENDING.encode(), "t-1", True),
        (topology.FAILED, ENDING.encode(), "t-2", False),
        (topology.REQUESTED, ENDING.encode(), "t-1", False),
        (topology.timer_subject("t-1"), ENDING.encode(), "t-1", False),
        (topology.FAILED, b"{}", "t-1", False),
    ],
)
def test_only_this_deliberations_ending_counts(
    subject: str, body: bytes, task_id: str, *, counts: bool
) -> None:
    found = ending_of(StoredMessage(1, subject, body, {}), task_id)
    assert found == (ENDING if counts else None)
