"""Every payload that travels, as the wire contract names it. docs/contract.md and the AsyncAPI document are made from it.

It knows shapes and bounds. It does not know streams, NATS or time.

    base       bounds, types of fields, reading
    requests   what clients publish
    json_schema, schema_pattern   what a schema of an answer may be
    agents     one agent's work and its outcome
    endings    the two endings, and the status
    selection  the choice between answers
    service_process   who serves
"""

from parley.broker.core.headers_and_ids import OWN_NAME
from parley.broker.core.messages.agents import (
    KEPT,
    MAX_FINAL_ANSWER_CHARACTERS,
    MAX_LOGPROBS_BYTES,
    MAX_NOTES_CHARACTERS,
    MAX_TOOL_CALLS_BYTES,
    AgentCancel,
    AgentCompleted,
    AgentFailed,
    AgentOutcome,
    AgentRequested,
    AgentRunning,
    Ballot,
    Candidate,
    ErrorType,
    Proposal,
    ToolCall,
    Usage,
    agent_id,
    said_by,
    sum_of_known,
)
from parley.broker.core.messages.answer_key import AnswerKey
from parley.broker.core.messages.base import (
    MAX_AGENTS,
    MAX_FIGURE,
    MAX_OUTCOME_BYTES,
    MAX_REASON_CHARACTERS,
    MAX_REPORTED_PROBLEMS,
    MAX_REQUEST_BYTES,
    MAX_TIMEOUT_SECONDS,
    MIN_TIMEOUT_SECONDS,
    TASK_ID_PATTERN,
    Message,
    decode,
    describe,
)
from parley.broker.core.messages.endings_and_status import (
    AgentResult,
    DeliberationCompleted,
    DeliberationFailed,
    DeliberationStatus,
    Ending,
    FailedAgent,
    LeftOut,
    ResultsRef,
    decode_ending,
)
from parley.broker.core.messages.panel import Member
from parley.broker.core.messages.requests import (
    Constraints,
    DeliberationCancel,
    DeliberationDeadline,
    DeliberationGet,
    DeliberationRequested,
    Sampling,
)
from parley.broker.core.messages.selection import (
    CastBallot,
    Cost,
    DegradedReason,
    Dissent,
    PhaseReport,
    Selection,
    Synthesis,
)
from parley.broker.core.messages.service_process import (
    MAX_LISTED_ENDPOINTS,
    MAX_PROBLEM_CHARACTERS,
    ServiceGet,
    ServiceProcess,
)

__all__ = [
    "KEPT",
    "MAX_AGENTS",
    "MAX_FIGURE",
    "MAX_FINAL_ANSWER_CHARACTERS",
    "MAX_LISTED_ENDPOINTS",
    "MAX_LOGPROBS_BYTES",
    "MAX_NOTES_CHARACTERS",
    "MAX_OUTCOME_BYTES",
    "MAX_PROBLEM_CHARACTERS",
    "MAX_REASON_CHARACTERS",
    "MAX_REPORTED_PROBLEMS",
    "MAX_REQUEST_BYTES",
    "MAX_TIMEOUT_SECONDS",
    "MAX_TOOL_CALLS_BYTES",
    "MIN_TIMEOUT_SECONDS",
    "OWN_NAME",
    "TASK_ID_PATTERN",
    "AgentCancel",
    "AgentCompleted",
    "AgentFailed",
    "AgentOutcome",
    "AgentRequested",
    "AgentResult",
    "AgentRunning",
    "AnswerKey",
    "Ballot",
    "Candidate",
    "CastBallot",
    "Constraints",
    "Cost",
    "DegradedReason",
    "DeliberationCancel",
    "DeliberationCompleted",
    "DeliberationDeadline",
    "DeliberationFailed",
    "DeliberationGet",
    "DeliberationRequested",
    "DeliberationStatus",
    "Dissent",
    "Ending",
    "ErrorType",
    "FailedAgent",
    "LeftOut",
    "Member",
    "Message",
    "PhaseReport",
    "Proposal",
    "ResultsRef",
    "Sampling",
    "Selection",
    "ServiceGet",
    "ServiceProcess",
    "Synthesis",
    "ToolCall",
    "Usage",
    "agent_id",
    "decode",
    "decode_ending",
    "describe",
    "said_by",
    "sum_of_known",
]
