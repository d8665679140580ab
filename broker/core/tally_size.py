"""How many bytes a tally may come to have, and what it can do without. Pure.

A tally grows with every outcome. One that no longer fits into a message of the server's `max_payload` could neither
count nor end, so a request whose tally could come to that is rejected before it is recorded.
"""

from parley.broker.core.choice import judge_id
from parley.broker.core.frozen_models import changed
from parley.broker.core.tally import Tally

# An outcome beside its agent's name: `"":{"succeeded":false,"seq":18446744073709551615},`; and what was said.
_OUTCOME_BYTES = 52
_SAID_BYTES = 26
# A phase beside its agents and outcomes: its kind, instants, limits.
_PHASE_BYTES = 160
# A candidate beside its name in the choice: its score, and being tied.
_CANDIDATE_BYTES = 24
# The ending's decision with a short error, of letters that JSON escapes; instants, sequences, headers.
_REST_BYTES = 1_536
SHORT_ERROR_CHARACTERS = 80


def most_bytes(tally: Tally) -> int:
    """Bytes of a new tally, headers included, once all its agents have reported and it has ended."""
    agents = tally.answers.agents
    outcomes = sum(len(agent) + _OUTCOME_BYTES for agent in agents)
    if not tally.is_plain:
        outcomes += sum(2 * len(agent) + _SAID_BYTES + _CANDIDATE_BYTES for agent in agents) + _PHASE_BYTES
        # Members that rank the others have longer names than judges.
        name = max(len(judge_id(1)), *map(len, agents))
        later = sum(step.agents for step in tally.plan[1:])
        outcomes += later * (2 * name + _OUTCOME_BYTES + _SAID_BYTES) + _PHASE_BYTES * len(tally.plan)
    return len(tally.model_dump_json(exclude_defaults=True).encode()) + outcomes + _REST_BYTES


def smallest(tally: Tally) -> Tally:
    """The tally with a short error, and without the inboxes of later askers, who find the ending in the stream."""
    changes: dict[str, object] = {"more_reply_to": ()}
    if tally.verdict is not None and len(tally.verdict.error) > SHORT_ERROR_CHARACTERS:
        error = f"{tally.verdict.error[: SHORT_ERROR_CHARACTERS - 1]}…"
        changes["verdict"] = changed(tally.verdict, error=error)
    return changed(tally, **changes)
