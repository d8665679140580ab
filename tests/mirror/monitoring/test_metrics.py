"""What each event counts, and that no name chosen by a caller becomes a series."""

import json
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from parley.broker.core.messages import (
    AgentCompleted,
    AgentFailed,
    DeliberationCompleted,
    DeliberationFailed,
    Ending,
    ErrorType,
    Proposal,
    Usage,
    decode,
)
from parley.broker.core.states_and_moves import ENDINGS
from parley.broker.jetstream import topology
from parley.monitoring.metrics import KNOWN_ROLES, OTHER, TIMEOUTS, Metrics
from parley.workers.model.breaker import BreakerState
from parley.workers.model.pool_endpoint_status import EndpointStatus
from parley.workers.prompts import ROLES

AT = "2026-01-01T00:00:00.000Z"
# (series, labels) and its value.
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def series(metrics: Metrics) -> Series:
    families = text_string_to_metric_families(generate_latest(metrics.registry).decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def changed(metrics: Metrics, before: Series) -> dict[tuple[str, ...], float]:
    """The series that changed: (name, label values in order of the labels' names). Of histograms only count and sum."""
    return {
        (name, *(value for _, value in sorted(labels))): value - before.get((name, labels), 0.0)
        for (name, labels), value in series(metrics).items()
        if value != before.get((name, labels), 0.0) and not name.endswith("_bucket")
    }


def completed(**fields: Any) -> AgentCompleted:
    proposal = Proposal(
        content="hi", author_id="agent-dev-001", author_role="DEV", model="llama", temperature=0.7, tokens=5
    )
    defaults: dict[str, Any] = {
        "task_id": "t-1", "agent_id": "agent-dev-001", "role": "DEV", "proposal": proposal, "finish_reason": "stop",
        "usage": Usage(prompt_tokens=100, completion_tokens=5, total_tokens=105), "attempt": 1, "queue_ms": 500,
        "duration_ms": 1_500, "timestamp": AT, "model": "llama", "diversity": False, "num_agents": 3,
    }  # fmt: skip
    return AgentCompleted(**{**defaults, **fields})


def failed(error_type: ErrorType, **fields: Any) -> AgentFailed:
    defaults: dict[str, Any] = {
        "task_id": "t-1", "agent_id": "agent-qa-001", "role": "QA", "error": "no", "attempt": 1,
    }  # fmt: skip
    return AgentFailed(error_type=error_type, duration_ms=10, timestamp=AT, **{**defaults, **fields})


def ending(status: str, *, degraded: bool = False) -> Ending:
    counts: dict[str, Any] = {
        "task_id": "t-1", "failed_agents": (), "missing_agents": (), "results": (), "total_agents": 3,
        "successful_responses": 0, "failed_responses": 0, "duration_ms": 2_000,
    }  # fmt: skip
    if status == "completed":
        return DeliberationCompleted(degraded=degraded, completed_at=AT, **counts)
    return DeliberationFailed(status=status, error="no", timestamp=AT, **counts)  # type: ignore[arg-type]  # pydantic checks it


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("llama")


def test_an_accepted_deliberation_is_counted_by_its_role(metrics: Metrics) -> None:
    before = series(metrics)
    metrics.deliberation_accepted("QA")
    assert changed(metrics, before) == {("parley_deliberations_accepted_total", "QA"): 1}


@pytest.mark.parametrize("status", sorted(ENDINGS))
def test_an_ending_is_counted_and_timed_by_its_status(metrics: Metrics, status: str) -> None:
    before = series(metrics)
    metrics.deliberation_ended(ending(status))
    assert changed(metrics, before) == {
        ("parley_deliberations_ended_total", "false", status): 1,
        ("parley_deliberation_duration_seconds_count", status): 1,
        ("parley_deliberation_duration_seconds_sum", status): 2.0,
    }


def test_a_degraded_ending_has_its_own_series(metrics: Metrics) -> None:
    before = series(metrics)
    metrics.deliberation_ended(ending("completed", degraded=True))
    assert changed(metrics, before)["parley_deliberations_ended_total", "true", "completed"] == 1


def test_an_answer_counts_its_duration_queue_time_retries_and_tokens(metrics: Metrics) -> None:
    before = series(metrics)
    metrics.agent_reported(completed(attempt=3))
    assert changed(metrics, before) == {
        ("parley_agent_outcomes_total", "completed", "DEV"): 1,
        ("parley_agent_duration_seconds_count", "llama", "DEV"): 1,
        ("parley_agent_duration_seconds_sum", "llama", "DEV"): 1.5,
        ("parley_agent_queue_seconds_count",): 1,
        ("parley_agent_queue_seconds_sum",): 0.5,
        ("parley_agent_retries_total", "DEV"): 2,
        ("parley_agent_tokens_total", "prompt"): 100,
        ("parley_agent_tokens_total", "completion"): 5,
    }


@pytest.mark.parametrize("kind", ErrorType)
def test_a_failure_is_counted_by_its_type_and_as_a_timeout_too(metrics: Metrics, kind: ErrorType) -> None:
    before = series(metrics)
    metrics.agent_reported(failed(kind))
    grown = changed(metrics, before)
    assert grown.pop(("parley_agent_outcomes_total", kind.value, "QA")) == 1
    assert grown.pop(("parley_agent_queue_seconds_count",)) == 1
    timeout = {("parley_agent_timeouts_total", kind.value, "QA"): 1.0} if kind in TIMEOUTS else {}
    assert grown == timeout


def test_an_agent_without_a_call_counts_no_retries(metrics: Metrics) -> None:
    before = series(metrics)
    metrics.agent_reported(failed(ErrorType.DEADLINE_EXCEEDED, attempt=0))
    assert ("parley_agent_retries_total", "QA") not in changed(metrics, before)


def test_an_ignored_outcome_is_counted_separately_but_its_timeout_still_counts(metrics: Metrics) -> None:
    before = series(metrics)
    metrics.outcome_ignored(completed())
    metrics.outcome_ignored(failed(ErrorType.DEADLINE_EXCEEDED))
    assert changed(metrics, before) == {
        ("parley_agent_outcomes_ignored_total",): 2,
        ("parley_agent_timeouts_total", "deadline_exceeded", "QA"): 1,
    }


def test_dead_letters_and_failures_are_counted_by_consumer(metrics: Metrics) -> None:
    before = series(metrics)
    metrics.dead_lettered(topology.INTAKE.filter)
    metrics.handler_failed(topology.AGGREGATE.name)
    assert changed(metrics, before) == {
        ("parley_dead_letters_total", "deliberation.requested"): 1,
        ("parley_handler_failures_total", "aggregate"): 1,
    }


def test_an_outcome_with_negative_numbers_is_still_counted(metrics: Metrics) -> None:
    """Any client may publish an outcome, and a counter raises when it is lowered."""
    body = {
        **json.loads(completed().encode()),
        "usage": {"prompt_tokens": -5, "completion_tokens": -1},
        "attempt": -3,
    }
    before = series(metrics)
    metrics.agent_reported(decode(AgentCompleted, json.dumps(body).encode()))
    grown = changed(metrics, before)
    assert grown["parley_agent_outcomes_total", "completed", "DEV"] == 1
    assert all(value > 0 for value in grown.values())


# ── series ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_names_chosen_by_callers_make_no_series(metrics: Metrics) -> None:
    metrics.agent_reported(completed(role="INVENTED", model="invented"))  # the first of each kind of `other`
    before = set(series(metrics))
    for number in range(50):
        metrics.deliberation_accepted(f"ROLE_{number}")
        role = f"ROLE_{number}"
        metrics.agent_reported(completed(task_id=f"t-{number}", role=role, model=f"model-{number}"))
        metrics.agent_reported(failed(ErrorType.TOTAL_TIMEOUT, role=role, agent_id=f"agent-x-{number}"))
        metrics.outcome_ignored(failed(ErrorType.TOTAL_TIMEOUT, role=role))
    assert set(series(metrics)) == before
    values = {value for _, labels in before for name, value in labels if name != "le"}
    assert not any("INVENTED" in value or "invented" in value or "t-" in value for value in values)
    assert series(metrics)["parley_deliberations_accepted_total", frozenset({("role", OTHER)})] == 50


def test_a_process_without_a_model_name_takes_the_first_answers() -> None:
    metrics = Metrics("")
    for model in ("llama", "invented-1", "invented-2"):
        metrics.agent_reported(completed(model=model))
    assert {value for _, labels in series(metrics) for name, value in labels if name == "model"} == {
        "llama",
        OTHER,
    }


def test_every_counter_series_exists_from_the_start_at_zero(metrics: Metrics) -> None:
    found = {key: value for key, value in series(metrics).items() if key[0].endswith("_total")}
    assert set(found.values()) == {0}
    metrics.deliberation_accepted("DEV")
    metrics.agent_reported(completed(attempt=2))
    metrics.outcome_ignored(completed())
    for status in ENDINGS:
        metrics.deliberation_ended(ending(status))
    for kind in ErrorType:
        metrics.agent_reported(failed(kind))
    for durable in topology.DURABLES:
        metrics.dead_lettered(durable.filter)
        metrics.handler_failed(durable.name)
    assert {key for key in series(metrics) if key[0].endswith("_total")} == set(found)
    assert len({name for name, _ in found}) == 13


def test_the_roles_counted_by_name_are_those_with_their_own_prompts() -> None:
    assert frozenset(ROLES) == KNOWN_ROLES


def test_there_are_fewer_than_500_series(metrics: Metrics) -> None:
    assert len(series(metrics)) < 500


def test_the_pool_is_read_at_each_scrape(metrics: Metrics) -> None:
    busy = 0
    metrics.watch_pool(lambda: 256, lambda: busy)
    assert series(metrics)["parley_pool_busy", frozenset()] == 0
    busy = 7
    assert series(metrics)["parley_pool_busy", frozenset()] == 7
    assert series(metrics)["parley_pool_slots", frozenset()] == 256


def test_the_messages_a_process_holds_are_read_at_each_scrape(metrics: Metrics) -> None:
    held = 0
    metrics.watch_consumer("intake", lambda: held, 64)
    assert series(metrics)["parley_consumer_held", frozenset({("consumer", "intake")})] == 0
    held = 3
    assert series(metrics)["parley_consumer_held", frozenset({("consumer", "intake")})] == 3
    assert series(metrics)["parley_consumer_limit", frozenset({("consumer", "intake")})] == 64


def test_breakers_are_read_at_each_scrape_in_every_state(metrics: Metrics) -> None:
    def status(*workers: int, openings: int) -> dict[str, EndpointStatus]:
        states = (BreakerState.CLOSED, BreakerState.HALF_OPEN, BreakerState.OPEN)
        return {"gpu-1:8000": EndpointStatus(dict(zip(states, workers, strict=True)), openings)}

    seen = status(2, 0, 0, openings=0)
    metrics.watch_breakers(lambda: seen)

    def breakers() -> dict[str, float]:
        name, found = "parley_endpoint_breakers", series(metrics)
        states = {dict(labels)["state"]: value for (each, labels), value in found.items() if each == name}
        label = frozenset({("endpoint", "gpu-1:8000")})
        return {**states, "openings": found["parley_endpoint_breaker_openings_total", label]}

    assert breakers() == {"closed": 2, "half_open": 0, "open": 0, "openings": 0}
    seen = status(0, 1, 1, openings=3)
    assert breakers() == {"closed": 0, "half_open": 1, "open": 1, "openings": 3}


def test_two_services_in_one_process_count_apart() -> None:
    one, other = Metrics("m"), Metrics("m")
    before = series(other)
    one.deliberation_accepted("DEV")
    assert changed(other, before) == {}


def test_how_far_this_machines_clock_is_ahead_is_read_at_each_scrape() -> None:
    metrics, offset = Metrics("llama"), [0.0]
    metrics.watch_clock(lambda: offset[0])
    offset[0] = -20.5
    assert series(metrics)["parley_clock_offset_seconds", frozenset()] == -20.5


def test_whether_nats_is_there_and_how_often_it_was_lost_is_read_at_each_scrape() -> None:
    metrics, connected, losses = Metrics("llama"), [True], [0]
    metrics.watch_nats(lambda: connected[0], lambda: losses[0])
    found = series(metrics)
    assert found["parley_nats_connected", frozenset()] == 1
    assert found["parley_nats_connection_losses_total", frozenset()] == 0
    connected[0], losses[0] = False, 3
    found = series(metrics)
    assert found["parley_nats_connected", frozenset()] == 0
    assert found["parley_nats_connection_losses_total", frozenset()] == 3
