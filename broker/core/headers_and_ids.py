"""Names on the wire that are neither subjects nor fields: headers, `Nats-Msg-Id`s, names of deliberations without
one. Pure.

docs/contract.md lists them from here.
"""

import re
from collections.abc import Mapping

from parley.broker.core.phase_plan import PhaseKind

# ── headers ───────────────────────────────────────────────────────────────────────────────────────────────────────

REPLY_TO = "Parley-Reply-To"
SUBJECT = "Parley-Subject"

REASON = "Parley-Reason"
STREAM = "Parley-Stream"
CONSUMER = "Parley-Consumer"
SEQUENCE = "Parley-Sequence"
DELIVERIES = "Parley-Deliveries"
STORED_AT = "Parley-Stored-At"
PAYLOAD_BUCKET = "Parley-Payload-Bucket"
PAYLOAD_NAME = "Parley-Payload-Name"
PAYLOAD_SIZE = "Parley-Payload-Size"
# Put before the name of an original header that the server would obey.
ORIGINAL = "Parley-Original-"


def find_header(headers: Mapping[str, str], name: str) -> str | None:
    """The value of the header `name`, in any case, as HTTP libraries write it (`Traceparent`, `TRACEPARENT`)."""
    if name in headers:
        return headers[name]
    folded = name.lower()
    return next((value for key, value in headers.items() if key.lower() == folded), None)


# ── names and Msg-Ids ─────────────────────────────────────────────────────────────────────────────────────────────

# The service names a request without a `task_id` so. No client may: two deliberations would share one name and one
# ending.
OWN_NAME = re.compile(r"d-[0-9]+")


def own_name(seq: int) -> str:
    """The name of a request without a `task_id`, from its place in the stream."""
    return f"d-{seq}"


def ending_msg_id(task_id: str) -> str:
    return f"{task_id}:ending"


def outcome_msg_id(
    task_id: str, agent_id: str, round_number: int, phase: PhaseKind = PhaseKind.ANSWER
) -> str:
    return f"{task_id}:{agent_id}:{round_number}{_of_phase(phase)}"


def work_msg_id(
    task_id: str, agent_id: str, round_number: int, request_seq: int, phase: PhaseKind = PhaseKind.ANSWER
) -> str:
    """With the request's place in the stream: a later deliberation of the same `task_id` sends work of its own."""
    return f"{task_id}:{agent_id}:{round_number}{_of_phase(phase)}:request:{request_seq}"


def _of_phase(phase: PhaseKind) -> str:
    return "" if phase is PhaseKind.ANSWER else f":{phase}"
