"""Parley: a task-queue bridge for multi-agent deliberation.

import parley

async with parley.connect("nats://127.0.0.1:4222") as client:
    ending = await client.deliberate("Write a factorial function", agents=3)
"""

from importlib import import_module
from typing import TYPE_CHECKING

# fmt: off
# isort: off
if TYPE_CHECKING:
    from parley.broker.core.errors import BrokerUnavailable, InvalidMessage, ParleyError, Unavailable
    from parley.broker.core.messages import (
        AgentResult, CastBallot, Cost, DegradedReason, DeliberationCompleted, DeliberationFailed, DeliberationStatus,
        Dissent, Ending, ErrorType, FailedAgent, PhaseReport, Proposal, ResultsRef, Selection, ToolCall,
    )
    from parley.broker.core.tally import Outcome, Phase, Tally
    from parley.broker.jetstream.deadletters import CannotReplay, DeadLetterInfo
    from parley.client import Client, connect
    from parley.client_errors import ClientClosed, NoEnding, NoService, UnknownDeliberation
    from parley.job import Job, Submitted
    from parley.job_events import (
        AgentAnswered, AgentFailedToAnswer, BallotCast, Ended, JobEvent, PhaseOpened,
    )

__all__ = [
    "AgentAnswered", "AgentFailedToAnswer", "AgentResult", "BallotCast", "BrokerUnavailable",
    "CannotReplay", "CastBallot", "Client", "ClientClosed", "Cost", "DeadLetterInfo", "DegradedReason",
    "DeliberationCompleted", "DeliberationFailed", "DeliberationStatus", "Dissent", "Ended", "Ending",
    "ErrorType", "FailedAgent", "InvalidMessage", "Job", "JobEvent", "NoEnding", "NoService", "Outcome",
    "ParleyError", "Phase", "PhaseOpened", "PhaseReport", "Proposal", "ResultsRef", "Selection",
    "Submitted", "Tally", "ToolCall", "Unavailable", "UnknownDeliberation", "connect",
]
# fmt: on

# The names above are here, each in the first module that has it.
_MODULES = (
    "parley.broker.core.errors",
    "parley.broker.core.messages",
    "parley.broker.core.tally",
    "parley.broker.jetstream.deadletters",
    "parley.client",
    "parley.client_errors",
    "parley.job",
    "parley.job_events",
)


if not TYPE_CHECKING:  # a type checker would believe that any name exists

    def __getattr__(name: str) -> object:
        """Import a public name on first use: `import parley` alone is quick, and a worker does not load the client."""
        if name in __all__:
            for module in map(import_module, _MODULES):
                if hasattr(module, name):
                    return globals().setdefault(name, getattr(module, name))
        raise AttributeError(f"module 'parley' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
