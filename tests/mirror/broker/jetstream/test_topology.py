"""Streams, consumers and buckets as they are declared."""

import pytest
from nats.js.api import AckPolicy, DiscardPolicy

from parley.broker.core.messages import MAX_TIMEOUT_SECONDS
from parley.broker.jetstream import topology
from parley.broker.jetstream.topology import DURABLES, SUSPECTS, consumer, streams

# ── names ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_subjects_are_made_of_the_name_of_a_deliberation() -> None:
    assert topology.timer_subject("t-1") == "deliberation.timer.t-1"
    assert topology.deadline_subject("t-1") == "deliberation.deadline.t-1"
    assert topology.tally_subject("t-1") == "$KV.deliberations.t-1"
    assert topology.dead_letter_subject("agent.requested") == "deadletter.agent.requested"


# ── what is declared ──────────────────────────────────────────────────────────────────────────────────────────────


def test_replicas_are_those_that_were_asked_for_everywhere() -> None:
    assert {stream.num_replicas for stream in streams(replicas=3)} == {3}


@pytest.mark.parametrize(("keep_seconds", "window"), [(3_600.0, 3_600.0), (60.0, 60.0), (86_400.0, 3_600.0)])
def test_an_endings_msg_id_is_forgotten_no_later_than_its_tally(keep_seconds: float, window: float) -> None:
    by_name = {stream.name: stream for stream in streams(keep_seconds=keep_seconds)}
    assert by_name["DELIBERATIONS"].duplicate_window == window


def test_a_deadline_a_day_ahead_outlives_nothing_it_waits_in() -> None:
    assert all((stream.max_age or 0) > MAX_TIMEOUT_SECONDS for stream in streams() if stream.name != SUSPECTS)


def test_deliveries_are_ours_to_count() -> None:
    for durable in DURABLES:
        config = consumer(durable)
        assert (config.max_deliver, config.ack_policy) == (-1, AckPolicy.EXPLICIT)
        assert (config.durable_name, config.filter_subject) == (durable.name, durable.filter)


@pytest.mark.parametrize(
    ("deployment", "waits"),
    [
        (30.0, {"intake": 1.0, "cancel": 1.0, "expire": 0.5, "dispatch": 30.0, "aggregate": 1.0}),
        (0.4, dict.fromkeys(["intake", "cancel", "expire", "dispatch", "aggregate"], 0.4)),
    ],
)
def test_only_work_that_takes_long_is_waited_for_long(deployment: float, waits: dict[str, float]) -> None:
    assert {durable.name: consumer(durable, deployment).ack_wait for durable in DURABLES} == waits


def test_what_is_full_refuses_and_only_the_stream_with_the_timers_has_no_limit() -> None:
    budget = 2**30
    declared = {stream.name: stream for stream in streams(budget_bytes=budget)}
    timers = declared.pop("DELIBERATIONS")
    declared.pop(SUSPECTS)  # a few bytes for each message that may have killed its process, for an hour
    assert (timers.max_bytes, timers.discard) == (None, DiscardPolicy.OLD)
    assert {stream.discard for stream in declared.values()} == {DiscardPolicy.NEW}
    limits = [stream.max_bytes or 0 for stream in declared.values()]
    assert min(limits) > 0
    assert sum(limits) <= budget * 3 / 4  # the rest is for timers and endings


def test_the_answers_of_eight_of_the_largest_deliberations_fit_on_an_ordinary_disk() -> None:
    # 8 deliberations of 256 agents, 300 KB each; nats-server promises three quarters of 12 GiB, of which 8 are taken.
    declared = {stream.name: stream.max_bytes or 0 for stream in streams(budget_bytes=8 * 2**30)}
    assert declared["AGENT_RESPONSES"] > 8 * 256 * 300_000
    assert declared["OBJ_results"] > 8 * 256 * 300_000
