"""Requests are recorded, or rejected by field and kept whole. Every sender gets an ending."""

import json
import re
import time
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.subscription import Subscription

from parley.broker.core.events_and_effects import CancelRequested, DeadlineReached, Refused
from parley.broker.core.headers_and_ids import REPLY_TO, own_name
from parley.broker.core.messages import MAX_REQUEST_BYTES, DeliberationFailed, DeliberationRequested
from parley.broker.core.reactions import MAX_MORE_INBOXES
from parley.broker.core.reply_subjects import MAX_CHARACTERS
from parley.broker.core.states_and_moves import State
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.tally_store import TallyStore
from parley.broker.jetstream.topology import INTAKE
from parley.handlers.effects import EffectRunner, Past
from parley.handlers.ending_publisher import EndingPublisher
from parley.handlers.intake import Bounds, Intake, readable_task_id
from parley.handlers.settle import MAX_DELIVERIES, Runner
from tests import present
from tests.harness import until
from tests.mirror.handlers import Bench, Stumble, StumblingWire, effects_of, runner_of

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
HOSTILE_NAMES = [
    "a.b", ">", "*", "../x", "", " ", "x" * 5_000, "naïve", "a\nb", "$KV", 17, ["a"], {"a": 1},
]  # fmt: skip
REQUEST = {"task_id": "t-1", "task_description": "x"}
BOUNDS = Bounds(max_agents=16, timeout_seconds=120.0, reply_prefixes=("_INBOX.", "replies.ours."))


def intake_of(bench: Bench, wire: JetStream | None = None, keep_seconds: float = 60) -> Runner:
    used = wire or bench.wire
    tallies = TallyStore(bench.wire, keep_seconds=keep_seconds)
    endings = EndingPublisher(used, tallies, bench.notes, claim_check_bytes=512 * 1024)
    intake = Intake(EffectRunner(used, tallies, endings), bench.notes, BOUNDS)
    return runner_of(bench, INTAKE, intake.handle, give_up=intake.give_up)


@pytest.fixture
def intake(bench: Bench) -> Runner:
    return intake_of(bench)


async def take_in(
    bench: Bench, intake: Runner, payload: Any, headers: Mapping[str, str] | None = None
) -> int:
    """Publish one request and have it taken in; its sequence."""
    seq = await bench.publish(topology.REQUESTED, payload, headers)
    await intake(await bench.taken(INTAKE))
    return seq


async def rejection_of(bench: Bench, task_id: str) -> str:
    """Why it was rejected."""
    (ending,) = await bench.endings_of(task_id)
    assert isinstance(ending, DeliberationFailed)
    assert ending.status == "rejected"
    return ending.error


async def queued(bench: Bench) -> int:
    return (await bench.js.stream_info(topology.AGENT_REQUESTS)).state.messages


# ── good ones ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_request_is_recorded_armed_fanned_out_then_settled(bench: Bench, intake: Runner) -> None:
    payload = {
        "task_id": "t-1", "task_description": "x", "role": "qa", "num_agents": 2, "min_responses": 2, "finish_early": True,
        "timeout_seconds": 30, "metadata": {"ticket": "P-1"},
    }  # fmt: skip
    seq = await take_in(bench, intake, payload, {REPLY_TO: "_INBOX.a.b", "traceparent": TRACE})
    tally = present(await bench.tally_of("t-1"))
    assert (tally.state, tally.request_seq, tally.role) == (State.PENDING, seq, "QA")
    assert (tally.min_responses, tally.finish_early, tally.metadata) == (2, True, {"ticket": "P-1"})
    assert (tally.reply_to, tally.traceparent) == ("_INBOX.a.b", TRACE)
    assert tally.phase.agents == ("agent-qa-001", "agent-qa-002")
    assert tally.deadline == tally.accepted_at + 30
    assert abs(tally.accepted_at - time.time()) < 30
    assert await queued(bench) == 2
    assert await bench.wire.get_last(topology.DELIBERATIONS, "deliberation.timer.t-1") is not None
    await bench.settled(INTAKE)
    assert bench.notes.lines == ["accepted QA"]


@pytest.mark.parametrize("name", [{}, {"task_id": None}])
async def test_a_request_without_a_name_is_named_after_its_place(
    bench: Bench, intake: Runner, name: dict[str, None]
) -> None:
    await bench.publish(topology.CANCEL, {"task_id": "x"})
    seq = await take_in(bench, intake, {**name, "task_description": "x"})
    assert seq == 2
    assert own_name(seq) == "d-2"
    assert await bench.tally_of("d-2") is not None


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({}, 120.0),
        ({"timeout_seconds": 5}, 5.0),
        ({"constraints": {"timeout_seconds": 7}}, 7.0),
        ({"timeout_seconds": 5, "constraints": {"timeout_seconds": 7}}, 5.0),
    ],
)
async def test_its_time_runs_from_its_arrival_in_the_stream(
    bench: Bench, intake: Runner, fields: dict[str, Any], seconds: float
) -> None:
    await take_in(bench, intake, {"task_id": "t-1", "task_description": "x", **fields})
    tally = present(await bench.tally_of("t-1"))
    assert tally.deadline - tally.accepted_at == pytest.approx(seconds)


async def test_the_same_message_again_is_the_same_deliberation(bench: Bench, intake: Runner) -> None:
    await bench.publish(topology.REQUESTED, {"task_description": "x"})
    (first,) = await bench.taken(INTAKE)
    await first.nak()
    (again,) = await bench.taken(INTAKE)
    await intake([again])
    await intake_of(bench)([again])  # and once more, in another process
    assert await queued(bench) == 3
    assert bench.notes.lines[0] == "accepted DEV"
    assert bench.notes.lines.count("accepted DEV") == 1


# ── the same name again ───────────────────────────────────────────────────────────────────────────────────────────


async def heard_at(bench: Bench, inbox: str) -> Subscription:
    subscription = await bench.nc.subscribe(inbox)
    await bench.nc.flush()
    return subscription


async def next_of(subscription: Subscription) -> dict[str, Any]:
    return dict(json.loads((await subscription.next_msg(timeout=5)).data))


async def cancel(bench: Bench, task_id: str, claim_check_bytes: int = 512 * 1024) -> None:
    effects = effects_of(bench, claim_check_bytes=claim_check_bytes)
    await effects.apply(task_id, [(CancelRequested("enough"), time.time())])


async def test_each_asker_of_one_question_hears_its_ending(bench: Bench, intake: Runner) -> None:
    """A program that crashed asks again, twice, and has another inbox each time."""
    inboxes = [bench.nc.new_inbox() for _ in range(3)]
    heard = [await heard_at(bench, inbox) for inbox in inboxes]
    for inbox in inboxes:
        await take_in(bench, intake, REQUEST, {REPLY_TO: inbox})
    tally = present(await bench.tally_of("t-1"))
    assert (tally.reply_to, tally.more_reply_to) == (inboxes[0], tuple(inboxes[1:]))
    assert await queued(bench) == 3
    await cancel(bench, "t-1")
    assert [(await next_of(one))["task_id"] for one in heard] == ["t-1"] * 3
    assert len(await bench.endings_of("t-1")) == 1
    await bench.settled(INTAKE)
    assert await bench.dead_letters() == []
    assert bench.notes.lines == ["accepted DEV", "ended cancelled"]


async def test_who_asks_after_it_ended_gets_the_stored_ending_at_once(bench: Bench, intake: Runner) -> None:
    await take_in(bench, intake, REQUEST)
    await cancel(bench, "t-1")
    (stored,) = await bench.all_of(topology.DELIBERATIONS, topology.FAILED)
    inbox = bench.nc.new_inbox()
    heard = await heard_at(bench, inbox)
    await take_in(
        bench, intake, {**REQUEST, "timeout_seconds": 7, "metadata": {"try": "2"}}, {REPLY_TO: inbox}
    )
    message = await heard.next_msg(timeout=5)
    assert message.data == stored.data
    assert present(message.headers)["Parley-Subject"] == topology.FAILED
    assert len(await bench.endings_of("t-1")) == 1


async def test_who_asks_between_the_decision_and_its_mark_hears_too(bench: Bench, intake: Runner) -> None:
    await take_in(bench, intake, REQUEST)
    dying = effects_of(bench, StumblingWire(bench.nc, at=3, after=False))
    with pytest.raises(Stumble):  # after the ending is stored, before the tally is marked
        await dying.apply("t-1", [(CancelRequested("enough"), time.time())])
    inbox = bench.nc.new_inbox()
    heard = await heard_at(bench, inbox)
    await take_in(bench, intake, REQUEST, {REPLY_TO: inbox})
    await effects_of(bench).apply("t-1", [(DeadlineReached(), time.time() + 600)])
    assert (await next_of(heard))["status"] == "cancelled"


async def test_more_askers_than_a_tally_keeps_push_out_the_oldest_but_the_first(
    bench: Bench, intake: Runner
) -> None:
    count = MAX_MORE_INBOXES + 3
    for number in range(count):
        await take_in(bench, intake, REQUEST, {REPLY_TO: f"_INBOX.a.{number}"})
    tally = present(await bench.tally_of("t-1"))
    assert tally.inboxes == ("_INBOX.a.0", *(f"_INBOX.a.{number}" for number in range(3, count)))


@pytest.mark.parametrize(
    "second",
    [
        {"task_id": "t-1", "task_description": "y"},
        {"task_id": "t-1", "task_description": "x", "num_agents": 9},
        {"task_id": "t-1", "task_description": "x", "constraints": {"rubric": {"a": 1}}},
        {"task_id": "t-1", "num_agents": 0},
        {"task_id": "t-1", "task_description": "x", "num_agents": 17},
    ],
    ids=["another text", "more agents", "a rubric", "invalid", "too many agents"],
)
@pytest.mark.parametrize("ended", [False, True])
async def test_another_question_of_a_used_name_is_rejected_to_its_sender(
    bench: Bench, intake: Runner, second: dict[str, Any], ended: bool
) -> None:
    first_inbox, inbox = bench.nc.new_inbox(), bench.nc.new_inbox()
    await take_in(bench, intake, REQUEST, {REPLY_TO: first_inbox})
    if ended:
        await cancel(bench, "t-1")
    heard = await heard_at(bench, inbox)
    seq = await take_in(bench, intake, second, {REPLY_TO: inbox})
    rejection = await next_of(heard)
    assert (rejection["task_id"], rejection["status"]) == (own_name(seq), "rejected")
    assert await rejection_of(bench, own_name(seq)) == rejection["error"]
    assert "num_agents" in rejection["error"] or "t-1 is another question's" in rejection["error"]
    tally = present(await bench.tally_of("t-1"))
    assert (tally.inboxes, len(tally.phase.agents)) == ((first_inbox,), 3)
    assert await queued(bench) == 3
    assert len(await bench.endings_of("t-1")) == ended
    (letter,) = await bench.dead_letters()
    assert json.loads(letter.data) == second


async def test_a_mended_request_of_a_rejected_name_is_told_to_choose_another(
    bench: Bench, intake: Runner
) -> None:
    await take_in(bench, intake, {"task_id": "t-1"})
    seq = await take_in(bench, intake, REQUEST)
    assert "t-1 is another question's" in await rejection_of(bench, own_name(seq))
    assert len(await bench.endings_of("t-1")) == 1


async def test_a_redelivered_second_asker_is_no_third(bench: Bench, intake: Runner) -> None:
    await take_in(bench, intake, REQUEST)
    await bench.publish(topology.REQUESTED, REQUEST, {REPLY_TO: "_INBOX.a.b"})
    (delivery,) = await bench.taken(INTAKE)
    await intake._handle(delivery)
    await delivery.nak()
    await intake(await bench.taken(INTAKE))
    assert present(await bench.tally_of("t-1")).inboxes == ("_INBOX.a.b",)


async def test_a_tally_of_version_0_1_0_counts_as_the_same_question(bench: Bench, intake: Runner) -> None:
    await take_in(bench, intake, REQUEST)
    old = present(await bench.tally_of("t-1")).model_dump(mode="json", exclude={"question", "more_reply_to"})
    await bench.publish(topology.tally_subject("t-1"), old)
    await take_in(
        bench, intake_of(bench), {"task_id": "t-1", "task_description": "y"}, {REPLY_TO: "_INBOX.a.b"}
    )
    assert present(await bench.tally_of("t-1")).inboxes == ("_INBOX.a.b",)


async def test_one_bad_request_of_a_batch_affects_no_other(bench: Bench, intake: Runner) -> None:
    for payload in (
        {"task_id": "a", "task_description": "x"},
        b"nope",
        {"task_id": "b", "task_description": "x"},
    ):
        await bench.publish(topology.REQUESTED, payload)
    await intake(await bench.taken(INTAKE, 3))
    assert await bench.tally_of("a") is not None
    assert await bench.tally_of("b") is not None
    assert "payload" in await rejection_of(bench, "d-2")
    await bench.settled(INTAKE)


# ── bad ones ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_bad_request_is_rejected_by_field_and_kept_whole(bench: Bench, intake: Runner) -> None:
    payload = {"task_id": "t-1", "num_agents": 0, "task_description": ""}
    seq = await take_in(bench, intake, payload, {REPLY_TO: "_INBOX.x", "traceparent": TRACE})
    error = await rejection_of(bench, "t-1")
    assert "num_agents: " in error
    assert "task_description: " in error
    (letter,) = await bench.dead_letters()
    assert json.loads(letter.data) == payload
    assert (letter.headers["Parley-Sequence"], letter.headers["Parley-Reason"]) == (str(seq), error)
    tally = present(await bench.tally_of("t-1"))
    assert (tally.state, tally.reply_to, tally.traceparent) == (State.REJECTED, "_INBOX.x", TRACE)
    await bench.settled(INTAKE)
    assert sorted(bench.notes.lines) == ["dead-lettered deliberation.requested", "ended rejected"]


async def test_more_agents_than_are_allowed_are_rejected_with_the_limit(bench: Bench, intake: Runner) -> None:
    await take_in(bench, intake, {"task_id": "at", "task_description": "x", "num_agents": 16})
    await take_in(bench, intake, {"task_id": "past", "task_description": "x", "num_agents": 17})
    assert await bench.tally_of("at") is not None
    assert await rejection_of(bench, "past") == "num_agents: 17 is more than this service allows, 16"
    assert len(await bench.dead_letters()) == 1


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=lambda name: repr(name)[:20])
async def test_an_invalid_name_is_answered_under_the_name_of_the_messages_place(
    bench: Bench, intake: Runner, name: Any
) -> None:
    seq = await take_in(bench, intake, {"task_id": name, "task_description": "x"})
    assert "task_id: " in await rejection_of(bench, own_name(seq))
    assert len(await bench.dead_letters()) == 1


async def test_a_client_cannot_choose_a_name_of_the_services_own_form(bench: Bench, intake: Runner) -> None:
    """Chosen ahead, `d-3` would be a stranger's when the third message comes, and that one would get no ending of its
    own."""
    first = await take_in(bench, intake, {"task_id": "d-3", "task_description": "x"})
    assert "choose another" in await rejection_of(bench, own_name(first))
    assert await bench.tally_of("d-3") is None
    # Under the very name it will have, it is only said twice.
    seq = (await bench.js.stream_info(topology.DELIBERATIONS)).state.last_seq + 1
    await take_in(bench, intake, {"task_id": own_name(seq), "task_description": "x"})
    assert present(await bench.tally_of(own_name(seq))).state is State.PENDING


async def test_a_rejection_stays_small_whatever_was_sent(bench: Bench, intake: Runner) -> None:
    seq = await take_in(bench, intake, {"task_description": "x", "metadata": {"k" * 900_000: 1}})
    error = await rejection_of(bench, own_name(seq))
    assert error == "metadata: metadata is 900006 bytes as JSON, more than 16384"
    assert len(await bench.dead_letters()) == 1
    await bench.settled(INTAKE)


async def test_a_request_too_large_to_be_valid_is_refused_unread(
    bench: Bench, intake: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DeliberationRequested, "max_body_bytes", 10_000)
    seq = await take_in(bench, intake, {"task_description": "x" * 10_000})
    assert await rejection_of(bench, own_name(seq)) == "payload: is 10024 bytes, more than 10000"
    assert len(await bench.dead_letters()) == 1
    await bench.settled(INTAKE)


class TightWire(JetStream):
    """To a server configured for smaller messages than the contract allows."""

    max_payload = 40_000


async def test_work_that_would_not_fit_with_its_request_names_it_instead(bench: Bench) -> None:
    intake = intake_of(bench, TightWire(bench.nc))
    seq = await take_in(bench, intake, {"task_id": "t-1", "num_agents": 1, "task_description": "x" * 39_900})
    (work,) = await bench.all_of(topology.AGENT_REQUESTS, topology.AGENT_REQUESTED)
    assert json.loads(work.data)["request_seq"] == seq
    assert await bench.endings_of("t-1") == []
    await bench.settled(INTAKE)


# ── headers ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "inbox",
    ["_INBOX.a", "_INBOX.a-b.c_d=.$x", "replies.ours.me", "_INBOX." + "x" * (MAX_CHARACTERS - 7)],
)
async def test_an_inbox_under_an_allowed_prefix_is_taken(bench: Bench, intake: Runner, inbox: str) -> None:
    await take_in(bench, intake, REQUEST, {REPLY_TO: inbox})
    assert present(await bench.tally_of("t-1")).reply_to == inbox


@pytest.mark.parametrize(
    "inbox",
    [
        "deliberation.requested", "agent.requested", "agent.response.completed", "$KV.deliberations.t-1",
        "$JS.API.STREAM.DELETE.DELIBERATIONS", "replies.theirs", "_INBOX", "_INBOX.", "_INBOX..x", "_INBOX.*",
        "_INBOX.>", "_INBOX.a b", "_INBOX. x", "_INBOX.a\tb", "_inbox.a", "x_INBOX.a", "_INBOX.naïve",
        "_INBOX." + "x" * (MAX_CHARACTERS - 6),
    ],
    ids=lambda inbox: inbox[:20],
)  # fmt: skip
async def test_no_other_subject_is_ever_sent_to(bench: Bench, intake: Runner, inbox: str) -> None:
    seq = await take_in(bench, intake, {"task_description": "x"}, {REPLY_TO: inbox})
    error = await rejection_of(bench, own_name(seq))
    assert error == "header Parley-Reply-To: must be a subject that begins with _INBOX., replies.ours."
    assert present(await bench.tally_of(own_name(seq))).reply_to is None
    assert len(await bench.dead_letters()) == 1


@pytest.mark.parametrize(
    "trace",
    [
        "", "nonsense", TRACE.upper(), TRACE[:-1], TRACE + "0", TRACE.replace("-", "_"), "ff" + TRACE[2:],
        f"00-{'0' * 32}-00f067aa0ba902b7-01", f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01",
        TRACE + ", " + TRACE,
    ],
)  # fmt: skip
async def test_a_malformed_trace_is_ignored(bench: Bench, intake: Runner, trace: str) -> None:
    await take_in(bench, intake, REQUEST, {"traceparent": trace})
    assert present(await bench.tally_of("t-1")).traceparent is None


@pytest.mark.parametrize("trace", [TRACE, TRACE[:-2] + "00", "cc" + TRACE[2:]])
async def test_a_well_formed_trace_is_kept(bench: Bench, intake: Runner, trace: str) -> None:
    await take_in(bench, intake, REQUEST, {"traceparent": trace})
    assert present(await bench.tally_of("t-1")).traceparent == trace


# ── what cannot be taken in ───────────────────────────────────────────────────────────────────────────────────────


class NoTimers(JetStream):
    """The real wire, but for one thing that never works."""

    async def schedule(self, timer: str, target: str, at: float, body: bytes) -> None:
        raise Stumble("no timers today")


async def test_a_request_that_cannot_be_taken_in_fails_and_its_sender_hears_why(bench: Bench) -> None:
    intake = intake_of(bench, NoTimers(bench.nc))
    payload = REQUEST
    await bench.publish(topology.REQUESTED, payload)
    for count in range(1, MAX_DELIVERIES + 1):
        assert await bench.endings_of("t-1") == []
        batch = await bench.taken(INTAKE)
        assert batch[0].count == count
        await intake(batch)
    (ending,) = await bench.endings_of("t-1")
    assert isinstance(ending, DeliberationFailed)
    assert ending.status == "failed"
    assert (
        ending.error
        == f"the service could not take this request in: Stumble after {MAX_DELIVERIES} deliveries"
    )
    (letter,) = await bench.dead_letters()
    assert json.loads(letter.data) == payload
    await bench.settled(INTAKE)
    assert bench.notes.lines.count("failed intake") == MAX_DELIVERIES


# ── after an absence ──────────────────────────────────────────────────────────────────────────────────────────────


async def short_memory(bench: Bench) -> None:
    """The stream of endings forgets a Msg-Id at once."""
    live = (await bench.js.stream_info(topology.DELIBERATIONS)).config
    await bench.js.update_stream(live.evolve(duplicate_window=0.1))


async def forgotten(bench: Bench, *task_ids: str) -> None:
    async def gone() -> bool:
        return all([await bench.tally_of(task_id) is None for task_id in task_ids])

    await until(gone, "the tallies are forgotten")


async def test_requests_that_ended_before_intake_came_back_are_not_run_again(bench: Bench) -> None:
    """Twenty were recorded, asked and not acknowledged; they ended, and were forgotten, before intake was back."""
    await short_memory(bench)
    names = [f"t-{number}" for number in range(20)]
    for name in names:
        await bench.publish(topology.REQUESTED, {"task_id": name, "task_description": "x", "num_agents": 1})
    before = intake_of(bench, keep_seconds=1)
    for delivery in await bench.taken(INTAKE, 20):
        await before._handle(delivery)  # and dies before it acknowledges
        await delivery.nak()
    effects = effects_of(bench, keep_seconds=1)
    for name in names:
        await effects.apply(name, [(CancelRequested("enough"), time.time())])
    await forgotten(bench, *names)
    await intake_of(bench, keep_seconds=1)(await bench.taken(INTAKE, 20))
    assert [len(await bench.endings_of(name)) for name in names] == [1] * 20
    assert [await bench.tally_of(name) for name in names] == [None] * 20
    await bench.settled(INTAKE)


async def test_a_process_that_stood_still_records_nothing_that_is_forgotten(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It saw a tally, and stood still until that was forgotten. (Found by the simulation: seed 94485.)"""
    await short_memory(bench)
    await bench.publish(topology.REQUESTED, {"task_id": "t-1", "task_description": "x", "num_agents": 1})
    (delivery,) = await bench.taken(INTAKE)
    await intake_of(bench, keep_seconds=1)._handle(delivery)
    await delivery.nak()
    effects = effects_of(bench, keep_seconds=1)
    await effects.apply("t-1", [(CancelRequested("enough"), time.time())])
    past_of = EffectRunner.past_of

    async def then_stands_still(*arguments: Any) -> Past:
        past = await past_of(*arguments)
        await forgotten(bench, "t-1")
        return past

    monkeypatch.setattr(EffectRunner, "past_of", then_stands_still)
    await intake_of(bench, keep_seconds=1)(await bench.taken(INTAKE))
    assert await bench.tally_of("t-1") is None
    monkeypatch.undo()
    await intake_of(bench, keep_seconds=1)(await bench.taken(INTAKE))
    assert len(await bench.endings_of("t-1")) == 1
    assert await bench.tally_of("t-1") is None
    await bench.settled(INTAKE)


async def test_a_request_older_than_any_tally_is_looked_for_at_its_first_delivery(bench: Bench) -> None:
    """Its consumer was lost and made anew: every delivery is a first one."""
    await short_memory(bench)
    seqs = [await bench.publish(topology.REQUESTED, {"task_description": "x"}) for _ in range(2)]
    effects = effects_of(bench, keep_seconds=1)
    await effects.apply(own_name(seqs[0]), [(Refused(own_name(seqs[0]), seqs[0], time.time(), "no"), 0.0)])
    await forgotten(bench, own_name(seqs[0]))
    await intake_of(bench, keep_seconds=1)(await bench.taken(INTAKE, 2))
    assert len(await bench.endings_of(own_name(seqs[0]))) == 1
    assert await bench.tally_of(own_name(seqs[0])) is None
    assert present(await bench.tally_of(own_name(seqs[1]))).state is State.PENDING


async def test_an_invalid_request_that_comes_back_after_an_absence_is_not_refused_again(bench: Bench) -> None:
    await short_memory(bench)
    await bench.publish(topology.REQUESTED, {"task_id": "t-1"})
    (delivery,) = await bench.taken(INTAKE)
    await intake_of(bench, keep_seconds=1)._handle(delivery)
    await delivery.nak()
    await forgotten(bench, "t-1")
    await intake_of(bench, keep_seconds=1)(await bench.taken(INTAKE))
    assert len(await bench.endings_of("t-1")) == 1
    assert len(await bench.dead_letters()) == 1


# ── a name out of anything ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"task_id": "t-1"}', "t-1"),
        (b'{"task_id": "t-1", "num_agents": "many"}', "t-1"),
        (b'{"task_id": "a", "task_id": "b"}', "b"),
        (b'{"task_id": "' + b"x" * 64 + b'"}', "x" * 64),
        (b'{"task_id": "' + b"x" * 65 + b'"}', None),
        (b'{"task_id": "t-1\\n"}', None),
        (b'{"task_id": "t.1"}', None),
        (b'{"task_id": ""}', None),
        (b'{"task_id": "d-7"}', None),  # a name the service gives
        (b'{"task_id": 7}', None),
        (b'{"task_id": null}', None),
        (b'{"task_id": ["t-1"]}', None),
        (b'{"task_id": {"task_id": "t-1"}}', None),
        (b'["task_id", "t-1"]', None),
        (b'"t-1"', None),
        (b"{}", None),
        (b"", None),
        (b"nope", None),
        (b'\xff\xfe{"task_id": "t-1"}', None),
        (b"[" * 200_000, None),
        (b'{"a":' * 100_000, None),
        (b'{"task_id": "t-1", "n": ' + b"9" * 10_000 + b"}", None),
        (b'{"task_id": "t-1"' + b" " * MAX_REQUEST_BYTES + b"}", None),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_usable_name_is_found_in_a_bad_request_and_no_other(body: bytes, name: str | None) -> None:
    assert readable_task_id(body) == name


@given(
    st.binary(max_size=100)
    | st.dictionaries(st.sampled_from(["task_id", "x"]), st.text(max_size=70) | st.integers()).map(
        lambda d: json.dumps(d).encode()
    )
)
def test_whatever_bytes_come_a_name_is_one_that_may_be_used(body: bytes) -> None:
    name = readable_task_id(body)
    assert name is None or re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name)
