"""What an older version makes of what newer ones write: it neither reads nor passes on a field that it does not know."""

import json
from dataclasses import dataclass
from typing import Any

from parley.broker.core.tally import Tally
from parley.broker.jetstream import topology

# What a tally of 0.1.0 has (commit e3b707b, `Tally`), and its parts.
_TALLY = frozenset(
    [
        "task_id",
        "state",
        "request_seq",
        "role",
        "min_responses",
        "finish_early",
        "rounds",
        "accepted_at",
        "deadline",
        "phases",
        "verdict",
        "ending_seq",
        "metadata",
        "reply_to",
        "traceparent",
    ]
)
_PHASE = frozenset({"number", "agents", "outcomes"})
_VERDICT = frozenset({"error", "decided_at", "by"})
_OUTCOME = frozenset({"succeeded", "seq"})

# What 0.3.0 added to messages (commit 2bb6db3 is 0.2.0): to requests, to agents' work, to their outcomes.
_CHOOSING = frozenset(
    {"select", "judges", "agree", "answer_key", "judge_model", "judge_models", "max_calls", "synthesize"}
)
_PHASED = frozenset({"phase", "candidates", "key", "ballot", "suspect", "reasoning", "refused"})
# What it added to `agent.cancel`: without it the whole deliberation is meant.
_OF_CANCEL = frozenset({"phase", "round"})


@dataclass(frozen=True, slots=True)
class OldVersion:
    """`tally`: the fields of a tally that it knows. `chooses`: what newer versions choose may be asked beside it."""

    name: str
    tally: frozenset[str]
    chooses: bool

    def tally_as_known(self, data: bytes) -> bytes:
        tally = _only(self.tally, json.loads(data))
        if "phases" in tally:
            tally["phases"] = [_phase(phase) for phase in tally["phases"]]
        if tally.get("verdict"):
            tally["verdict"] = _only(_VERDICT, tally["verdict"])
        return json.dumps(tally).encode()

    def sees(self, tally: Tally) -> Tally:
        return Tally.model_validate_json(self.tally_as_known(tally.model_dump_json().encode()))

    def reads(self, subject: str, data: bytes) -> bytes:
        """What it sees of a message. What is no JSON object stays as it is."""
        try:
            body = json.loads(data)
        except ValueError:
            return data
        if not isinstance(body, dict):
            return data
        if subject.startswith(topology.tally_subject("")):
            return self.tally_as_known(data)
        unknown = _OF_CANCEL if subject == topology.AGENT_CANCEL else _CHOOSING | _PHASED
        return json.dumps({key: value for key, value in body.items() if key not in unknown}).encode()


V0_1_0 = OldVersion("0.1.0", _TALLY, chooses=False)
V0_2_0 = OldVersion("0.2.0", _TALLY | {"more_reply_to", "question"}, chooses=True)


def _phase(phase: dict[str, Any]) -> dict[str, Any]:
    kept = _only(_PHASE, phase)
    if "outcomes" in kept:
        kept["outcomes"] = {agent: _only(_OUTCOME, outcome) for agent, outcome in kept["outcomes"].items()}
    return kept


def _only(known: frozenset[str], value: dict[str, Any]) -> dict[str, Any]:
    return {key: kept for key, kept in value.items() if key in known}
