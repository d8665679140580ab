"""An ending is always published, however large it is, however small a message may be, and whatever the object store does."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from parley.broker.core.errors import BrokerUnavailable
from parley.broker.core.events_and_effects import CancelRequested, DeadlineReached, Event, Reported, Requested
from parley.broker.core.messages import AgentOutcome, DeliberationCompleted, DeliberationFailed, ErrorType
from parley.broker.core.phase_plan import PhaseKind, Select, plan
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream, StoredMessage
from parley.broker.jetstream.object_store import get_object
from parley.broker.jetstream.tally_store import TallyStore
from parley.handlers import ending_publisher
from parley.handlers.effects import EffectRunner
from parley.handlers.ending_publisher import EndingPublisher
from parley.handlers.intake import Bounds, Intake
from parley.handlers.query import Query
from tests import present
from tests.harness import until
from tests.mirror.broker import small_server
from tests.mirror.handlers import Bench, answer_of, failure_of, request_of, runner_of

KIB = 1024
USUAL = 1024 * KIB
Spoil = Callable[[JetStream], Awaitable[None]]


@asynccontextmanager
async def bench_of(folder: Path, max_payload: int) -> AsyncIterator[Bench]:
    async with small_server(folder, max_payload=max_payload) as nc:
        yield Bench("", nc, JetStream(nc))


def process(bench: Bench, wire: JetStream | None = None) -> EffectRunner:
    """A replica of the service, as parley.app wires it."""
    used = wire or bench.wire
    tallies = TallyStore(used, keep_seconds=60)
    claim_check = min(512 * KIB, used.max_payload // 2)
    publisher = EndingPublisher(used, tallies, bench.notes, claim_check_bytes=claim_check)
    return EffectRunner(used, tallies, publisher)


async def reported(bench: Bench, outcomes: list[AgentOutcome]) -> list[Event]:
    events: list[Event] = []
    for outcome in outcomes:
        error_type = getattr(outcome, "error_type", None)
        subject = topology.AGENT_COMPLETED if error_type is None else topology.AGENT_FAILED
        seq = (await bench.wire.publish(subject, outcome.encode())).seq
        events.append(Reported(outcome.agent_id, 1, seq, error_type))
    return events


async def end(bench: Bench, outcomes: list[AgentOutcome], reply_to: str | None = None) -> None:
    """Record a deliberation of these agents, count their outcomes, and so end it."""
    count, now = len(outcomes), bench.wire.clock.now()
    event = Requested(
        "t-1", 1, now, deadline=now + 60, role="DEV", num_agents=count, metadata={"a": "b"}, reply_to=reply_to
    )
    one = process(bench)
    await one.apply("t-1", [(event, now)], request_of("t-1", num_agents=count, metadata={"a": "b"}))
    for each in await reported(bench, outcomes):
        await one.apply("t-1", [(each, now)])


def agent(number: int) -> str:
    return f"agent-dev-{number:03d}"


def answers(count: int, size: int) -> list[AgentOutcome]:
    return [answer_of("t-1", agent(number), "x" * size) for number in range(1, count + 1)]


def failures(count: int, letter: str) -> list[AgentOutcome]:
    kind = ErrorType.BAD_REQUEST
    made = (failure_of("t-1", agent(number), kind) for number in range(1, count + 1))
    return [failure.model_copy(update={"error": letter * 500}) for failure in made]


async def nothing(_: JetStream) -> None:
    pass


async def full(wire: JetStream) -> None:
    config = (await wire.js.stream_info(topology.RESULTS)).config
    await wire.js.update_stream(config.evolve(max_bytes=100 * KIB))


async def deleted(wire: JetStream) -> None:
    await wire.js.delete_stream(topology.RESULTS)


class Case(NamedTuple):
    max_payload: int
    outcomes: list[AgentOutcome]
    spoil: Spoil = nothing
    # What the ending leaves out, and whether it refers to its results.
    left_out: tuple[str, ...] = ()
    by_reference: bool = False


CASES = {
    "64 KiB, five answers of 20 KB": Case(64 * KIB, answers(5, 20_000), by_reference=True),
    "64 KiB, three answers of 40 KB": Case(64 * KIB, answers(3, 40_000), by_reference=True),
    "128 KiB, 256 long errors": Case(128 * KIB, failures(256, "e"), left_out=("failed_agents.error",)),
    "128 KiB, 256 errors of control letters": Case(
        128 * KIB, failures(256, "\x01"), left_out=("failed_agents.error", "failed_agents")
    ),
    "4 KiB, three answers of 3 KB": Case(4 * KIB, answers(3, 3_000), by_reference=True),
    "4 KiB, ten failures": Case(4 * KIB, failures(10, "e"), left_out=("failed_agents.error",)),
    "4 KiB, answers and no object store": Case(4 * KIB, answers(3, 3_000), deleted, ("results",)),
    "1 MiB, three answers of 300 KB": Case(USUAL, answers(3, 300_000), by_reference=True),
    "1 MiB, a full object store": Case(USUAL, answers(6, 300_000), full, ("results",)),
    "1 MiB, no object store": Case(USUAL, answers(6, 300_000), deleted, ("results",)),
    "1 MiB, no object store, yet they fit": Case(USUAL, answers(3, 300_000), deleted),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_an_ending_fits_whatever_it_holds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending_publisher, "REFUSED_SECONDS", 0.5)
    async with bench_of(tmp_path, case.max_payload) as bench:
        await case.spoil(bench.wire)
        inbox = bench.nc.new_inbox()
        heard = await bench.nc.subscribe(inbox)
        with caplog.at_level(logging.WARNING):
            await end(bench, case.outcomes, inbox)
        (ending,) = await bench.endings_of("t-1")
        assert ending.left_out == case.left_out
        assert (ending.results_ref is not None) == case.by_reference
        succeeded = sum(outcome.status == "completed" for outcome in case.outcomes)
        assert ending.successful_responses == succeeded
        assert ending.failed_responses == len(case.outcomes) - succeeded
        if isinstance(ending, DeliberationCompleted):
            assert not ending.degraded
        if ending.results_ref is not None:
            results = json.loads(await get_object(bench.wire, ending.results_ref))
            assert [result["agent_id"] for result in results] == [
                outcome.agent_id for outcome in case.outcomes
            ]
        elif "results" not in case.left_out:
            assert len(ending.results) == succeeded
        copy = await heard.next_msg(timeout=5)
        assert json.loads(copy.data)["task_id"] == "t-1"
        tallies = TallyStore(bench.wire, keep_seconds=60)
        status = await Query(bench.wire, tallies)(b'{"task_id": "t-1"}')
        assert len(status.encode()) < case.max_payload
        assert status.results_ref == ending.results_ref
        assert ("results" in status.left_out) == ("results" in ending.left_out)
        # One line for the ending, two for an object store that takes nothing: that it is full, and for which ending.
        lines = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert len(lines) <= (case.left_out != ()) + 2 * (case.spoil is not nothing)


# ── composing ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Reads(JetStream):
    """Counts what is read of AGENT_RESPONSES. The first `failing` reads get no answer."""

    count, failing = 0, 0

    async def get(self, stream: str, seq: int) -> StoredMessage | None:
        if stream == topology.AGENT_RESPONSES:
            self.count += 1
            if self.count <= self.failing:
                raise BrokerUnavailable("nats://x", "timeout")
        return await super().get(stream, seq)


async def decided_elsewhere(bench: Bench, outcomes: list[AgentOutcome]) -> float:
    """A deliberation whose outcomes another process has counted, and whose deadline ends it. Returns the deadline."""
    count, now = len(outcomes) + 1, bench.wire.clock.now()
    event = Requested("t-1", 1, now, deadline=now + 60, role="DEV", num_agents=count)
    other = process(bench)
    await other.apply("t-1", [(event, now)], request_of("t-1", num_agents=count))
    await other.apply("t-1", [(each, now) for each in await reported(bench, outcomes)])
    return now + 60


async def test_callers_at_the_same_time_share_one_publication(bench: Bench) -> None:
    deadline = await decided_elsewhere(bench, answers(5, 300_000))
    wire = Reads(bench.nc)
    one = process(bench, wire)
    await asyncio.gather(*(one.apply("t-1", [(DeadlineReached(), deadline)]) for _ in range(5)))
    assert wire.count == 5
    assert len(await bench.endings_of("t-1")) == 1
    assert bench.notes.lines == ["ended completed"]


async def test_a_revised_answer_that_is_gone_from_the_stream_is_named(bench: Bench) -> None:
    """Its words cannot be had any more; its ending says so, and has the others."""
    now = bench.wire.clock.now()
    steps = plan(Select.NONE, 2, 3, rounds=2)
    event = Requested("t-1", 1, now, deadline=now + 60, role="DEV", num_agents=2, rounds=2, plan=steps)
    one = process(bench)
    await one.apply("t-1", [(event, now)], request_of("t-1", num_agents=2, rounds=2))
    for number, kind in ((1, PhaseKind.ANSWER), (2, PhaseKind.REVISE)):
        for name in (agent(1), agent(2)):
            written = answer_of("t-1", name, f"{name} {number}", round=number, phase=kind)
            seq = (await bench.wire.publish(topology.AGENT_COMPLETED, written.encode())).seq
            if (number, name) == (2, agent(1)):
                await bench.wire.js.delete_msg(topology.AGENT_RESPONSES, seq)
            said = f"{number}{name[-1]}" * 8
            await one.apply("t-1", [(Reported(name, number, seq, phase=kind, said=said), now + number)])
    (ending,) = await bench.endings_of("t-1")
    assert isinstance(ending, DeliberationCompleted)
    assert [result.agent_id for result in ending.results] == [agent(1), agent(2), f"{agent(2)}/2"]
    gaps = [(gap.phase, gap.what, gap.who, gap.why) for gap in ending.degraded_reasons]
    assert gaps == [("revise", "failed", agent(1), "no longer stored")]


async def test_a_read_that_fails_is_made_again_and_not_the_ending(bench: Bench) -> None:
    deadline = await decided_elsewhere(bench, answers(20, 300_000))
    wire = Reads(bench.nc)
    wire.failing = 3
    await process(bench, wire).apply("t-1", [(DeadlineReached(), deadline)])
    assert wire.count == 23
    (ending,) = await bench.endings_of("t-1")
    assert ending.successful_responses == 20


async def test_a_publication_that_failed_is_made_by_the_next_caller(bench: Bench) -> None:
    class Falls(Reads):
        async def get(self, stream: str, seq: int) -> StoredMessage | None:
            if stream == topology.AGENT_RESPONSES and self.failing:
                await asyncio.sleep(0)
                self.failing = 0
                raise RuntimeError("fell")
            return await super().get(stream, seq)

    deadline = await decided_elsewhere(bench, answers(1, 100))
    wire = Falls(bench.nc)
    wire.failing = 1
    one = process(bench, wire)
    tries = (one.apply("t-1", [(DeadlineReached(), deadline)]) for _ in range(3))
    done = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(each, RuntimeError) for each in done) == 1
    assert len(await bench.endings_of("t-1")) == 1


async def test_results_of_an_ending_that_cannot_go_on_leave_no_chunks(bench: Bench) -> None:
    class Breaks(Reads):
        async def get(self, stream: str, seq: int) -> StoredMessage | None:
            if stream == topology.AGENT_RESPONSES and seq > 12:
                raise RuntimeError("fell")
            return await super().get(stream, seq)

    deadline = await decided_elsewhere(bench, answers(20, 300_000))
    with pytest.raises(RuntimeError):
        await process(bench, Breaks(bench.nc)).apply("t-1", [(DeadlineReached(), deadline)])

    async def empty() -> bool:
        return not (await bench.js.stream_info(topology.RESULTS)).state.messages

    await until(empty, "the chunks are removed")
    await process(bench).apply("t-1", [(DeadlineReached(), deadline)])
    (ending,) = await bench.endings_of("t-1")
    assert present(ending.results_ref).size > 20 * 300_000


# ── a request whose account would not fit ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("max_payload", "agents", "metadata", "status"),
    [
        (4 * KIB, 10, {}, "completed"),
        (4 * KIB, 100, {}, "rejected"),
        (4 * KIB, 1, {"a": "x" * 2_500}, "rejected"),
        (64 * KIB, 256, {"a": "x" * 15_000}, "completed"),
    ],
)
async def test_a_request_is_rejected_or_ends_in_full(
    tmp_path: Path, max_payload: int, agents: int, metadata: dict[str, str], status: str
) -> None:
    """Never a loop of refused writes: what was recorded can count every agent, and end."""
    async with bench_of(tmp_path, max_payload) as bench:
        intake = Intake(process(bench), bench.notes, Bounds(max_agents=256, timeout_seconds=60))
        request = request_of("t-1", num_agents=agents, metadata=metadata)
        # With room for its work beside the question's own bytes.
        await bench.publish(topology.REQUESTED, request.model_dump_json(exclude_none=True).encode())
        await runner_of(bench, topology.INTAKE, intake.handle)(await bench.taken(topology.INTAKE))
        if status != "rejected":
            one, now = process(bench), bench.wire.clock.now()
            for each in await reported(bench, answers(agents, 100)):
                await one.apply("t-1", [(each, now)])
            assert (await bench.js.stream_info(topology.AGENT_REQUESTS)).state.messages == agents
        (ending,) = await bench.endings_of("t-1")
        assert ending.status == status
        if isinstance(ending, DeliberationFailed):
            assert "max_payload 4096" in ending.error


async def test_a_cancel_with_a_long_reason_fits_into_a_small_tally(tmp_path: Path) -> None:
    async with bench_of(tmp_path, 4 * KIB) as bench:
        now = bench.wire.clock.now()
        one = process(bench)
        event = Requested("t-1", 1, now, deadline=now + 60, role="DEV", num_agents=10)
        await one.apply("t-1", [(event, now)], request_of("t-1", num_agents=10))
        await one.apply("t-1", [(CancelRequested("\x01" * 1_000), now)])
        (ending,) = await bench.endings_of("t-1")
        assert ending.status == "cancelled"
        assert present(await bench.tally_of("t-1")).ending_seq is not None


async def test_a_timer_that_a_stranger_has_replaced_keeps_no_ending_back(bench: Bench) -> None:
    """The acknowledgement of a request that names `deliberation.timer.t-1` as its reply subject is stored there."""
    now = bench.wire.clock.now()
    one = process(bench)
    event = Requested("t-1", 1, now, deadline=now + 60, role="DEV", num_agents=2)
    await one.apply("t-1", [(event, now)], request_of("t-1", num_agents=2))
    await bench.nc.publish(topology.REQUESTED, b"{}", reply=topology.timer_subject("t-1"))

    async def replaced() -> bool:
        stored = await bench.all_of(topology.DELIBERATIONS, topology.timer_subject("t-1"))
        return bool(stored) and "Nats-Schedule" not in stored[-1].headers

    await until(replaced, "the timer is replaced")
    await one.apply("t-1", [(CancelRequested("enough"), now)])
    (ending,) = await bench.endings_of("t-1")
    assert ending.status == "cancelled"
    assert present(await bench.tally_of("t-1")).ending_seq is not None
