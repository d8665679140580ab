"""Outcomes folded into tallies: together when they come together, never lost when a fold fails."""

import asyncio
import time
from typing import Any

import pytest

from parley.broker.core.events_and_effects import Requested
from parley.broker.core.messages import AgentCompleted, AgentOutcome, DeliberationCompleted, ErrorType
from parley.broker.core.states_and_moves import State
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream, PubAck
from parley.broker.jetstream.tally_store import TallyStore
from parley.broker.jetstream.topology import AGGREGATE
from parley.handlers.aggregate import Aggregate, read
from parley.handlers.effects import EffectRunner
from parley.handlers.settle import Runner
from tests import present
from tests.harness import until
from tests.mirror.handlers import Bench, StumblingWire, answer_of, effects_of, failure_of, runner_of

# The server's clock stamps outcomes: a deadline in this century is not in their way.
FAR_AWAY = 4_000_000_000.0
ONE, TWO, THREE = "agent-dev-001", "agent-dev-002", "agent-dev-003"


def aggregate_of(bench: Bench, wire: JetStream | None = None, effects: EffectRunner | None = None) -> Runner:
    used = wire or bench.wire
    handler = Aggregate(effects or effects_of(bench, used), bench.notes)
    return runner_of(bench, AGGREGATE, handler.handle)


@pytest.fixture
def effects(bench: Bench) -> EffectRunner:
    return effects_of(bench)


@pytest.fixture
def aggregate(bench: Bench, effects: EffectRunner) -> Runner:
    return aggregate_of(bench, effects=effects)


async def record(bench: Bench, task_id: str = "t-1", agents: int = 3, deadline: float = FAR_AWAY) -> None:
    request = Requested(task_id, seq=1, at=0.0, deadline=deadline, role="DEV", num_agents=agents)
    await TallyStore(bench.wire, keep_seconds=60).apply(task_id, [(request, 0.0)])


async def report(bench: Bench, *outcomes: AgentOutcome) -> list[int]:
    seqs = []
    for outcome in outcomes:
        subject = topology.AGENT_COMPLETED if isinstance(outcome, AgentCompleted) else topology.AGENT_FAILED
        seqs.append(await bench.publish(subject, outcome.encode()))
    return seqs


async def revisions(bench: Bench) -> int:
    """How often any tally was written."""
    return (await bench.js.stream_info(topology.TALLIES)).state.last_seq


# ── folding ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_outcome_is_counted_and_acknowledged(bench: Bench, aggregate: Runner) -> None:
    await record(bench)
    seqs = await report(bench, failure_of("t-1", TWO), answer_of("t-1", ONE))
    await aggregate(await bench.taken(AGGREGATE, 2))
    tally = present(await bench.tally_of("t-1"))
    assert tally.state is State.IN_PROGRESS
    assert {agent: (one.succeeded, one.seq) for agent, one in tally.phase.outcomes.items()} == {
        TWO: (False, seqs[0]),
        ONE: (True, seqs[1]),
    }
    await bench.settled(AGGREGATE)
    assert sorted(bench.notes.lines) == [f"reported {ONE}", f"reported {TWO}"]


async def test_the_last_outcome_brings_the_ending(bench: Bench, aggregate: Runner) -> None:
    await record(bench, agents=2)
    for agent in (ONE, TWO):
        await report(bench, answer_of("t-1", agent, f"from {agent}"))
        await aggregate(await bench.taken(AGGREGATE))
    (ending,) = await bench.endings_of("t-1")
    assert isinstance(ending, DeliberationCompleted)
    assert [result.proposal.content for result in ending.results] == [f"from {ONE}", f"from {TWO}"]
    await bench.settled(AGGREGATE)
    assert bench.notes.lines[-2:] == ["ended completed", f"reported {TWO}"]


async def test_outcomes_that_come_together_are_one_write(bench: Bench, aggregate: Runner) -> None:
    agents = [f"agent-dev-{number:03d}" for number in range(1, 21)]
    await record(bench, agents=21)
    before = await revisions(bench)
    await report(bench, *(answer_of("t-1", agent) for agent in agents))
    await aggregate(await bench.taken(AGGREGATE, 20))
    assert await revisions(bench) == before + 1
    assert present(await bench.tally_of("t-1")).phase.successes == 20


async def known(effects: EffectRunner, task_id: str = "t-1", agents: int = 3, **request: float) -> None:
    """Recorded by the process that folds: it knows what it takes to end it."""
    event = Requested(
        task_id, seq=1, at=0.0, deadline=request.get("deadline", FAR_AWAY), role="DEV", num_agents=agents
    )
    await effects._tallies.apply(task_id, [(event, 0.0)], new=True)


async def test_an_outcome_that_ends_nothing_waits_for_one_that_does(
    bench: Bench, effects: EffectRunner, aggregate: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parley.handlers.aggregate.LINGER_SECONDS", 60.0)
    await known(effects)
    before = await revisions(bench)
    folding = []
    for agent in (ONE, TWO, THREE):
        await report(bench, answer_of("t-1", agent))
        folding.append(asyncio.create_task(aggregate(await bench.taken(AGGREGATE))))
    await asyncio.gather(*folding)
    assert len(await bench.endings_of("t-1")) == 1
    assert await revisions(bench) == before + 2, "one write for all three, one for the mark"


async def test_it_does_not_wait_for_long(bench: Bench, effects: EffectRunner, aggregate: Runner) -> None:
    await known(effects)
    await report(bench, answer_of("t-1", ONE))
    await aggregate(await bench.taken(AGGREGATE))
    assert present(await bench.tally_of("t-1")).phase.successes == 1


@pytest.mark.parametrize("nearly_over", [True, False])
async def test_with_the_deadline_near_or_the_tally_unknown_nothing_waits(
    bench: Bench, effects: EffectRunner, aggregate: Runner, monkeypatch: pytest.MonkeyPatch, nearly_over: bool
) -> None:
    monkeypatch.setattr("parley.handlers.aggregate.LINGER_SECONDS", 60.0)
    if nearly_over:
        monkeypatch.setattr("parley.handlers.effects.NEAR_SECONDS", FAR_AWAY)
        await known(effects)
    else:
        await record(bench)
    await report(bench, answer_of("t-1", ONE))
    async with asyncio.timeout(10):
        await aggregate(await bench.taken(AGGREGATE))


class SlowBucket(JetStream):
    """The real wire, on which a write of the tally of `t-1` takes as long as the test likes."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench.nc)
        self.writing = asyncio.Event()
        self.may_write = asyncio.Event()

    async def publish(self, subject: str, *args: Any, **kwargs: Any) -> PubAck:
        if subject == topology.tally_subject("t-1"):
            self.writing.set()
            await self.may_write.wait()
        return await super().publish(subject, *args, **kwargs)


async def test_outcomes_that_come_during_a_write_wait_and_are_the_next_one(bench: Bench) -> None:
    slow = SlowBucket(bench)
    aggregate = aggregate_of(bench, slow)
    await record(bench, agents=12)
    before = await revisions(bench)
    agents = [f"agent-dev-{number:03d}" for number in range(1, 11)]
    await report(bench, *(answer_of("t-1", agent) for agent in agents))
    deliveries = await bench.taken(AGGREGATE, 10)
    first = asyncio.create_task(aggregate(deliveries[:1]))
    await slow.writing.wait()
    others = [asyncio.create_task(aggregate([delivery])) for delivery in deliveries[1:]]
    await asyncio.sleep(0)
    assert not any(task.done() for task in others)
    slow.may_write.set()
    await asyncio.gather(first, *others)
    assert await revisions(bench) == before + 2
    assert present(await bench.tally_of("t-1")).phase.successes == 10
    await bench.settled(AGGREGATE)


async def test_one_deliberation_does_not_wait_for_another(bench: Bench) -> None:
    slow = SlowBucket(bench)
    aggregate = aggregate_of(bench, slow)
    await record(bench, "t-1", agents=2)
    await record(bench, "t-2", agents=1)
    await report(bench, answer_of("t-1", ONE))
    waiting = asyncio.create_task(aggregate(await bench.taken(AGGREGATE)))
    await slow.writing.wait()
    await report(bench, answer_of("t-2", ONE))
    await aggregate(await bench.taken(AGGREGATE))
    assert [ending.status for ending in await bench.endings_of("t-2")] == ["completed"]
    assert not waiting.done()
    slow.may_write.set()
    await waiting
    await bench.settled(AGGREGATE)


async def test_outcomes_of_many_deliberations_find_each_its_own(bench: Bench, aggregate: Runner) -> None:
    names = [f"t-{number}" for number in range(8)]
    for name in names:
        await record(bench, name, agents=2)
    await report(
        bench, *(answer_of(name, agent, f"{name} {agent}") for agent in (TWO, ONE) for name in names)
    )
    await aggregate(await bench.taken(AGGREGATE, 16))
    for name in names:
        (ending,) = await bench.endings_of(name)
        assert [result.proposal.content for result in ending.results] == [f"{name} {ONE}", f"{name} {TWO}"]
    await bench.settled(AGGREGATE)


# ── what changes nothing ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "outcome",
    [
        answer_of("nobody", ONE),
        answer_of("t-1", "agent-dev-009"),
        answer_of("t-1", ONE, round=2),
        failure_of("t-1", ONE, ErrorType.DEADLINE_EXCEEDED),
    ],
    ids=["nobody's", "a stranger's", "of another round", "out of time"],
)
async def test_an_outcome_that_counts_for_nothing_is_acknowledged_and_observed(
    bench: Bench, aggregate: Runner, outcome: AgentOutcome
) -> None:
    await record(bench)
    before = await revisions(bench)
    await report(bench, outcome)
    await aggregate(await bench.taken(AGGREGATE))
    await bench.settled(AGGREGATE)
    assert bench.notes.lines == [f"ignored {outcome.agent_id}"]
    assert await revisions(bench) == before
    assert await bench.dead_letters() == []


async def test_an_outcome_that_counts_for_nothing_is_not_kept_for_an_ending(
    bench: Bench, aggregate: Runner, effects: EffectRunner
) -> None:
    outcomes = effects.outcomes
    await record(bench)
    (counted, stray) = await report(bench, answer_of("t-1", ONE), answer_of("nobody", ONE))
    await aggregate(await bench.taken(AGGREGATE, 2))
    await bench.js.purge_stream(topology.AGENT_RESPONSES)
    assert await outcomes.get(counted) is not None
    assert await outcomes.get(stray) is None


async def test_an_outcome_stored_after_the_deadline_is_left_to_it(bench: Bench, aggregate: Runner) -> None:
    await record(bench, agents=1, deadline=time.time())
    await report(bench, answer_of("t-1", ONE))
    await aggregate(await bench.taken(AGGREGATE))
    assert bench.notes.lines == [f"ignored {ONE}"]
    assert await bench.endings_of("t-1") == []


async def test_an_outcome_stored_long_after_the_deadline_shows_that_it_was_lost(
    bench: Bench, aggregate: Runner
) -> None:
    await record(bench, agents=1, deadline=1_000.0)
    await report(bench, answer_of("t-1", ONE))
    await aggregate(await bench.taken(AGGREGATE))
    assert bench.notes.lines == ["ended timeout", f"ignored {ONE}"]


async def test_only_the_outcome_that_decided_an_ending_publishes_it(bench: Bench, aggregate: Runner) -> None:
    """Who decided it is most likely publishing it just now: core NATS would carry a second copy to every listener."""
    await record(bench, agents=1)
    await report(bench, answer_of("t-1", ONE))
    (delivery,) = await bench.taken(AGGREGATE)
    stumbling = aggregate_of(bench, StumblingWire(bench.nc, at=1, after=True))
    await stumbling([delivery])
    assert await bench.endings_of("t-1") == []
    late = await report(bench, answer_of("t-1", "agent-dev-007"))
    taken = {each.seq: each for each in await bench.taken(AGGREGATE, 2)}
    await aggregate([taken.pop(*late)])
    assert await bench.endings_of("t-1") == []
    await aggregate(list(taken.values()))
    assert [ending.status for ending in await bench.endings_of("t-1")] == ["completed"]


# ── what goes wrong ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("after", [False, True], ids=["before its write", "after its write"])
async def test_a_fold_that_fails_gives_every_one_of_its_outcomes_back(bench: Bench, after: bool) -> None:
    await record(bench)
    await report(bench, *(answer_of("t-1", agent) for agent in (ONE, TWO, THREE)))
    aggregate = aggregate_of(bench, StumblingWire(bench.nc, at=1, after=after))
    await aggregate(await bench.taken(AGGREGATE, 3))
    assert bench.notes.lines == ["failed aggregate"] * 3
    again = await bench.taken(AGGREGATE, 3)
    assert sorted((delivery.seq, delivery.count) for delivery in again) == [(1, 2), (2, 2), (3, 2)]
    await aggregate(again)  # the same one: its failure left nothing behind
    await bench.settled(AGGREGATE)
    (ending,) = await bench.endings_of("t-1")
    assert ending.successful_responses == 3


async def test_outcomes_behind_a_failed_fold_count(bench: Bench) -> None:

    class FailsSlowly(SlowBucket):
        """Its first write takes long, and then is not made."""

        failed = False

        async def publish(self, *args: Any, **kwargs: Any) -> PubAck:
            if not self.failed:
                self.failed = True
                self.writing.set()
                await self.may_write.wait()
                raise RuntimeError("the write failed")
            return await super().publish(*args, **kwargs)

    wire = FailsSlowly(bench)
    aggregate = aggregate_of(bench, wire)
    await record(bench)
    await report(bench, answer_of("t-1", ONE), answer_of("t-1", TWO))
    first, second = await bench.taken(AGGREGATE, 2)
    failing = asyncio.create_task(aggregate([first]))
    await wire.writing.wait()
    waiting = asyncio.create_task(aggregate([second]))
    await asyncio.sleep(0)
    wire.may_write.set()
    await asyncio.gather(failing, waiting)
    assert set(present(await bench.tally_of("t-1")).phase.outcomes) == {TWO}
    (again,) = await bench.taken(AGGREGATE)
    assert (again.seq, again.count) == (first.seq, 2)


@pytest.mark.parametrize("subject", [topology.AGENT_COMPLETED, topology.AGENT_FAILED, "agent.response.other"])
@pytest.mark.parametrize(
    "body", [b"", b"nope", b"{}", b'{"task_id": "t-1", "agent_id": "agent-dev-001"}', b"\xff"]
)
async def test_an_invalid_outcome_is_dead_lettered_and_the_others_are_counted(
    bench: Bench, aggregate: Runner, subject: str, body: bytes
) -> None:
    await record(bench)
    await bench.publish(subject, body)
    await report(bench, answer_of("t-1", ONE))
    await aggregate(await bench.taken(AGGREGATE, 2))
    (letter,) = await bench.dead_letters()
    assert (letter.subject, letter.data) == (f"deadletter.{subject}", body)
    await bench.settled(AGGREGATE)
    assert sorted(bench.notes.lines) == ["dead-lettered agent.response.*", f"reported {ONE}"]


async def test_an_outcome_is_read_by_its_subject(bench: Bench) -> None:
    answer, failure = answer_of("t-1", ONE), failure_of("t-1", TWO)
    await report(bench, answer, failure)
    assert [read(delivery) for delivery in await bench.taken(AGGREGATE, 2)] == [answer, failure]


async def test_a_fold_that_was_cancelled_leaves_the_next_one_free(bench: Bench) -> None:
    slow = SlowBucket(bench)
    aggregate = aggregate_of(bench, slow)
    await record(bench)
    await report(bench, answer_of("t-1", ONE), answer_of("t-1", TWO))
    first, second = await bench.taken(AGGREGATE, 2)
    cancelled = asyncio.create_task(aggregate([first]))
    await slow.writing.wait()
    cancelled.cancel()
    await asyncio.wait([cancelled])
    assert cancelled.cancelled()
    slow.may_write.set()
    await asyncio.wait_for(aggregate([second]), 10)

    async def counted() -> bool:
        tally = await bench.tally_of("t-1")
        return tally is not None and TWO in tally.phase.outcomes

    await until(counted, "the second is counted")
