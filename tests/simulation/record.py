"""What the watcher knows of one accepted deliberation, and the rules that it checks."""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from parley.broker.core.messages import ErrorType
from parley.broker.core.phase_changes import has_use_of_limit
from parley.broker.core.states_and_moves import MOVES, State
from parley.broker.core.tally import ClosedBy, Outcome, Phase, Tally
from parley.broker.core.timestamps import format_timestamp
from parley.broker.jetstream import topology
from tests.simulation.choices import (
    ballots_are_whole,
    choice_is_right,
    ending_tells,
    is_plain,
    phases_follow,
    synthesis_is_right,
)
from tests.simulation.invariants import Invariant, Violation, holds
from tests.simulation.process import MAX_AGENTS
from tests.simulation.rounds import later_answers
from tests.simulation.stream import Kept


@dataclass(frozen=True, slots=True)
class StoredOutcome:
    """An outcome in AGENT_RESPONSES."""

    task_id: str
    agent_id: str
    round: int
    succeeded: bool
    error_type: str | None
    at: float
    phase: str = "answer"
    # A judge's words that hold no ranking, as a stranger may send them.
    is_no_ballot: bool = False
    attempts: int = 0


@dataclass(slots=True)
class Record:
    """`carried`: how often core NATS carried its ending. `met`: two messages that may have decided it were being
    handled between verdict and mark. `squatted`: another sender's message had its Msg-Id. `lost`: its tally was deleted or
    overwritten by others, and is not written anew. `narrowed`: an older version has written its tally without the phases
    that it does not know."""

    tally: Tally
    created_at: float
    decided_at: float = 0.0
    forgotten_at: float = float("inf")
    endings: list[Kept] = field(default_factory=list)
    carried: int = 0
    sent: int = 0
    met: bool = False
    squatted: bool = False
    lost: bool = False
    ever_lost: bool = False
    lost_decision: Tally | None = None
    narrowed: bool = False
    armed_at: float = float("inf")
    # (round, phase, agent) whose work is stored.
    asked: set[tuple[int, str, str]] = field(default_factory=set)
    # Rounds and kinds of phases whose calls were told to stop.
    stopped: set[tuple[int, str]] = field(default_factory=set)

    @property
    def marked(self) -> bool:
        return self.tally.ending_seq is not None

    def decided(self, at: object) -> Tally:
        """The tally that decided the ending of this timestamp: the one that was lost, if it was on its way then."""
        lost = self.lost_decision
        if lost is not None and lost.verdict is not None and format_timestamp(lost.verdict.decided_at) == at:
            return lost
        return self.tally

    @property
    def begun(self) -> bool:
        """Its deadline is armed, and every agent was requested or has reported, or its phase is closed."""
        return self.armed_at < float("inf") and self.has_asked(self.tally.answers)

    def has_asked(self, phase: Phase) -> bool:
        """Whether all work of this phase was requested, as far as it is still needed."""
        return phase.closed_at is not None or {
            agent for *which, agent in self.asked if which == [phase.number, phase.kind]
        } | set(phase.outcomes) >= set(phase.agents)

    def opened_is_begun(self, opener: str) -> None:
        """Check what whoever opened the current phase must have done before its message is acknowledged."""
        opened, closed = self.tally.phase, self.tally.all_phases[-2]
        holds(
            Invariant.ASKED,
            self.has_asked(opened),
            f"{opener} opened {opened.kind} and was acknowledged first",
        )
        told = not closed.missing or (closed.number, closed.kind) in self.stopped
        holds(Invariant.STOPPED, told, f"{opener} closed {closed.kind} and told {closed.missing} nothing")


def payload(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def object_entry(name: str) -> str:
    """The subject of an object's entry (ADR-20)."""
    return f"$O.{topology.RESULTS_BUCKET}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"


def stored_outcome(kept: Kept) -> StoredOutcome:
    body = payload(kept.data)
    return StoredOutcome(
        str(body.get("task_id")), str(body.get("agent_id")), int(body.get("round", 1)),
        kept.subject == topology.AGENT_COMPLETED, body.get("error_type"), kept.at, str(body.get("phase", "answer")),
        not body.get("ballot"), int(body.get("attempt", 0)),
    )  # fmt: skip


def readable(kept: Kept) -> bool:
    """Whether a handler can use this message."""
    body = payload(kept.data)
    if kept.subject != topology.REQUESTED:
        return "task_id" in body
    agents = int(body.get("num_agents", 3))
    asked = (int(body.get("min_responses", 1)), int(body.get("agree", 1)))
    calls = int(body.get("max_calls", agents))
    return "task_description" in body and max(asked) <= agents <= min(calls, MAX_AGENTS)


def follows(old: Tally, new: Tally, at: float) -> None:
    """Check that `new` may replace `old` at the instant `at`."""
    if new.request_seq != old.request_seq:
        raise Violation(
            Invariant.ABSORBS,
            f"{old.task_id} of request {old.request_seq} was overwritten by {new.request_seq}'s",
        )
    if old.ending_seq is not None:
        raise Violation(
            Invariant.MARK_KEPT,
            f"{old.task_id}, marked {old.ending_seq}, was written again: {new.ending_seq}",
        )
    if old.ended and (new.state, new.verdict, new.all_phases) != (old.state, old.verdict, old.all_phases):
        raise Violation(
            Invariant.ABSORBS, f"{old.task_id} was {old.state} and became {new.state} ({new.verdict})"
        )
    if new.state is not old.state and not any(
        new.state in leads for (state, _), leads in MOVES.items() if state is old.state
    ):
        raise Violation(Invariant.ABSORBS, f"{old.task_id} moved from {old.state} to {new.state}")
    if len(new.all_phases) < len(old.all_phases):
        raise Violation(Invariant.COUNTED_ONCE, f"{old.task_id} lost its agents and what it had counted")
    phases_follow(old, new, at)
    for phase, before in zip(new.all_phases, old.all_phases, strict=False):
        if phase.agents != before.agents:
            raise Violation(Invariant.COUNTED_ONCE, f"the agents of {old.task_id} changed")
        for agent, outcome in before.outcomes.items():
            if phase.outcomes.get(agent) != outcome:
                raise Violation(
                    Invariant.COUNTED_ONCE,
                    f"{old.task_id} had counted {agent} ({outcome}), and then {phase.outcomes.get(agent)}",
                )


def counts(tally: Tally, outcomes: dict[int, StoredOutcome]) -> None:
    """Check that the stream holds what the tally counts."""
    ballots_are_whole(tally)
    for phase, agent, outcome in _counted(tally):
        source = outcomes.get(outcome.seq)
        fits = (
            source is not None
            and agent in phase.agents
            and (source.task_id, source.agent_id, source.round) == (tally.task_id, agent, phase.number)
            and (source.succeeded == outcome.succeeded or (source.is_no_ballot and not outcome.succeeded))
            and source.at < tally.deadline
        )
        if source is not None and source.phase != phase.kind:
            raise Violation(
                Invariant.RIGHT_PHASE, f"{tally.task_id} counts {source} in its phase {phase.kind}"
            )
        if not fits:
            raise Violation(
                Invariant.COUNTED_ONCE,
                f"{tally.task_id} counts {agent} as {outcome}, the stream holds {source}",
            )


def _counted(tally: Tally) -> Iterator[tuple[Phase, str, Outcome]]:
    for phase in tally.all_phases:
        for agent, outcome in phase.outcomes.items():
            yield phase, agent, outcome


def countable(tally: Tally, outcome: StoredOutcome) -> bool:
    """Whether a tally that has not ended must count this outcome."""
    phase = tally.phase
    return (
        outcome.agent_id in phase.agents
        and outcome.agent_id not in phase.outcomes
        and (outcome.round, outcome.phase) == (phase.number, phase.kind)
        and outcome.error_type != ErrorType.DEADLINE_EXCEEDED
        and outcome.at < (tally.limit if has_use_of_limit(tally, outcome.at) else tally.deadline)
    )


def may_have_decided(kept: Kept, tally: Tally) -> bool:
    """Whether this message may have decided the ending. The deadline answers for all others."""
    by = tally.verdict.by if tally.verdict is not None else None
    if kept.stream == topology.AGENT_RESPONSES:
        return tally.state is not State.CANCELLED and kept.seq == by
    if kept.subject == topology.CANCEL:
        return tally.state is State.CANCELLED and kept.seq == by
    return kept.subject != topology.REQUESTED or kept.seq == tally.request_seq


def decided_rightly(tally: Tally, request: Kept, cancelled: bool) -> None:
    """Check the decision against docs/contract.md, 'Which ending'."""
    assert tally.verdict is not None
    phase, at = tally.answers, tally.verdict.decided_at
    enough = phase.successes >= tally.min_responses
    if tally.state is State.COMPLETED:
        choice_is_right(tally)
        synthesis_is_right(tally)
    agreed = phase.closed_by in (ClosedBy.AGREE, ClosedBy.LIMIT)
    right = {
        State.COMPLETED: enough
        and (not phase.missing or tally.finish_early or agreed or at >= tally.deadline),
        State.FAILED: not enough and not phase.missing,
        State.TIMEOUT: not enough and at >= tally.deadline,
        State.CANCELLED: cancelled,
        State.REJECTED: not readable(request) or _name_is_anothers(tally, request),
    }
    if not right[tally.state] or bool(tally.verdict.error) != (tally.state is not State.COMPLETED):
        raise Violation(
            Invariant.AGREES,
            f"{tally.task_id} was decided {tally.state} ({tally.verdict.error!r}) with {phase.successes} of "
            f"{len(phase.outcomes)} outcomes for {len(phase.agents)} agents, {tally.min_responses} needed",
        )


def _name_is_anothers(tally: Tally, request: Kept) -> bool:
    """Whether a request was rejected under the name of its own place: it asked something else under a used one."""
    named = str(payload(request.data).get("task_id", tally.task_id))
    return tally.task_id == f"d-{request.seq}" != named


def costs(tally: Tally, kept: Kept, outcomes: dict[int, StoredOutcome]) -> None:
    """Check what an ending says was spent, by phase."""
    body = payload(kept.data)
    if is_plain(tally) or "selection" in (body.get("left_out") or []):
        return
    told = [(phase["cost"]["calls"], phase["cost"]["attempts"]) for phase in body["phases"]]
    counted = [
        (len(phase.agents), sum(outcomes[outcome.seq].attempts for outcome in phase.outcomes.values()))
        for phase in tally.all_phases
    ]
    in_all = tuple(map(sum, zip(*told, strict=True))) if told else None
    holds(Invariant.COST, told == counted, f"{tally.task_id} counted {counted}, its ending tells {told}")
    if in_all is not None:
        cost = body["cost"]["calls"], body["cost"]["attempts"]
        holds(Invariant.COST, cost == in_all, f"{tally.task_id} tells {cost}, by phase {told}")


def says_the_same(tally: Tally, kept: Kept, results: list[dict[str, Any]]) -> None:
    """Check that an ending says what its tally holds. `results`: its own, or those that it refers to."""
    body = payload(kept.data)
    left_out = body.get("left_out") or []
    phase = tally.answers
    completed = tally.state is State.COMPLETED
    succeeded = [
        agent for agent in phase.agents if agent in phase.outcomes and phase.outcomes[agent].succeeded
    ]
    failed = [
        agent for agent in phase.agents if agent in phase.outcomes and not phase.outcomes[agent].succeeded
    ]
    silent = [agent for agent in phase.agents if agent not in phase.outcomes]
    asked_for = (
        tally.finish_early if is_plain(tally) else phase.closed_by in (ClosedBy.ENOUGH, ClosedBy.AGREE)
    )
    stopped, missing = (silent, []) if completed and asked_for else ([], silent)
    if completed:
        ending_tells(tally, body)
    agrees = (
        kept.subject == (topology.COMPLETED if completed else topology.FAILED)
        and body["status"] == tally.state.value
        and ("missing_agents" in left_out or body["missing_agents"] == list(missing))
        and ("stopped_agents" in left_out or body.get("stopped_agents", []) == list(stopped))
        and (
            "results" in left_out
            or [result["agent_id"] for result in results] == succeeded + later_answers(tally)
        )
        and ("failed_agents" in left_out or [one["agent_id"] for one in body["failed_agents"]] == failed)
        and (body["successful_responses"], body["failed_responses"]) == (len(succeeded), len(failed))
        and (not completed or not is_plain(tally) or body["degraded"] == bool(failed or missing))
        and body["error" if not completed else "status"]
    )
    if not agrees:
        raise Violation(Invariant.AGREES, f"{tally.task_id} is {tally.state}, its ending says {body}")
