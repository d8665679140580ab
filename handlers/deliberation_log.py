"""One log line when a deliberation is accepted and one when it has ended: ids and figures, never a client's words."""

import logging

from parley.broker.core.events_and_effects import Requested
from parley.broker.core.messages import DeliberationCompleted, Ending

# A logger of its own: at thousands of deliberations a second its lines can be switched off by name.
log = logging.getLogger("parley.deliberations")


def log_accepted(request: Requested) -> None:
    """Call it once a request is recorded for the first time."""
    if log.isEnabledFor(logging.INFO):
        seconds = request.deadline - request.at
        figures = {"task_id": request.task_id, "agents": request.num_agents, "timeout_seconds": seconds}
        log.info(
            "%s accepted: %d agents, at most %g s",
            request.task_id,
            request.num_agents,
            seconds,
            extra=figures,
        )


def log_ended(ending: Ending) -> None:
    """Call it once an ending is published."""
    if log.isEnabledFor(logging.INFO):
        degraded = isinstance(ending, DeliberationCompleted) and ending.degraded
        figures = {
            "task_id": ending.task_id,
            "status": ending.status,
            "degraded": degraded,
            "agents": ending.total_agents,
            "answered": ending.successful_responses,
            "failed": ending.failed_responses,
            "duration_ms": ending.duration_ms,
        }
        log.info(
            "%s %s%s: %d of %d agents answered, %d failed, %.1f s",
            ending.task_id, ending.status, ", degraded" if degraded else "", ending.successful_responses,
            ending.total_agents, ending.failed_responses, ending.duration_ms / 1000, extra=figures,
        )  # fmt: skip
