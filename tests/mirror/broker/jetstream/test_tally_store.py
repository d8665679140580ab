"""Tallies in the KV bucket: the process that writes second reads and decides again, and nothing is lost."""

import asyncio
import time
from collections.abc import Sequence

import pytest

from parley.broker.core.errors import BrokerUnavailable, Conflict, Forgotten
from parley.broker.core.events_and_effects import (
    ArmDeadline,
    CancelRequested,
    DeadlineReached,
    EndingPublished,
    Event,
    PublishEnding,
    Refused,
    Reported,
    RequestAgents,
    Requested,
)
from parley.broker.core.phase_plan import Select, plan
from parley.broker.core.states_and_moves import State
from parley.broker.core.tally import Tally
from parley.broker.jetstream import connection, jetstream, tally_store, topology
from parley.broker.jetstream.connection import connect
from parley.broker.jetstream.embedded import embedded_nats
from parley.broker.jetstream.jetstream import JetStream, StoredMessage
from parley.broker.jetstream.nats_client import NatsClient as Nats
from parley.broker.jetstream.provision import provision
from parley.broker.jetstream.tally_cache import TallyCache
from parley.broker.jetstream.tally_store import FoldResult, TallyStore
from tests import present
from tests.harness import until

NOW = 1_000.0
ONE, TWO, THREE = "agent-dev-001", "agent-dev-002", "agent-dev-003"


class CountingWire(JetStream):
    """Notes which subjects are read from the bucket."""

    def __init__(self, nc: Nats) -> None:
        super().__init__(nc)
        self.reads: list[str] = []

    async def get_last(self, stream: str, subject: str) -> StoredMessage | None:
        self.reads.append(subject)
        return await super().get_last(stream, subject)


@pytest.fixture
async def wire(nc: Nats) -> CountingWire:
    return CountingWire(nc)


@pytest.fixture
async def mine(wire: CountingWire) -> TallyStore:
    return TallyStore(wire, keep_seconds=60)


@pytest.fixture
async def theirs(nc: Nats) -> TallyStore:
    """The store of another process."""
    return TallyStore(JetStream(nc), keep_seconds=60)


def requested(task_id: str = "t-1", agents: int = 3, seq: int = 7, minimum: int = 1) -> Requested:
    return Requested(task_id, seq, NOW, NOW + 60, "DEV", agents, min_responses=minimum)


def at_once(*events: Event) -> Sequence[tuple[Event, float]]:
    return [(event, NOW + 1) for event in events]


async def happen(where: TallyStore, *events: Event, task_id: str = "t-1", new: bool = False) -> FoldResult:
    return await where.apply(task_id, at_once(*events), new=new)


async def bucket_of(nc: Nats, task_id: str = "t-1") -> Tally | None:
    """What another process reads."""
    return await TallyStore(JetStream(nc), keep_seconds=60).read(task_id)


# ── one writer ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_unknown_deliberation_has_no_tally(mine: TallyStore) -> None:
    assert await mine.read("t-1") is None
    assert mine.cached("t-1") is None


async def test_a_new_one_is_written_unread(mine: TallyStore, wire: CountingWire, nc: Nats) -> None:
    applied = await happen(mine, requested(), new=True)
    assert wire.reads == []
    assert applied.before is None
    assert applied.tally is not None
    assert applied.tally.state is State.PENDING
    assert applied.effects == (ArmDeadline(NOW + 60), RequestAgents(1, (ONE, TWO, THREE)))
    assert await bucket_of(nc) == applied.tally


async def test_one_that_is_not_so_new_is_read_and_decided_again(mine: TallyStore, theirs: TallyStore) -> None:
    await happen(theirs, requested(), new=True)
    applied = await happen(mine, requested(seq=8, agents=5), new=True)
    assert applied.before is not None
    assert applied.tally is applied.before
    assert (applied.effects, len(applied.tally.phase.agents)) == ((), 3)
    assert "task_id exists" in applied.reactions[0].note


async def test_a_redelivered_request_goes_on_elsewhere(mine: TallyStore, theirs: TallyStore) -> None:
    await happen(theirs, requested(), new=True)
    await happen(theirs, Reported(TWO, 1, 5))
    applied = await happen(mine, requested(), new=True)
    assert applied.effects == (ArmDeadline(NOW + 60), RequestAgents(1, (ONE, THREE)))


async def test_events_that_come_together_are_one_write(mine: TallyStore, nc: Nats) -> None:
    await happen(mine, requested(), new=True)
    before = await JetStream(nc).get_last(topology.TALLIES, topology.tally_subject("t-1"))
    applied = await happen(
        mine, Reported(ONE, 1, 4), Reported(ONE, 1, 5), Reported(TWO, 1, 6), Reported(THREE, 1, 7)
    )
    after = await JetStream(nc).get_last(topology.TALLIES, topology.tally_subject("t-1"))
    assert before is not None
    assert after is not None
    assert after.seq == before.seq + 1
    assert [bool(reaction.note) for reaction in applied.reactions] == [False, True, False, False]
    assert applied.effects == (PublishEnding(),)
    assert await bucket_of(nc) == applied.tally


def test_of_alarms_that_come_together_the_last_one_counts() -> None:
    """Two answers after the limit, at which too little was there: the first moves it, the second opens the panel."""
    asked = Requested(
        "t-1", 7, 1_000.0, 1_060.0, "DEV", 4, min_responses=3, select=Select.JUDGE, plan=plan(Select.JUDGE, 4, 3)
    )  # fmt: skip
    _, running = tally_store._fold(None, [(asked, 1_000.0), (Reported("agent-dev-001", 1, 1), 1_001.0)])
    late = present(running).limit + 0.1
    answers = [(Reported(f"agent-dev-00{number}", 1, number), late) for number in (2, 3)]
    reactions, opened = tally_store._fold(running, answers)
    assert [type(effect) for reaction in reactions for effect in reaction.effects].count(ArmDeadline) == 2
    effects = tally_store._distinct_effects(reactions)
    assert [effect for effect in effects if isinstance(effect, ArmDeadline)] == [
        ArmDeadline(present(opened).limit)
    ]


async def test_each_effect_of_events_that_come_together_is_asked_for_once(mine: TallyStore) -> None:
    await happen(mine, requested(agents=1), new=True)
    applied = await happen(
        mine, Reported(ONE, 1, 4), Reported(ONE, 1, 4), CancelRequested(), Reported(ONE, 1, 5)
    )
    assert [reaction.effects for reaction in applied.reactions] == [
        (PublishEnding(),),
        (PublishEnding(),),
        (),
        (),
    ]
    assert applied.effects == (PublishEnding(),)


async def test_what_changes_nothing_is_not_written(mine: TallyStore, nc: Nats) -> None:
    await happen(mine, requested(), new=True)
    before = await JetStream(nc).get_last(topology.TALLIES, topology.tally_subject("t-1"))
    applied = await happen(mine, Reported("agent-dev-009", 1, 4))
    assert applied.tally is applied.before
    assert await JetStream(nc).get_last(topology.TALLIES, topology.tally_subject("t-1")) == before


async def test_an_outcome_of_an_unknown_deliberation_records_nothing(mine: TallyStore) -> None:
    applied = await happen(mine, Reported(ONE, 1, 4))
    assert (applied.before, applied.tally, applied.effects) == (None, None, ())
    assert await mine.read("t-1") is None


async def test_what_this_process_wrote_last_is_not_read_again(mine: TallyStore, wire: CountingWire) -> None:
    await happen(mine, requested(), new=True)
    await happen(mine, Reported(ONE, 1, 4))
    assert present(mine.cached("t-1")).phase.successes == 1
    assert wire.reads == []
    await mine.read("t-1")
    assert wire.reads == [topology.tally_subject("t-1")]


async def test_what_one_process_remembers_is_bounded(wire: CountingWire) -> None:
    mine = TallyStore(wire, keep_seconds=60, cache=TallyCache(max_bytes=7_500))
    for name in ("a", "b", "c"):
        await happen(mine, requested(name), task_id=name, new=True)
    for name in ("b", "c", "a"):
        applied = await happen(mine, Reported(ONE, 1, 4), task_id=name)
        assert present(applied.tally).phase.successes == 1
    assert wire.reads == [topology.tally_subject("a")]


# ── several writers ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_refused_write_means_deciding_again(mine: TallyStore, theirs: TallyStore, nc: Nats) -> None:
    await happen(mine, requested(agents=1), new=True)
    cancelled = await happen(theirs, CancelRequested("changed my mind"))
    # `mine` still believes that it runs, and decides that this answer completes it.
    applied = await happen(mine, Reported(ONE, 1, 4))
    assert applied.before == applied.tally == cancelled.tally
    assert applied.effects == ()  # decided by them, and theirs to publish
    assert applied.reactions[0].note
    assert present(await bucket_of(nc)).state is State.CANCELLED


async def test_that_nothing_is_to_be_done_is_not_decided_from_memory(
    mine: TallyStore, theirs: TallyStore, wire: CountingWire
) -> None:
    await happen(mine, requested(), new=True)
    await happen(theirs, CancelRequested())
    await happen(theirs, EndingPublished(99))
    # From memory it still runs, and the redelivered request would start its agents for nothing.
    applied = await happen(mine, requested(), new=True)
    assert applied.effects == ()
    assert present(applied.tally).state is State.CANCELLED
    assert wire.reads == [topology.tally_subject("t-1")]


async def test_a_refused_write_loses_neither_event(mine: TallyStore, theirs: TallyStore, nc: Nats) -> None:
    await happen(mine, requested(), new=True)
    await happen(theirs, Reported(ONE, 1, 4))
    await happen(mine, Reported(TWO, 1, 5))
    tally = present(await bucket_of(nc))
    assert {agent: outcome.seq for agent, outcome in tally.phase.outcomes.items()} == {ONE: 4, TWO: 5}


async def test_many_writers_of_one_tally_lose_no_outcome_and_decide_one_ending(nc: Nats) -> None:
    agents = (
        tally_store.MAX_CAS_TRIES
    )  # each refusal means that another one got on: the last is refused once less than this
    stores = [TallyStore(JetStream(nc), keep_seconds=60) for _ in range(5)]
    recorded = await happen(stores[0], requested(agents=agents, minimum=agents), new=True)
    names = present(recorded.tally).phase.agents
    applied = await asyncio.gather(
        *(happen(stores[place % 5], Reported(agent, 1, 100 + place)) for place, agent in enumerate(names))
    )
    tally = present(await bucket_of(nc))
    assert {agent: outcome.seq for agent, outcome in tally.phase.outcomes.items()} == {
        agent: 100 + place for place, agent in enumerate(names)
    }
    assert tally.state is State.COMPLETED
    assert [one.effects for one in applied if one.effects] == [(PublishEnding(),)]


async def test_the_same_outcomes_from_every_writer_are_counted_once(nc: Nats) -> None:
    stores = [TallyStore(JetStream(nc), keep_seconds=60) for _ in range(4)]
    await happen(stores[0], requested(agents=4, minimum=4), new=True)
    reports = [Reported(f"agent-dev-{place:03d}", 1, place) for place in range(1, 5)]
    applied = await asyncio.gather(*(happen(where, report) for where in stores for report in reports))
    counted = [reaction for one in applied for reaction in one.reactions if not reaction.note]
    assert len(counted) == 4
    tally = present(await bucket_of(nc))
    assert (tally.phase.successes, tally.state) == (4, State.COMPLETED)


async def test_of_many_that_record_it_at_once_one_does(nc: Nats) -> None:
    stores = [TallyStore(JetStream(nc), keep_seconds=60) for _ in range(8)]
    applied = await asyncio.gather(
        *(happen(where, requested(seq=seq), new=True) for seq, where in enumerate(stores, 1))
    )
    first = [one for one in applied if one.before is None]
    assert len(first) == 1
    assert sum(RequestAgents in map(type, one.effects) for one in applied) == 1
    assert await bucket_of(nc) == first[0].tally


async def test_a_writer_that_is_refused_too_often_raises(
    mine: TallyStore, theirs: TallyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally_store, "MAX_CAS_TRIES", 1)
    await happen(mine, requested(), new=True)
    await happen(theirs, Reported(ONE, 1, 4))
    with pytest.raises(Conflict, match="t-1"):
        await happen(mine, Reported(TWO, 1, 5))


async def test_what_was_recorded_and_forgotten_meanwhile_is_not_made_anew(
    mine: TallyStore, theirs: TallyStore, wire: CountingWire, nc: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process stands still between its refused write and the read (simulation, seed 94485)."""
    await happen(theirs, requested(), new=True)
    read = wire.get_last

    async def late(stream: str, subject: str) -> StoredMessage | None:
        await nc.jetstream().purge_stream(topology.TALLIES, subject=subject)
        return await read(stream, subject)

    monkeypatch.setattr(wire, "get_last", late)
    with pytest.raises(Forgotten):
        await happen(mine, requested(), new=True)
    assert await bucket_of(nc) is None


# ── after the ending ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_published_ending_is_forgotten_after_its_time(nc: Nats) -> None:
    brief = TallyStore(JetStream(nc), keep_seconds=1)
    await happen(brief, requested(agents=1), new=True)
    await happen(brief, Reported(ONE, 1, 4))
    marked = time.monotonic()
    await happen(brief, EndingPublished(99))
    assert present(await brief.read("t-1")).ending_seq == 99

    async def forgotten() -> bool:
        return await brief.read("t-1") is None

    await until(forgotten, "the tally is gone")
    assert time.monotonic() - marked >= 0.9
    again = await happen(brief, requested(seq=50), new=True)
    assert again.before is None
    assert present(again.tally).request_seq == 50


async def test_an_ending_that_is_not_known_to_be_published_is_kept(nc: Nats, mine: TallyStore) -> None:
    await happen(mine, requested(agents=1), new=True)
    await happen(mine, Reported(ONE, 1, 4))
    stored = present(await JetStream(nc).get_last(topology.TALLIES, topology.tally_subject("t-1")))
    assert "Nats-TTL" not in stored.headers
    await happen(mine, EndingPublished(99))
    stored = present(await JetStream(nc).get_last(topology.TALLIES, topology.tally_subject("t-1")))
    assert stored.headers["Nats-TTL"] == "60s"


@pytest.mark.parametrize(
    ("keep_seconds", "kept"), [(0.2, "1s"), (1.0, "1s"), (1.2, "2s"), (3_600.0, "3600s")]
)
async def test_a_published_ending_is_kept_for_whole_seconds(nc: Nats, keep_seconds: float, kept: str) -> None:
    where = TallyStore(JetStream(nc), keep_seconds=keep_seconds)
    await happen(where, Refused("t-1", 7, NOW, "bad"), new=True)
    await happen(where, EndingPublished(99))
    stored = present(await JetStream(nc).get_last(topology.TALLIES, topology.tally_subject("t-1")))
    assert stored.headers["Nats-TTL"] == kept


async def test_a_published_ending_is_marked_once(mine: TallyStore, theirs: TallyStore, nc: Nats) -> None:
    await happen(mine, requested(agents=1), new=True)
    await happen(mine, Reported(ONE, 1, 4))
    marked = await asyncio.gather(happen(mine, EndingPublished(99)), happen(theirs, EndingPublished(99)))
    assert sorted(bool(one.reactions[0].note) for one in marked) == [False, True]
    late = await happen(theirs, EndingPublished(100))
    assert present(late.tally).ending_seq == 99


async def test_a_deleted_or_purged_key_can_be_reused(mine: TallyStore, theirs: TallyStore, nc: Nats) -> None:
    bucket = await nc.jetstream().key_value("deliberations")
    for name, remove in (("t-1", bucket.delete), ("t-2", bucket.purge)):
        await happen(theirs, requested(name), task_id=name, new=True)
        await remove(name)
        assert await mine.read(name) is None
        for new in (True, False):
            applied = await happen(mine, requested(name, seq=50), task_id=name, new=new)
            assert present(applied.tally).request_seq == 50


# ── when the bucket is away ───────────────────────────────────────────────────────────────────────────────────────


async def test_without_the_bucket_nothing_is_decided(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setattr(jetstream, "PUBLISH_TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(connection, "RECONNECT_WAIT_SECONDS", 0.05)
    folder = tmp_path_factory.mktemp("nats")
    async with embedded_nats(folder, with_token=False) as server:
        nc = await connect(server.url, "test")
        await provision(nc.jetstream())
        where = TallyStore(JetStream(nc), keep_seconds=60)
        await happen(where, requested(), new=True)
    with pytest.raises(BrokerUnavailable):
        await happen(where, Reported(ONE, 1, 4))
    with pytest.raises(BrokerUnavailable):
        await happen(where, Refused("t-2", 8, NOW, "bad"), task_id="t-2", new=True)
    # Whether a write arrived is not known (nats-py sends what it kept once it is back): the next look is at the bucket.
    port = int(server.url.rpartition(":")[2])
    async with embedded_nats(folder, with_token=False, port=port):
        await until(lambda: nc.is_connected, "the connection is back")
        assert where.cached("t-1") in (None, await bucket_of(nc))
        applied = await happen(where, Reported(ONE, 1, 4))
        assert applied.tally == await bucket_of(nc)
        assert present(applied.tally).phase.successes == 1
        await nc.close()


# ── many at once ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_many_are_read_with_one_request_and_then_from_the_cache(
    mine: TallyStore, theirs: TallyStore, wire: CountingWire
) -> None:
    names = [f"t-{number}" for number in range(20)]
    for name in names:
        await happen(theirs, requested(name), task_id=name, new=True)
    await mine.read_ahead([*names, "nobody"])
    for name in names:
        assert (await happen(mine, CancelRequested(), task_id=name)).changed
    assert wire.reads == []


async def test_what_was_read_ahead_may_be_stale_and_nothing_is_decided_by_it(
    mine: TallyStore, theirs: TallyStore, wire: CountingWire, nc: Nats
) -> None:
    names = [f"t-{number}" for number in range(20)]
    for name in names:
        await happen(theirs, requested(name), task_id=name, new=True)
    await mine.read_ahead(names)
    for name in names:
        await happen(theirs, CancelRequested(), task_id=name)
    for name in names:
        applied = await happen(mine, DeadlineReached(), task_id=name)
        assert not applied.changed
        assert present(await bucket_of(nc, name)).state is State.CANCELLED


async def test_few_are_not_read_ahead_nor_one_that_is_unreadable(
    mine: TallyStore, theirs: TallyStore, wire: CountingWire
) -> None:
    await happen(theirs, requested("t-1"), new=True)
    await mine.read_ahead(["t-1"])
    assert mine.cached("t-1") is None
    for number in range(20):
        await wire.publish(topology.tally_subject(f"x-{number}"), b"junk")
    await mine.read_ahead([f"x-{number}" for number in range(20)])
    assert mine.cached("x-1") is None
