"""What version 0.1.0 makes of a tally of a newer one: it drops the fields that it does not know when it writes."""

import json
from typing import Any

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


def as_old(data: bytes) -> bytes:
    """A tally as an old process writes it."""
    tally = _only(_TALLY, json.loads(data))
    if "phases" in tally:
        tally["phases"] = [_phase(phase) for phase in tally["phases"]]
    if tally.get("verdict"):
        tally["verdict"] = _only(_VERDICT, tally["verdict"])
    return json.dumps(tally).encode()


def _phase(phase: dict[str, Any]) -> dict[str, Any]:
    kept = _only(_PHASE, phase)
    if "outcomes" in kept:
        kept["outcomes"] = {agent: _only(_OUTCOME, outcome) for agent, outcome in kept["outcomes"].items()}
    return kept


def _only(known: frozenset[str], value: dict[str, Any]) -> dict[str, Any]:
    return {key: kept for key, kept in value.items() if key in known}
