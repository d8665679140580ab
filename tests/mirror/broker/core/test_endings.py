"""From a decided tally and its agents' outcomes to the one message that says how it went."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.broker.core.endings import MAX_ERROR_CHARACTERS, failure_of, fit, lost, result_of
from parley.broker.core.endings import compose as compose_from
from parley.broker.core.events_and_effects import CancelRequested, DeadlineReached, Refused, Requested
from parley.broker.core.messages import (
    AgentCompleted,
    AgentFailed,
    AgentOutcome,
    DeliberationCompleted,
    DeliberationFailed,
    DeliberationStatus,
    Ending,
    ErrorType,
    Proposal,
    Usage,
    decode_ending,
)
from parley.broker.core.reactions import react
from parley.broker.core.states_and_moves import Cause, State
from parley.broker.core.tally import Decision, Outcome, Phase, Tally
from tests import present

ACCEPTED, DECIDED = 1_000.0, 1_012.3456
ONE, TWO, THREE = "agent-dev-001", "agent-dev-002", "agent-dev-003"


def answer(agent: str, **overrides: Any) -> AgentCompleted:
    proposal = Proposal(
        content=f"from {agent}", author_id=agent, author_role="DEV", model="m", temperature=0.7, tokens=3
    )
    fields: dict[str, Any] = {
        "task_id": "t-1", "agent_id": agent, "role": "DEV", "proposal": proposal, "finish_reason": "stop", "usage": Usage(),
        "attempt": 1, "queue_ms": 5, "duration_ms": 120, "timestamp": "2025-11-22T08:26:40.500Z", "model": "m",
        "diversity": False, "num_agents": 3,
    }  # fmt: skip
    return AgentCompleted(**{**fields, **overrides})


def failure(agent: str) -> AgentFailed:
    return AgentFailed(
        task_id="t-1", agent_id=agent, role="DEV", error="no luck", error_type=ErrorType.SERVER_ERROR, attempt=4, duration_ms=9,
        timestamp="2025-11-22T08:26:41.500Z",
    )  # fmt: skip


def compose(tally: Tally, outcomes: Mapping[str, AgentOutcome]) -> Ending:
    """As the publisher does; what is counted and not among `outcomes` is lost."""
    results, failed = [], {}
    for agent in tally.phase.agents:
        match outcomes.get(agent):
            case AgentCompleted() as done:
                results.append(result_of(done))
            case AgentFailed() as why:
                failed[agent] = failure_of(why)
            case None if agent in tally.phase.outcomes:
                failed[agent] = lost(agent, DECIDED)
    return compose_from(tally, results, failed)


def decided(
    state: State,
    outcomes: dict[str, AgentOutcome],
    error: str = "",
    agents: tuple[str, ...] = (ONE, TWO, THREE),
) -> Tally:
    """A tally that counts these outcomes and has ended in `state`."""
    counted = {
        agent: Outcome(succeeded=isinstance(outcome, AgentCompleted), seq=seq)
        for seq, (agent, outcome) in enumerate(outcomes.items(), 1)
    }
    return Tally(
        task_id="t-1",
        state=state,
        request_seq=7,
        accepted_at=ACCEPTED,
        deadline=ACCEPTED + 60,
        phases=(Phase(number=1, agents=agents, outcomes=counted),),
        verdict=Decision(error=error, decided_at=DECIDED),
        metadata={"ticket": "P-1"},
    )


def test_when_everybody_answered_nothing_is_degraded() -> None:
    outcomes: dict[str, AgentOutcome] = {agent: answer(agent) for agent in (THREE, ONE, TWO)}
    ending = compose(decided(State.COMPLETED, outcomes), outcomes)
    assert isinstance(ending, DeliberationCompleted)
    assert not ending.degraded
    assert [result.agent_id for result in ending.results] == [ONE, TWO, THREE]
    assert (ending.missing_agents, ending.failed_agents) == ((), ())
    assert (ending.total_agents, ending.successful_responses, ending.failed_responses) == (3, 3, 0)
    assert (ending.duration_ms, ending.completed_at) == (12_346, "1970-01-01T00:16:52.345Z")
    assert (ending.task_id, ending.metadata, ending.winner_id) == ("t-1", {"ticket": "P-1"}, None)


@pytest.mark.parametrize(("first", "degraded"), [(None, False), (failure(ONE), True)])
def test_agents_that_an_early_finish_stopped_are_not_missing(
    first: AgentOutcome | None, degraded: bool
) -> None:
    """What the caller asked for is no fault; an agent that failed before it is one."""
    outcomes: dict[str, AgentOutcome] = {TWO: answer(TWO), **({ONE: first} if first else {})}
    tally = decided(State.COMPLETED, outcomes).model_copy(update={"finish_early": True})
    ending = compose(tally, outcomes)
    assert isinstance(ending, DeliberationCompleted)
    silent = (THREE,) if first else (ONE, THREE)
    assert (ending.degraded, ending.missing_agents, ending.stopped_agents) == (degraded, (), silent)
    smallest, _ = fit(ending, 1)
    assert isinstance(smallest, DeliberationCompleted)
    assert (smallest.stopped_agents, "stopped_agents" in smallest.left_out) == ((), True)


def test_without_success_an_early_finish_stops_nobody_and_the_silent_are_missing() -> None:
    tally = decided(State.TIMEOUT, {}, "too late").model_copy(update={"finish_early": True})
    assert compose(tally, {}).missing_agents == (ONE, TWO, THREE)


def test_a_result_is_what_the_agent_said_word_for_word() -> None:
    outcomes: dict[str, AgentOutcome] = {ONE: answer(ONE, role="QA", duration_ms=77)}
    (result,) = compose(decided(State.COMPLETED, outcomes, agents=(ONE,)), outcomes).results
    assert result.proposal == answer(ONE).proposal
    told = (
        result.finish_reason,
        result.refused,
        result.reasoning,
        result.persona,
        result.usage,
        result.attempts,
    )
    assert told == ("stop", False, "", None, Usage(), 1)
    assert (result.agent_id, result.role, result.duration_ms) == (ONE, "QA", 77)
    assert result.timestamp == "2025-11-22T08:26:40.500Z"


def test_failed_and_missing_agents_are_listed_in_the_order_of_the_agents() -> None:
    agents = tuple(f"agent-dev-{place:03d}" for place in range(1, 8))
    reported = [agents[5], agents[1], agents[3], agents[0]]
    outcomes: dict[str, AgentOutcome] = {
        agent: answer(agent) if agent in (agents[5], agents[0]) else failure(agent) for agent in reported
    }
    ending = compose(decided(State.COMPLETED, outcomes, agents=agents), outcomes)
    assert isinstance(ending, DeliberationCompleted)
    assert ending.degraded
    assert [result.agent_id for result in ending.results] == [agents[0], agents[5]]
    assert [agent.agent_id for agent in ending.failed_agents] == [agents[1], agents[3]]
    assert list(ending.missing_agents) == [agents[2], agents[4], agents[6]]
    assert (ending.total_agents, ending.successful_responses, ending.failed_responses) == (7, 2, 2)


def test_a_failed_agent_is_quoted_with_what_went_wrong() -> None:
    outcomes: dict[str, AgentOutcome] = {ONE: failure(ONE)}
    (failed,) = compose(decided(State.FAILED, outcomes, "0 of 1", agents=(ONE,)), outcomes).failed_agents
    assert (failed.agent_id, failed.error, failed.error_type) == (ONE, "no luck", ErrorType.SERVER_ERROR)
    assert failed.timestamp == "2025-11-22T08:26:41.500Z"


@pytest.mark.parametrize("lost_succeeded", [True, False])
def test_an_outcome_the_stream_no_longer_holds_is_said_not_hidden(lost_succeeded: bool) -> None:
    outcomes: dict[str, AgentOutcome] = {
        ONE: answer(ONE),
        TWO: answer(TWO) if lost_succeeded else failure(TWO),
        THREE: answer(THREE),
    }
    tally = decided(State.COMPLETED, outcomes)
    del outcomes[TWO]
    ending = compose(tally, outcomes)
    assert isinstance(ending, DeliberationCompleted)
    assert ending.degraded
    assert (ending.successful_responses, ending.failed_responses, ending.missing_agents) == (2, 1, ())
    (lost,) = ending.failed_agents
    assert (lost.agent_id, lost.error_type) == (TWO, ErrorType.INTERNAL_ERROR)
    assert "AGENT_RESPONSES" in lost.error
    assert lost.timestamp == ending.completed_at


@pytest.mark.parametrize("state", [State.FAILED, State.TIMEOUT, State.CANCELLED, State.REJECTED])
def test_every_other_ending_is_a_failure_with_the_outcomes_that_arrived(state: State) -> None:
    outcomes: dict[str, AgentOutcome] = {TWO: answer(TWO), ONE: failure(ONE)}
    ending = compose(decided(state, outcomes, "said why"), outcomes)
    assert isinstance(ending, DeliberationFailed)
    assert (ending.status, ending.error) == (state.value, "said why")
    assert [result.agent_id for result in ending.results] == [TWO]
    assert [agent.agent_id for agent in ending.failed_agents] == [ONE]
    assert ending.missing_agents == (THREE,)
    assert (ending.total_agents, ending.successful_responses, ending.failed_responses) == (3, 1, 1)
    assert (ending.duration_ms, ending.timestamp) == (12_346, "1970-01-01T00:16:52.345Z")
    assert ending.metadata == {"ticket": "P-1"}


def test_an_error_is_never_empty() -> None:
    ending = compose(decided(State.FAILED, {}), {})
    assert isinstance(ending, DeliberationFailed)
    assert ending.error == "failed"


def test_a_rejected_request_has_an_ending_with_no_agents() -> None:
    tally = present(react(None, Refused("t-1", seq=7, at=ACCEPTED, error="role: bad"), DECIDED).tally)
    ending = compose(tally, {})
    assert isinstance(ending, DeliberationFailed)
    assert (ending.status, ending.error, ending.total_agents) == ("rejected", "role: bad", 0)
    assert (ending.results, ending.failed_agents, ending.missing_agents, ending.metadata) == ((), (), (), {})


def test_a_clock_that_was_set_back_makes_no_negative_duration() -> None:
    tally = decided(State.COMPLETED, {ONE: answer(ONE)}, agents=(ONE,)).model_copy(
        update={"accepted_at": DECIDED + 5}
    )
    assert compose(tally, {ONE: answer(ONE)}).duration_ms == 0


@pytest.mark.parametrize("state", [State.PENDING, State.IN_PROGRESS])
def test_an_undecided_deliberation_has_no_ending(state: State) -> None:
    tally = decided(state, {}).model_copy(update={"verdict": None})
    with pytest.raises(AssertionError, match="only a decided"):
        compose(tally, {})


@given(
    st.lists(st.sampled_from(["answered", "failed", "lost", "missing"]), min_size=1, max_size=12),
    st.booleans(),
)
def test_everybody_is_in_exactly_one_list_and_the_counts_add_up(fates: list[str], by_cancel: bool) -> None:
    agents = [f"agent-dev-{place:03d}" for place in range(1, len(fates) + 1)]
    outcomes: dict[str, AgentOutcome] = {}
    for agent, fate in zip(agents, fates, strict=True):
        if fate != "missing":
            outcomes[agent] = failure(agent) if fate == "failed" else answer(agent)
    tally = decided(State.IN_PROGRESS, outcomes, agents=tuple(agents)).model_copy(update={"verdict": None})
    ended = present(react(tally, CancelRequested() if by_cancel else DeadlineReached(), ACCEPTED + 61).tally)
    kept = {agent: outcome for agent, outcome in outcomes.items() if fates[agents.index(agent)] != "lost"}
    ending = compose(ended, kept)
    named = [
        *(r.agent_id for r in ending.results),
        *(f.agent_id for f in ending.failed_agents),
        *ending.missing_agents,
    ]
    assert sorted(named) == agents
    assert len(ending.results) == ending.successful_responses == fates.count("answered")
    assert len(ending.failed_agents) == ending.failed_responses == fates.count("failed") + fates.count("lost")
    assert ending.total_agents == len(agents)
    assert isinstance(ending, DeliberationFailed) or ending.degraded == (set(fates) != {"answered"})
    assert decode_ending(ending.encode()) == ending


def test_the_ending_of_what_react_decided_is_the_one_react_decided() -> None:
    request = Requested("t-1", seq=7, at=ACCEPTED, deadline=ACCEPTED + 60, role="DEV", num_agents=1)
    late = present(react(None, request, ACCEPTED + 61).tally)
    abandoned = present(react(None, Refused("t-1", 7, ACCEPTED, "gave up", Cause.ABANDONED), ACCEPTED).tally)
    assert isinstance(timeout := compose(late, {}), DeliberationFailed)
    assert (timeout.status, timeout.missing_agents) == ("timeout", (ONE,))
    assert isinstance(failed := compose(abandoned, {}), DeliberationFailed)
    assert (failed.status, failed.error) == ("failed", "gave up")


def test_an_ending_of_failures_only_fits_into_one_message_however_long_they_are() -> None:
    agents = tuple(f"agent-{'x' * 32}-{number:03d}" for number in range(1, 257))
    longest = {agent: failure(agent).model_copy(update={"error": "\x00" * 100_000}) for agent in agents}
    ending = compose(decided(State.FAILED, dict(longest), "none answered", agents), longest)
    assert {len(each.error) for each in ending.failed_agents} == {MAX_ERROR_CHARACTERS}
    assert len(ending.encode()) < 1024 * 1024  # the server's usual limit


# ── what does not fit is left out, and named ──────────────────────────────────────────────────────────────────────


def everything(letter: str, agents: int = 256) -> DeliberationFailed:
    """An ending with all that may be large. JSON escapes some letters sixfold."""
    names = tuple(f"agent-{'x' * 32}-{number:03d}" for number in range(1, agents + 1))
    failed = {name: failure(name).model_copy(update={"error": letter * 500}) for name in names[::2]}
    tally = decided(State.FAILED, dict(failed), letter * 1_000, names)
    ending = compose(tally.model_copy(update={"metadata": {"m": letter * 2_000}}), failed)
    assert isinstance(ending, DeliberationFailed)
    answers = tuple(result_of(answer(name)) for name in names[:3])
    return ending.model_copy(update={"results": answers})


ALL_CUTS = ["failed_agents.error", "results", "failed_agents", "missing_agents", "metadata", "error"]


@pytest.mark.parametrize(
    ("letter", "limit", "left_out"),
    [
        ("x", 1_000_000, []),
        ("x", 60_000, ALL_CUTS[:1]),
        ("x", 20_000, ALL_CUTS[:3]),
        ("x", 6_000, ALL_CUTS[:4]),
        ("x", 3_000, ALL_CUTS[:5]),
        ("x", 1_000, ALL_CUTS),
        ("\x00", 1_000_000, []),
        ("\x00", 300_000, ALL_CUTS[:1]),
        ("\x00", 1_500, ALL_CUTS),
    ],
)
def test_an_ending_is_made_smaller_until_it_fits(letter: str, limit: int, left_out: list[str]) -> None:
    whole = everything(letter)
    ending, body = fit(whole, limit)
    assert body == ending.encode()
    assert len(body) <= limit
    assert list(ending.left_out) == left_out
    assert decode_ending(body) == ending
    counts = (
        ending.total_agents,
        ending.successful_responses,
        ending.failed_responses,
        ending.task_id,
        ending.status,
    )
    assert counts == (256, whole.successful_responses, 128, "t-1", "failed")
    assert ending.error.startswith(letter * 79)


def test_an_ending_that_fits_is_not_touched() -> None:
    whole = everything("x")
    assert fit(whole, len(whole.encode())) == (whole, whole.encode())


def test_only_what_there_was_is_left_out() -> None:
    ending, _ = fit(compose(decided(State.FAILED, {}, "x" * 1_000), {}), 900)
    assert list(ending.left_out) == ["missing_agents", "metadata", "error"]


def test_a_status_is_made_smaller_too() -> None:
    answers = tuple(result_of(answer(agent)) for agent in (ONE, TWO))
    status = DeliberationStatus(
        task_id="t-1", status="FAILED", results=answers, error_message="x" * 1_000, metadata={"a": "b"}
    )
    smaller, body = fit(status, 500)
    assert (len(body) <= 500, smaller.results, smaller.metadata) == (True, (), {})
    assert list(smaller.left_out) == ["results", "metadata", "error"]
    assert len(smaller.error_message) == 80
