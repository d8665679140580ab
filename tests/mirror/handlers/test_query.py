"""`deliberation.get`: an answer to every question, and never the wrong one."""

import time
from typing import Any

import pytest
from nats.aio.msg import Msg

from parley.broker.core.events_and_effects import (
    CancelRequested,
    DeadlineReached,
    Event,
    Refused,
    Reported,
    Requested,
)
from parley.broker.core.headers_and_ids import own_name
from parley.broker.core.messages import (
    AgentOutcome,
    AgentRunning,
    DeliberationGet,
    DeliberationStatus,
    decode,
)
from parley.broker.core.phase_plan import Select, plan
from parley.broker.core.reply_subjects import SERVICE_INBOX
from parley.broker.core.states_and_moves import State
from parley.broker.core.tally import Decision
from parley.broker.core.timestamps import parse_timestamp
from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.forgery_counts import Forgery
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.object_store import get_object
from parley.broker.jetstream.tally_store import TallyStore
from parley.handlers import untaken_request_lookup
from parley.handlers.effects import EffectRunner
from parley.handlers.query import Query
from tests import present
from tests.harness import until
from tests.mirror.handlers import (
    Bench,
    Stumble,
    StumblingWire,
    UnreadableBucket,
    answer_of,
    effects_of,
    failure_of,
    request_of,
)

ONE, TWO, THREE = "agent-dev-001", "agent-dev-002", "agent-dev-003"


@pytest.fixture
def query(bench: Bench) -> Query:
    return Query(bench.wire, TallyStore(bench.wire, keep_seconds=60))


async def begin(bench: Bench, **fields: Any) -> float:
    """A deliberation of three agents; when it was accepted."""
    now = time.time()
    event = Requested(
        "t-1", seq=1, at=now, deadline=now + 60, role="DEV", num_agents=3, metadata={"a": "b"}, **fields
    )
    await effects_of(bench).apply("t-1", [(event, now)], request_of("t-1"))
    return now


async def report(bench: Bench, *outcomes: AgentOutcome, effects: EffectRunner | None = None) -> None:
    events: list[tuple[Event, float]] = []
    for outcome in outcomes:
        seq = (await bench.wire.publish(topology.AGENT_COMPLETED, outcome.encode())).seq
        events.append((Reported(outcome.agent_id, 1, seq, getattr(outcome, "error_type", None)), time.time()))
    await (effects or effects_of(bench)).apply("t-1", events)


async def ask(query: Query, task_id: str = "t-1") -> DeliberationStatus:
    answer = await query(DeliberationGet(task_id=task_id).encode())
    assert decode(DeliberationStatus, answer.encode()) == answer
    return answer


async def test_a_deliberation_that_does_not_exist_is_unknown_not_pending(query: Query) -> None:
    answer = await ask(query, "nobody")
    assert (answer.task_id, answer.status) == ("nobody", "UNKNOWN")
    assert answer.error_message == "never stored, or forgotten"
    assert answer.ending_seq is None


@pytest.mark.parametrize("payload", [{}, {"task_id": "t-1"}], ids=["d-n", "own id"])
async def test_a_request_is_pending_from_its_puback_on(
    bench: Bench, query: Query, payload: dict[str, str]
) -> None:
    """Intake is away."""
    seq = await bench.publish(topology.REQUESTED, {**payload, "task_description": "x"})
    for task_id in {own_name(seq), payload.get("task_id", own_name(seq))}:
        answer = await ask(query, task_id)
        assert (answer.task_id, answer.status, answer.error_message) == (task_id, "PENDING", "")


async def test_one_is_known_until_it_is_forgotten_and_no_longer(bench: Bench, query: Query) -> None:
    seq = await bench.publish(topology.REQUESTED, {"task_description": "x", "task_id": "t-1"})
    assert (await ask(query)).status == "PENDING"
    (delivery,) = await bench.taken(topology.INTAKE)
    assert (await ask(query)).status == (await ask(query, own_name(seq))).status == "PENDING"
    await delivery.ack()
    await bench.settled(topology.INTAKE)
    await bench.publish(topology.REQUESTED, {"task_description": "x", "task_id": "t-2"})
    assert [(await ask(query, name)).status for name in ("t-1", own_name(seq), "t-2")] == [
        "UNKNOWN", "UNKNOWN", "PENDING",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["d-2", "d-999", "d-0", f"d-{2**64}", "t-1", "t-3"])
async def test_what_no_request_is_named_is_unknown_also_while_others_wait(
    bench: Bench, query: Query, name: str
) -> None:
    await bench.publish(topology.REQUESTED, {"task_description": 'say "task_id": "t-1"', "task_id": "t-0"})
    await bench.publish(topology.CANCEL, {"task_id": "t-1"})
    await bench.publish(topology.REQUESTED, b'{"task_id": "t-3"')
    answer = await ask(query, name)
    assert (answer.status, answer.error_message) == ("UNKNOWN", "never stored, or forgotten")


async def test_a_long_backlog_is_read_once_and_a_part_at_a_time(
    bench: Bench, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        await bench.publish(topology.REQUESTED, {"task_id": f"t-{number}", "task_description": "x" * 100})
    monkeypatch.setattr(untaken_request_lookup, "READ_BYTES", 20 * 100)
    answer = await ask(query, "t-39")
    assert (answer.status, answer.error_message.split(":")[0]) == ("UNKNOWN", "cannot tell now")
    statuses = [(await ask(query, "t-39")).status for _ in range(4)]
    assert statuses[-1] == "PENDING"
    monkeypatch.setattr(untaken_request_lookup, "READ_BYTES", 0)  # nothing is read again
    assert [(await ask(query, f"t-{number}")).status for number in range(40)] == ["PENDING"] * 40


async def test_more_names_than_are_remembered_are_not_called_unknown_for_sure(
    bench: Bench, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(untaken_request_lookup, "MAX_NAMES", 3)
    for number in range(6):
        await bench.publish(topology.REQUESTED, {"task_id": f"t-{number}", "task_description": "x"})
    assert [(await ask(query, f"t-{number}")).status for number in range(3)] == ["PENDING"] * 3
    assert (await ask(query, "t-5")).error_message.startswith("cannot tell now")
    for delivery in await bench.taken(topology.INTAKE, 4):
        await delivery.ack()
    assert await until_pending(query, "t-5")


async def until_pending(query: Query, task_id: str) -> bool:
    async def pending() -> bool:
        return (await ask(query, task_id)).status == "PENDING"

    return await until(pending, f"{task_id} is pending")


@pytest.mark.parametrize("answers", [True, False])
async def test_one_is_in_progress_once_a_worker_says_that_an_agent_has_begun(
    bench: Bench, answers: bool
) -> None:
    """The worker's own side is in test_worker.py."""
    await begin(bench)
    asked: list[bytes] = []

    async def worker(question: Msg) -> None:
        asked.append(question.data)
        if answers:
            await question.respond(b"")

    await bench.nc.subscribe(topology.AGENT_RUNNING, cb=worker)
    await bench.nc.flush()
    service = await connect(bench.url, "tests-service", SERVICE_INBOX)
    answer = await ask(Query(JetStream(service), TallyStore(bench.wire, keep_seconds=60)))
    await close(service)
    assert answer.status == ("IN_PROGRESS" if answers else "PENDING")
    assert (answer.total_agents, answer.received_count) == (3, 0)
    assert [decode(AgentRunning, body).task_id for body in asked] == ["t-1"]


async def test_one_without_outcomes_is_pending(bench: Bench, query: Query) -> None:
    await begin(bench)
    answer = await ask(query)
    assert (answer.status, answer.total_agents, answer.received_count) == ("PENDING", 3, 0)
    assert answer.failed_count == 0
    assert (answer.metadata, answer.results, answer.error_message) == ({"a": "b"}, (), "")


async def test_one_that_runs_tells_how_many_answered_and_failed(bench: Bench, query: Query) -> None:
    await begin(bench)
    await report(bench, answer_of("t-1", ONE), failure_of("t-1", TWO))
    answer = await ask(query)
    assert (answer.status, answer.total_agents, answer.received_count) == ("IN_PROGRESS", 3, 1)
    assert answer.failed_count == 1


async def test_one_that_chooses_tells_its_phase_and_when_that_closes(bench: Bench, query: Query) -> None:
    await begin(bench, select=Select.JUDGE, plan=plan(Select.JUDGE, 3, 3))
    answer = await ask(query)
    assert answer.phase == "answer"
    assert parse_timestamp(answer.limit) == pytest.approx(
        present(await bench.tally_of("t-1")).limit, abs=0.01
    )
    await report(bench, *(answer_of("t-1", agent) for agent in (ONE, TWO, THREE)))
    answer = await ask(query)
    assert (answer.status, answer.phase, answer.total_agents, answer.received_count) == (
        "IN_PROGRESS",
        "judge",
        3,
        3,
    )


async def test_a_completed_one_is_answered_with_its_results(bench: Bench, query: Query) -> None:
    await begin(bench)
    await report(
        bench, answer_of("t-1", TWO, "two"), failure_of("t-1", ONE), answer_of("t-1", THREE, "three")
    )
    answer = await ask(query)
    assert (answer.status, answer.error_message) == ("COMPLETED", "")
    assert [result.proposal.content for result in answer.results] == ["two", "three"]
    assert (answer.total_agents, answer.received_count, answer.failed_count) == (3, 2, 1)
    (message,) = await bench.all_of(topology.DELIBERATIONS, topology.COMPLETED)
    (ending,) = await bench.endings_of("t-1")
    assert (answer.ending_seq, answer.duration_ms) == (message.seq, ending.duration_ms)
    assert answer.metadata == {"a": "b"}


@pytest.mark.parametrize(
    ("event", "seconds", "status", "error"),
    [
        (DeadlineReached(), 60.0, "TIMEOUT", "with 0 of 3 agents heard"),
        (CancelRequested("enough"), 1.0, "FAILED", "cancelled: enough"),
        (Refused("t-1", 1, 0.0, "gave up"), 1.0, "FAILED", "gave up"),
    ],
    ids=["timeout", "cancelled", "given up"],
)
async def test_one_that_ended_otherwise_says_why(
    bench: Bench, query: Query, event: Event, seconds: float, status: str, error: str
) -> None:
    began = await begin(bench)
    await effects_of(bench).apply("t-1", [(event, began + seconds)])
    answer = await ask(query)
    assert answer.status == status
    assert error in answer.error_message
    assert answer.duration_ms == round(seconds * 1_000)


async def test_a_rejected_one_is_failed_with_what_was_wrong(bench: Bench, query: Query) -> None:
    await effects_of(bench).apply("t-1", [(Refused("t-1", 1, time.time(), "role: bad"), time.time())])
    answer = await ask(query)
    assert (answer.status, answer.error_message, answer.total_agents) == ("FAILED", "role: bad", 0)


async def test_results_in_the_object_store_are_referred_to(bench: Bench, query: Query) -> None:
    await begin(bench)
    large = effects_of(bench, claim_check_bytes=1_000)
    await report(bench, *(answer_of("t-1", agent, "x" * 500) for agent in (ONE, TWO, THREE)), effects=large)
    answer = await ask(query)
    assert (answer.status, answer.results) == ("COMPLETED", ())
    assert answer.results_ref is not None
    assert b"x" * 500 in await get_object(bench.wire, answer.results_ref)


async def test_one_that_is_decided_and_not_published_is_not_over(bench: Bench, query: Query) -> None:
    await begin(bench)
    falling = effects_of(bench, StumblingWire(bench.nc, at=1, after=True))
    outcomes = [answer_of("t-1", agent) for agent in (ONE, TWO, THREE)]
    with pytest.raises(Stumble):
        await report(bench, *outcomes, effects=falling)
    answer = await ask(query)
    assert (answer.status, answer.received_count, answer.ending_seq) == ("IN_PROGRESS", 3, None)
    await effects_of(bench).apply("t-1", [(DeadlineReached(), time.time() + 3_600)])
    assert (await ask(query)).status == "COMPLETED"


async def test_an_ending_no_longer_in_the_stream_is_told_from_the_tally(bench: Bench, query: Query) -> None:
    began = await begin(bench)
    await effects_of(bench).apply("t-1", [(CancelRequested("enough"), began + 1)])
    await bench.js.purge_stream(topology.DELIBERATIONS)
    answer = await ask(query)
    assert (answer.status, answer.results) == ("FAILED", ())
    assert answer.error_message == "cancelled: enough (its ending is no longer in the stream)"
    assert (answer.total_agents, answer.received_count) == (3, 0)


async def test_a_completed_one_without_its_ending_says_why_answers_lack(bench: Bench, query: Query) -> None:
    await begin(bench)
    await report(bench, *(answer_of("t-1", agent) for agent in (ONE, TWO, THREE)))
    await bench.js.purge_stream(topology.DELIBERATIONS)
    answer = await ask(query)
    assert (answer.status, answer.results, answer.received_count) == ("COMPLETED", (), 3)
    assert answer.error_message == "completed (its ending is no longer in the stream)"


@pytest.mark.parametrize(
    "question", [b"", b"nope", b"{}", b"[]", b'{"task_id": 5}', b'{"task_id": ">"}', b"\xff"]
)
async def test_an_invalid_question_is_answered_with_what_is_wrong(query: Query, question: bytes) -> None:
    answer = await query(question)
    assert (answer.task_id, answer.status) == ("", "UNKNOWN")
    assert answer.error_message.startswith(("payload: ", "task_id: "))


async def test_while_nats_is_away_the_answer_says_so_instead_of_unknown(bench: Bench) -> None:
    answer = await ask(Query(bench.wire, TallyStore(UnreadableBucket(bench.nc), keep_seconds=60)))
    assert (answer.task_id, answer.status) == ("t-1", "UNKNOWN")
    assert answer.error_message.startswith("cannot tell now: ")
    assert "never stored" not in answer.error_message


async def test_a_tally_that_points_at_another_message_serves_none_of_it(bench: Bench, query: Query) -> None:
    """A forged PubAck once named the attacker's own request as the ending's place."""
    await begin(bench)
    forged = failure_of("t-1", ONE).encode()
    seq = await bench.publish(topology.deadline_subject("t-1"), forged)
    await effects_of(bench).apply("t-1", [(CancelRequested(None), time.time())])
    await report(bench)
    tallies = TallyStore(bench.wire, keep_seconds=60)
    tally = await tallies.read("t-1")
    assert tally is not None
    await tallies._write(tally.model_copy(update={"ending_seq": seq}), (await tallies._fetch("t-1")).revision)
    answer = await ask(query)
    assert answer.results == ()
    assert "no longer in the stream" in answer.error_message
    assert bench.nc.forgeries.counts[Forgery.ENDING] == 1


async def test_a_tally_that_was_made_again_does_not_contradict_the_stored_ending(
    bench: Bench, query: Query
) -> None:
    now = await begin(bench)
    await effects_of(bench).apply("t-1", [(DeadlineReached(), now + 61)])
    tally = await TallyStore(bench.wire, keep_seconds=60).read("t-1")
    assert tally is not None
    made_again = tally.model_copy(
        update={"state": State.FAILED, "verdict": Decision(error="its tally was lost", decided_at=now + 61)}
    )
    await bench.wire.publish(topology.tally_subject("t-1"), made_again.model_dump_json().encode())
    answer = await ask(query)
    assert (answer.status, answer.ending_seq) == ("TIMEOUT", tally.ending_seq)
    assert answer.error_message.startswith("deadline of 60 s passed")


# ── answers so far ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_while_it_runs_the_answers_that_are_asked_for_are_returned(bench: Bench, query: Query) -> None:
    await begin(bench)
    await report(bench, answer_of("t-1", ONE, "one"), answer_of("t-1", TWO, "two"))

    async def told(*names: str) -> list[str]:
        question = DeliberationGet(task_id="t-1", answers_of=names).encode()
        status = await query(question)
        assert status.status == "IN_PROGRESS"
        return [result.proposal.content for result in status.results]

    assert await told() == []
    assert await told(TWO, ONE, TWO) == ["two", "one"]
    assert await told(THREE, "agent-dev-001/2", "nobody", ONE) == ["one"]


async def test_of_answers_that_do_not_fit_together_each_can_be_asked_for_alone(
    bench: Bench, query: Query
) -> None:
    await begin(bench)
    await report(bench, answer_of("t-1", ONE, "1" * 600_000), answer_of("t-1", TWO, "2" * 600_000))
    for names, told in (((ONE, TWO), [ONE]), ((TWO,), [TWO])):
        status = await query(DeliberationGet(task_id="t-1", answers_of=names).encode())
        assert [result.agent_id for result in status.results] == told
        assert len(status.encode()) < bench.wire.max_payload


async def test_an_answer_that_is_gone_or_another_s_is_left_out(bench: Bench, query: Query) -> None:
    await begin(bench)
    await report(bench, answer_of("t-1", ONE), answer_of("t-2", TWO))
    await bench.wire.js.delete_msg(topology.AGENT_RESPONSES, 1)
    status = await query(DeliberationGet(task_id="t-1", answers_of=(ONE, TWO)).encode())
    assert (status.status, status.results) == ("IN_PROGRESS", ())


async def test_more_names_than_eight_are_refused(query: Query) -> None:
    body = DeliberationGet.model_construct(task_id="t-1", answers_of=("x",) * 9).model_dump_json().encode()
    status = await query(body)
    assert (status.status, "answers_of" in status.error_message) == ("UNKNOWN", True)
