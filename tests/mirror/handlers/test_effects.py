"""Effects carried out on a real NATS; and a process that falls over at each step in turn."""

import asyncio
import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
from nats.js.api import DiscardPolicy

from parley.broker.core.errors import StoreFull
from parley.broker.core.events_and_effects import (
    CancelRequested,
    DeadlineReached,
    EndingPublished,
    Event,
    Refused,
    Reported,
    Requested,
)
from parley.broker.core.messages import (
    AgentCancel,
    AgentOutcome,
    AgentRequested,
    DeliberationCompleted,
    ErrorType,
    ResultsRef,
    decode,
)
from parley.broker.core.states_and_moves import State
from parley.broker.core.timestamps import parse_timestamp
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.object_store import get_object
from parley.broker.jetstream.tally_store import FoldResult, TallyStore
from parley.handlers import effects as effects_module
from parley.handlers import ending_publisher
from parley.handlers.effects import EffectRunner, Past
from parley.handlers.ending_publisher import EndingPublisher
from parley.workers.request_reader import RequestReader
from tests import present
from tests.harness import fresh, until
from tests.mirror.handlers import (
    Bench,
    Notes,
    Stumble,
    StumblingWire,
    answer_of,
    effects_of,
    failure_of,
    request_of,
)

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
ONE, TWO, THREE = "agent-dev-001", "agent-dev-002", "agent-dev-003"
CLAIM_CHECK_BYTES = 16 * 1024


class Process:
    """One replica of the service: an effect runner and its tally store."""

    def __init__(self, wire: JetStream, notes: Notes | None = None) -> None:
        tallies = TallyStore(wire, keep_seconds=60)
        self.endings = EndingPublisher(wire, tallies, notes or Notes(), claim_check_bytes=CLAIM_CHECK_BYTES)
        self.effects = EffectRunner(wire, tallies, self.endings)

    async def requested(
        self, task_id: str, agents: int = 3, seconds: float = 60.0, reply_to: str | None = None
    ) -> FoldResult:
        request = request_of(
            task_id, num_agents=agents, constraints={"rubric": "be brief"}, seed=7, stop=["."], model="m",
            metadata={"a": "b"},
        )  # fmt: skip
        event = Requested(
            task_id, seq=1, at=self.began, deadline=self.began + seconds, role="DEV", num_agents=agents, metadata={"a": "b"},
            reply_to=reply_to, traceparent=TRACE,
        )  # fmt: skip
        return await self.effects.apply(task_id, [(event, self.began)], request)

    began = 1_800_000_000.0

    async def apply(self, task_id: str, *events: Event, now: float | None = None) -> FoldResult:
        return await self.effects.apply(
            task_id, [(event, self.began + 1 if now is None else now) for event in events]
        )


@pytest.fixture
def process(bench: Bench) -> Process:
    return Process(bench.wire, bench.notes)


async def stored(bench: Bench, *outcomes: AgentOutcome) -> Sequence[Reported]:
    """Outcomes in AGENT_RESPONSES, as events."""
    events = []
    for outcome in outcomes:
        error_type = getattr(outcome, "error_type", None)
        subject = topology.AGENT_COMPLETED if error_type is None else topology.AGENT_FAILED
        seq = (
            await bench.wire.publish(
                subject, outcome.encode(), msg_id=f"{outcome.task_id}:{outcome.agent_id}:1"
            )
        ).seq
        events.append(Reported(outcome.agent_id, 1, seq, error_type))
    return events


async def work_of(bench: Bench, task_id: str) -> list[AgentRequested]:
    queued = await bench.all_of(topology.AGENT_REQUESTS, topology.AGENT_REQUESTED)
    work = [decode(AgentRequested, message.data) for message in queued]
    return [one for one in work if one.task_id == task_id]


async def test_while_the_work_queue_is_full_one_agent_is_tried_and_not_256(
    bench: Bench, process: Process
) -> None:
    config = (await bench.js.stream_info(topology.AGENT_REQUESTS)).config
    await bench.js.update_stream(replace(config, max_bytes=100, discard=DiscardPolicy.NEW))
    with pytest.raises(StoreFull):
        await process.requested("t-1", agents=3)
    tries = await bench.nc.subscribe(topology.AGENT_REQUESTED)
    await bench.nc.flush()
    with pytest.raises(StoreFull):
        await process.requested("t-1", agents=3)
    await bench.nc.flush()
    assert tries.pending_msgs == 1
    await bench.js.update_stream(config)
    await process.requested("t-1", agents=3)
    assert {work.agent_id for work in await work_of(bench, "t-1")} == {ONE, TWO, THREE}


# ── a request that is too large to be copied ──────────────────────────────────────────────────────────────────────


async def test_twelve_of_the_largest_requests_fill_no_store(bench: Bench) -> None:
    """12 x 256 copies took 981 MiB, and 512 MiB is a common size of a store."""
    body = {
        "task_description": "x" * 256 * 1024,
        "num_agents": 256,
        "constraints": {"rubric": "y" * 60 * 1024},
    }
    effects = effects_of(bench)
    now = time.time()
    for number in range(12):
        name = f"t-{number}"
        request = request_of(name, **body)
        seq = await bench.publish(topology.REQUESTED, request.encode())
        event = Requested(name, seq, at=now, deadline=now + 60, role="DEV", num_agents=256)
        await effects.apply(name, [(event, now)], request)
    state = (await bench.js.stream_info(topology.AGENT_REQUESTS)).state
    assert state.messages == 12 * 256
    assert state.bytes < 3 * 1024 * 1024


@pytest.mark.parametrize("letters", [100, 600])
async def test_a_request_is_copied_while_its_copies_together_stay_small(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, letters: int
) -> None:
    monkeypatch.setattr(effects_module, "COPIED_BYTES", 3 * 800)
    request = request_of("t-1", task_description="x" * letters, metadata={"a": "b"})
    seq = await bench.publish(topology.REQUESTED, request.encode())
    now = time.time()
    event = Requested("t-1", seq, at=now, deadline=now + 60, role="DEV", num_agents=3, metadata={"a": "b"})
    await effects_of(bench).apply("t-1", [(event, now)], request)
    copied = len(request.encode()) * 3 <= 3 * 800
    assert copied == (letters == 100)
    reader = RequestReader(bench.wire)
    for one in await work_of(bench, "t-1"):
        assert one.request_seq == (None if copied else seq)
        assert one.task_description == (request.task_description if copied else None)
        whole = await reader.complete(one)
        assert (whole.task_description, whole.metadata) == (request.task_description, {"a": "b"})


# ── a request ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_request_arms_its_deadline_and_queues_its_agents_work(bench: Bench, process: Process) -> None:
    await process.requested("t-1")
    timer = present(await bench.wire.get_last(topology.DELIBERATIONS, "deliberation.timer.t-1"))
    assert json.loads(timer.data) == {"task_id": "t-1", "request_seq": 1}
    assert timer.headers["Nats-Schedule-Target"] == "deliberation.deadline.t-1"
    assert timer.headers["Nats-Schedule"] == "@at 2027-01-15T08:01:00.000Z"
    work = sorted(await work_of(bench, "t-1"), key=lambda one: one.agent_number)
    assert [(one.agent_id, one.agent_number) for one in work] == [(ONE, 1), (TWO, 2), (THREE, 3)]
    for one in work:
        assert (one.round, one.role, one.num_agents, one.task_description) == (1, "DEV", 3, "x")
        assert (one.constraints.rubric, one.seed, one.stop, one.model) == ("be brief", 7, (".",), "m")
        assert parse_timestamp(one.requested_at) == Process.began
        assert parse_timestamp(one.deadline) == Process.began + 60
        assert one.metadata == {"a": "b"}
    queued = await bench.all_of(topology.AGENT_REQUESTS, topology.AGENT_REQUESTED)
    assert {message.headers["Nats-Msg-Id"] for message in queued} == {
        f"t-1:{agent}:1:request:1" for agent in (ONE, TWO, THREE)
    }
    assert {message.headers["traceparent"] for message in queued} == {TRACE}


async def test_a_request_of_the_most_agents_queues_every_one_once(bench: Bench, process: Process) -> None:
    await process.requested("t-1", agents=256)
    await process.requested("t-1", agents=256)  # redelivered
    work = await work_of(bench, "t-1")
    assert len(work) == 256
    assert {one.agent_number for one in work} == set(range(1, 257))


async def test_what_changes_nothing_sends_nothing(bench: Bench, process: Process) -> None:
    await process.requested("t-1")
    before = [
        (await bench.js.stream_info(name)).state.last_seq
        for name in ("DELIBERATIONS", "AGENT_REQUESTS", "KV_deliberations")
    ]
    await process.apply("t-1", Reported("agent-dev-009", 1, 1))
    await process.apply("nobody", DeadlineReached())
    after = [
        (await bench.js.stream_info(name)).state.last_seq
        for name in ("DELIBERATIONS", "AGENT_REQUESTS", "KV_deliberations")
    ]
    assert before == after


# ── an ending ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_ending_is_stored_marked_and_cancels_its_timer(bench: Bench, process: Process) -> None:
    await process.requested("t-1")
    await process.apply(
        "t-1",
        *await stored(bench, answer_of("t-1", TWO, "two"), failure_of("t-1", ONE), answer_of("t-1", THREE)),
    )
    (message,) = await bench.all_of(topology.DELIBERATIONS, topology.COMPLETED)
    assert message.headers["Nats-Msg-Id"] == "t-1:ending"
    assert message.headers["traceparent"] == TRACE
    (ending,) = await bench.endings_of("t-1")
    assert isinstance(ending, DeliberationCompleted)
    assert ending.degraded
    assert [(result.agent_id, result.proposal.content) for result in ending.results] == [
        (TWO, "two"),
        (THREE, "42"),
    ]
    assert [(agent.agent_id, agent.error_type) for agent in ending.failed_agents] == [
        (ONE, ErrorType.SERVER_ERROR)
    ]
    assert (ending.duration_ms, ending.metadata) == (1_000, {"a": "b"})
    tally = present(await bench.tally_of("t-1"))
    assert (tally.state, tally.ending_seq) == (State.COMPLETED, message.seq)
    assert await bench.wire.get_last(topology.DELIBERATIONS, "deliberation.timer.t-1") is None
    assert bench.notes.lines == ["ended completed"]


@pytest.mark.parametrize(
    ("event", "now", "status"),
    [
        (CancelRequested("changed my mind"), 1.0, "cancelled"),
        (DeadlineReached(), 60.0, "timeout"),
        (Refused("t-1", 1, Process.began, "gave up"), 1.0, "failed"),
    ],
    ids=["cancel", "deadline", "given up"],
)
async def test_an_ending_that_leaves_agents_at_work_stops_them(
    bench: Bench, process: Process, event: Event, now: float, status: str
) -> None:
    stopped = await bench.nc.subscribe(topology.AGENT_CANCEL)
    await bench.nc.flush()
    await process.requested("t-1")
    await process.apply("t-1", event, now=Process.began + now)
    (ending,) = await bench.endings_of("t-1")
    assert ending.status == status
    heard = await stopped.next_msg(timeout=5)
    assert decode(AgentCancel, heard.data).task_id == "t-1"
    assert (heard.headers or {})["traceparent"] == TRACE


async def test_the_ending_is_also_sent_to_the_named_inbox(bench: Bench, process: Process) -> None:
    inbox = bench.nc.new_inbox()
    heard = await bench.nc.subscribe(inbox)
    await bench.nc.flush()
    await process.requested("t-1", reply_to=inbox)
    await process.apply("t-1", CancelRequested())
    msg = await heard.next_msg(timeout=5)
    (message,) = await bench.all_of(topology.DELIBERATIONS, topology.FAILED)
    assert msg.data == message.data
    headers = msg.headers or {}
    assert (headers["Parley-Subject"], headers["traceparent"]) == (topology.FAILED, TRACE)


async def test_too_large_results_go_to_the_object_store_by_reference(bench: Bench, process: Process) -> None:
    await process.requested("t-1", agents=2)
    answers = [answer_of("t-1", agent, agent * 800) for agent in (ONE, TWO)]
    await process.apply("t-1", *await stored(bench, *answers))
    (ending,) = await bench.endings_of("t-1")
    assert ending.results == ()
    assert isinstance(ending.results_ref, ResultsRef)
    assert (ending.successful_responses, ending.status) == (2, "completed")
    results = json.loads(await get_object(bench.wire, ending.results_ref))
    assert [result["proposal"]["content"] for result in results] == [ONE * 800, TWO * 800]


async def test_results_that_fit_travel_in_the_ending(bench: Bench, process: Process) -> None:
    await process.requested("t-1", agents=1)
    await process.apply("t-1", *await stored(bench, answer_of("t-1", ONE, "x" * (CLAIM_CHECK_BYTES - 1_000))))
    (ending,) = await bench.endings_of("t-1")
    assert ending.results_ref is None
    assert len(ending.results) == 1


async def test_an_outcome_lost_by_the_stream_is_named(bench: Bench, process: Process) -> None:
    await process.requested("t-1", agents=2)
    await process.apply("t-1", *await stored(bench, answer_of("t-1", ONE)))
    await bench.js.purge_stream(topology.AGENT_RESPONSES)
    await process.apply("t-1", *await stored(bench, answer_of("t-1", TWO)))
    (ending,) = await bench.endings_of("t-1")
    assert isinstance(ending, DeliberationCompleted)
    assert ending.degraded
    assert [result.agent_id for result in ending.results] == [TWO]
    assert [(agent.agent_id, agent.error_type) for agent in ending.failed_agents] == [
        (ONE, ErrorType.INTERNAL_ERROR)
    ]


@pytest.mark.parametrize("squatter", [b"junk", b"{}", b'{"task_id": "t-1"}'])
@pytest.mark.parametrize("subject", [topology.REQUESTED, topology.COMPLETED, topology.CANCEL])
async def test_a_message_with_the_endings_msg_id_does_not_suppress_the_ending(
    bench: Bench, process: Process, subject: str, squatter: bytes
) -> None:
    taken = (await bench.wire.publish(subject, squatter, msg_id="t-1:ending")).seq
    await process.requested("t-1", agents=1)
    events = await stored(bench, answer_of("t-1", ONE))
    await process.apply("t-1", *events)
    await Process(bench.wire).apply("t-1", *events)
    tally = present(await bench.tally_of("t-1"))
    assert tally.ending_seq not in (None, taken)
    message = present(await bench.wire.get(topology.DELIBERATIONS, tally.ending_seq or 0))
    assert decode(DeliberationCompleted, message.data).task_id == "t-1"
    stored_after = await bench.all_of(topology.DELIBERATIONS, topology.COMPLETED)
    assert [one.seq for one in stored_after if one.seq != taken] == [tally.ending_seq]
    assert bench.notes.lines == ["ended completed"]


@pytest.mark.parametrize("ago", [0.0, 20.0, 1_000.0], ids=["stored before", "stored after", "long ago"])
async def test_an_earlier_ending_of_the_name_does_not_stand_for_that_of_a_later_request(
    bench: Bench, ago: float
) -> None:
    """A tally was lost, and its name is asked for again while the server remembers the ending's Msg-Id. The earlier
    ending may be stored after the later request, where NATS was away."""
    first, later = Process(bench.wire, bench.notes), Process(bench.wire, bench.notes)
    first.began, later.began = time.time() - ago, time.time() - ago + 2
    await first.requested("t-1", agents=1)
    await first.apply("t-1", CancelRequested("enough"))
    earlier = present(await bench.tally_of("t-1")).ending_seq
    await bench.js.purge_stream(topology.TALLIES)
    await later.requested("t-1", agents=1)
    await later.apply("t-1", *await stored(bench, answer_of("t-1", ONE)))
    tally = present(await bench.tally_of("t-1"))
    message = present(await bench.wire.get(topology.DELIBERATIONS, tally.ending_seq or 0))
    assert message.subject == topology.COMPLETED
    unmarked = tally.model_copy(update={"ending_seq": None})
    tallies = TallyStore(bench.wire, keep_seconds=60)
    await EndingPublisher(bench.wire, tallies, Notes(), claim_check_bytes=CLAIM_CHECK_BYTES).publish(unmarked)
    endings = await bench.all_of(topology.DELIBERATIONS, "deliberation.")
    assert [one.seq for one in endings if one.subject in (topology.COMPLETED, topology.FAILED)] == [
        earlier,
        tally.ending_seq,
    ]
    assert bench.notes.lines == ["ended cancelled", "ended completed"]


async def test_a_request_that_is_recorded_meanwhile_has_not_ended_before(
    bench: Bench, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its other delivery is publishing the ending that the look-up found, and has not marked it."""

    async def finds(task_id: str, since: float) -> int:
        await process.requested(task_id)
        return 5

    monkeypatch.setattr(process.endings.lookup, "find", finds)
    assert await process.effects.past_of("t-1", 1, process.began, 2) == Past(is_recorded=True)


async def test_an_ending_that_was_decided_by_a_clock_that_is_behind_is_stored_once(bench: Bench) -> None:
    """0.1.0 decides by its own clock."""
    process = Process(bench.wire, bench.notes)
    await process.requested("t-1", agents=1)
    tally = present((await process.apply("t-1", CancelRequested("enough"))).tally)
    early = present(tally.verdict).model_copy(update={"decided_at": tally.accepted_at - 0.3})
    behind = tally.model_copy(update={"task_id": "t-2", "verdict": early})
    for _ in range(2):
        tallies = TallyStore(bench.wire, keep_seconds=60)
        await EndingPublisher(bench.wire, tallies, Notes(), claim_check_bytes=CLAIM_CHECK_BYTES).publish(
            behind
        )
    assert len(await bench.endings_of("t-2")) == 1


async def test_an_unreadable_outcome_does_not_prevent_its_ending(bench: Bench, process: Process) -> None:
    await process.requested("t-1", agents=2)
    seq = (await bench.wire.publish(topology.AGENT_COMPLETED, b'{"written": "by another version"}')).seq
    await process.apply("t-1", Reported(ONE, 1, seq), *await stored(bench, answer_of("t-1", TWO)))
    (ending,) = await bench.endings_of("t-1")
    assert [result.agent_id for result in ending.results] == [TWO]
    assert [(agent.agent_id, agent.error_type) for agent in ending.failed_agents] == [
        (ONE, ErrorType.INTERNAL_ERROR)
    ]


# ── falling over ──────────────────────────────────────────────────────────────────────────────────────────────────

# What a request of two agents sends: its tally, its timer, two agents' work. What its last outcome sends: its tally,
# the ending, the copy to the inbox, the mark.
STEPS = 4


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", range(1, STEPS + 1))
async def test_falling_over_at_any_step_of_a_request_skips_none(bench: Bench, step: int, after: bool) -> None:
    task_id = fresh()
    stumbling = StumblingWire(bench.nc, at=step, after=after)
    with pytest.raises(Stumble):
        await Process(stumbling).requested(task_id, agents=2)
    await Process(bench.wire, bench.notes).requested(task_id, agents=2)  # redelivered, to another process
    assert sorted(one.agent_id for one in await work_of(bench, task_id)) == [ONE, TWO]
    assert await bench.wire.get_last(topology.DELIBERATIONS, topology.timer_subject(task_id)) is not None
    assert present(await bench.tally_of(task_id)).state is State.PENDING
    assert await bench.endings_of(task_id) == []


@pytest.mark.parametrize("by", ["the redelivery", "the deadline", "the request delivered again"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", range(1, STEPS + 1))
async def test_an_error_at_any_step_still_ends_it_once(bench: Bench, step: int, after: bool, by: str) -> None:
    task_id = fresh()
    inbox = bench.nc.new_inbox()
    heard = await bench.nc.subscribe(inbox)
    await Process(bench.wire).requested(task_id, agents=2, reply_to=inbox)
    events = await stored(bench, answer_of(task_id, ONE), answer_of(task_id, TWO))
    with pytest.raises(Stumble):
        await Process(StumblingWire(bench.nc, at=step, after=after)).apply(task_id, *events)
    decided = present(await bench.tally_of(task_id))
    if decided.ended and not await bench.endings_of(task_id):
        # Nothing was published, so the deadline is still armed: it would find this out by itself.
        assert await bench.wire.get_last(topology.DELIBERATIONS, topology.timer_subject(task_id)) is not None
    another = Process(bench.wire, bench.notes)
    if by == "the redelivery" or not decided.ended:
        await another.apply(task_id, *events)
    elif by == "the deadline":
        await another.apply(task_id, DeadlineReached(), now=Process.began + 60)
    else:
        await another.requested(task_id, agents=2, reply_to=inbox)
    (ending,) = await bench.endings_of(task_id)
    assert isinstance(ending, DeliberationCompleted)
    assert not ending.degraded
    stored_endings = await bench.all_of(topology.DELIBERATIONS, topology.COMPLETED)
    assert present(await bench.tally_of(task_id)).ending_seq == stored_endings[-1].seq
    assert await bench.wire.get_last(topology.DELIBERATIONS, topology.timer_subject(task_id)) is None
    assert json.loads((await heard.next_msg(timeout=5)).data)["task_id"] == task_id
    assert bench.notes.lines.count("ended completed") <= 1


async def test_falling_over_again_and_again_still_ends_it_once(bench: Bench) -> None:
    await Process(bench.wire).requested("t-1", agents=2)
    events = await stored(bench, answer_of("t-1", ONE), answer_of("t-1", TWO))
    for step in (1, 2, 2, 1, 2):
        with pytest.raises(Stumble):
            await Process(StumblingWire(bench.nc, at=step, after=False)).apply("t-1", *events)
    for _ in range(3):
        await Process(bench.wire, bench.notes).apply("t-1", *events)
    assert len(await bench.endings_of("t-1")) == 1
    assert bench.notes.lines == ["ended completed"]


async def test_two_processes_that_publish_the_same_ending_store_it_once(bench: Bench) -> None:
    await Process(bench.wire).requested("t-1", agents=1)
    events = await stored(bench, answer_of("t-1", ONE))
    with pytest.raises(Stumble):
        await Process(StumblingWire(bench.nc, at=1, after=True)).apply("t-1", *events)
    await asyncio.gather(*(Process(bench.wire, bench.notes).apply("t-1", *events) for _ in range(5)))
    assert len(await bench.endings_of("t-1")) == 1
    assert bench.notes.lines == ["ended completed"]


async def test_an_ending_whose_msg_id_is_forgotten_is_found_and_not_stored_again(
    bench: Bench, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its Msg-Id is forgotten by then, and its mark was never set."""
    monkeypatch.setattr(ending_publisher, "MSG_ID_SECONDS", -math.inf)
    monkeypatch.setattr(Process, "began", time.time() - 5)  # it is looked for from the request's arrival on
    await bench.wire.publish(topology.COMPLETED, b"junk")
    await process.requested("t-1", agents=1)
    events = await stored(bench, answer_of("t-1", ONE))
    with pytest.raises(Stumble):
        # Its tally, its ending, and then its mark: that never comes.
        await Process(StumblingWire(bench.nc, at=3, after=False)).apply("t-1", *events)
    _, ending = await bench.all_of(topology.DELIBERATIONS, topology.COMPLETED)
    shorter = (await bench.js.stream_info(topology.DELIBERATIONS)).config.evolve(duplicate_window=0.1)
    await bench.js.update_stream(shorter)

    async def forgotten() -> bool:
        return not (await bench.wire.publish(topology.deadline_subject("p"), b"{}", msg_id="p")).duplicate

    await forgotten()
    await until(forgotten, "a Msg-Id of that time is forgotten")
    await process.apply("t-1", DeadlineReached(), now=Process.began + 60)
    assert present(await bench.tally_of("t-1")).ending_seq == ending.seq
    assert len(await bench.all_of(topology.DELIBERATIONS, topology.COMPLETED)) == 2  # with the junk


async def test_two_cancels_are_heard_of_once(bench: Bench, process: Process) -> None:
    inbox = bench.nc.new_inbox()
    heard = await bench.nc.subscribe(inbox)
    await bench.nc.flush()
    await process.requested("t-1", reply_to=inbox)
    another = Process(bench.wire)
    await asyncio.gather(
        process.apply("t-1", CancelRequested(None, 2)), another.apply("t-1", CancelRequested(None, 3))
    )
    await bench.nc.publish(inbox, b"and nothing else")
    first, second = await heard.next_msg(timeout=5), await heard.next_msg(timeout=5)
    assert (json.loads(first.data)["status"], second.data) == ("cancelled", b"and nothing else")


async def test_the_inbox_receives_an_ending_only_once(bench: Bench, process: Process) -> None:
    inbox = bench.nc.new_inbox()
    heard = await bench.nc.subscribe(inbox)
    await bench.nc.flush()
    await process.requested("t-1", reply_to=inbox)
    outcomes = await stored(
        bench, *(failure_of("t-1", agent, ErrorType.CANCELLED) for agent in (ONE, TWO, THREE))
    )
    await asyncio.gather(
        process.apply("t-1", CancelRequested()), *(process.apply("t-1", outcome) for outcome in outcomes)
    )
    await bench.nc.publish(inbox, b"and nothing else")
    first, second = await heard.next_msg(timeout=5), await heard.next_msg(timeout=5)
    assert json.loads(first.data)["status"] == "cancelled"
    assert second.data == b"and nothing else"
    assert present(await bench.tally_of("t-1")).ending_seq is not None


async def test_the_real_deadline_finds_an_ending_that_was_never_published(bench: Bench) -> None:
    now = time.time()
    request = request_of("t-1", num_agents=1)
    event = Requested("t-1", seq=1, at=now, deadline=now + 0.4, role="DEV", num_agents=1)
    process = Process(bench.wire, bench.notes)
    await process.effects.apply("t-1", [(event, now)], request)
    events = await stored(bench, answer_of("t-1", ONE))
    with pytest.raises(Stumble):
        await Process(StumblingWire(bench.nc, at=1, after=True)).apply("t-1", *events, now=now + 0.1)
    (fired,) = await bench.taken(topology.EXPIRY)
    await process.apply("t-1", DeadlineReached(), now=fired.at)

    async def published() -> bool:
        return [ending.status for ending in await bench.endings_of("t-1")] == ["completed"]

    await until(published, "the ending is in the stream")


async def test_a_mark_alone_publishes_nothing(bench: Bench, process: Process) -> None:
    await process.requested("t-1")
    await process.apply("t-1", EndingPublished(5))
    assert await bench.endings_of("t-1") == []
