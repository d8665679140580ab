"""One line when a deliberation is accepted, one when it has ended, without a word of a client's."""

import logging

import pytest

from parley.broker.core.events_and_effects import Requested
from parley.broker.core.messages import DeliberationCompleted, DeliberationFailed, Ending
from parley.handlers.deliberation_log import log_accepted, log_ended

REQUEST = Requested(
    task_id="t-1", seq=1, at=100.0, deadline=160.0, role="DEV", num_agents=3, metadata={"secret": "WORDS"}
)
FIGURES = {
    "failed_agents": (), "missing_agents": (), "results": (), "total_agents": 3, "successful_responses": 2,
    "failed_responses": 1, "duration_ms": 1_234, "metadata": {"secret": "WORDS"},
}  # fmt: skip
COMPLETED = DeliberationCompleted.model_validate(
    {"task_id": "t-1", "degraded": True, "completed_at": "x", **FIGURES}
)
REJECTED = DeliberationFailed.model_validate(
    {"task_id": "t-1", "status": "rejected", "error": "WORDS", "timestamp": "x", **FIGURES}
)


def test_the_start(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        log_accepted(REQUEST)
    assert caplog.messages == ["t-1 accepted: 3 agents, at most 60 s"]
    assert vars(caplog.records[0])["task_id"] == "t-1"


@pytest.mark.parametrize(
    ("ending", "line"),
    [
        (COMPLETED, "t-1 completed, degraded: 2 of 3 agents answered, 1 failed, 1.2 s"),
        (REJECTED, "t-1 rejected: 2 of 3 agents answered, 1 failed, 1.2 s"),
    ],
)
def test_the_ending(ending: Ending, line: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        log_ended(ending)
    assert caplog.messages == [line]
    assert "WORDS" not in str(vars(caplog.records[0]))
    assert vars(caplog.records[0])["status"] == ending.status


def test_above_info_nothing_is_made(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        log_accepted(REQUEST)
        log_ended(COMPLETED)
    assert caplog.records == []
