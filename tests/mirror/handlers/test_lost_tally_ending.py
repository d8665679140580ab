"""A tally that is lost or cannot be read leads to an ending: every deliberation that was asked for has one."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from parley.broker.core.events_and_effects import CancelRequested
from parley.broker.core.messages import DeliberationFailed
from parley.broker.jetstream import topology
from parley.broker.jetstream.topology import EXPIRY, INTAKE, TALLIES
from parley.handlers import lost_tally_ending
from parley.handlers.effects import EffectRunner
from parley.handlers.expire import Expire
from parley.handlers.intake import Bounds, Intake
from parley.handlers.lost_tally_ending import LOST
from parley.handlers.overdue_deadlines import DeadlineWatch
from parley.handlers.query import Query
from tests import present
from tests.harness import until
from tests.mirror.handlers import Bench, effects_of, lost_of, runner_of

OVERWRITTEN = b'{"state": "of another version"}'
TIMEOUT_SECONDS = 0.3


async def purged(bench: Bench, task_id: str) -> None:
    await bench.js.purge_stream(TALLIES)


async def overwritten(bench: Bench, task_id: str) -> None:
    await bench.wire.publish(topology.tally_subject(task_id), OVERWRITTEN)


Harm = Callable[[Bench, str], Awaitable[None]]


async def ask(bench: Bench, task_id: str | None = "t-1", **fields: object) -> EffectRunner:
    """Asked, taken in and recorded; its timer runs."""
    named = {"task_id": task_id} if task_id else {}
    headers = {"Parley-Reply-To": "_INBOX.asker"}
    body = {"task_description": "x", "timeout_seconds": TIMEOUT_SECONDS, **named, **fields}
    await bench.publish(topology.REQUESTED, body, headers)
    effects = effects_of(bench)
    intake = Intake(effects, bench.notes, Bounds(16, 60.0))
    await runner_of(bench, INTAKE, intake.handle)(await bench.taken(INTAKE))
    return effects


async def expire(bench: Bench) -> None:
    """The next deadline, in another process."""
    effects = effects_of(bench)
    await runner_of(bench, EXPIRY, Expire(effects, lost_of(bench, effects)).handle)(await bench.taken(EXPIRY))


async def only_ending(bench: Bench, task_id: str) -> DeliberationFailed:
    (ending,) = await bench.endings_of(task_id)
    assert isinstance(ending, DeliberationFailed)
    return ending


@pytest.mark.parametrize("harm", [purged, overwritten])
@pytest.mark.parametrize("task_id", ["t-1", None])
async def test_its_deadline_ends_it_as_failed_and_says_why(
    bench: Bench, harm: Harm, task_id: str | None
) -> None:
    name = task_id or "d-1"
    await ask(bench, task_id)
    heard = await bench.nc.subscribe("_INBOX.asker")
    await harm(bench, name)
    await expire(bench)
    ending = await only_ending(bench, name)
    assert (ending.status, ending.error) == ("failed", LOST)
    assert (await heard.next_msg(timeout=5)).data
    assert present(await bench.tally_of(name)).ending_seq is not None
    await bench.settled(EXPIRY)
    letters = await bench.dead_letters()
    assert [letter.data for letter in letters] == ([OVERWRITTEN] if harm is overwritten else [])


@pytest.mark.parametrize("harm", [purged, overwritten])
async def test_if_its_timer_is_lost_too_the_process_that_recorded_it_ends_it(
    bench: Bench, harm: Harm
) -> None:
    effects = await ask(bench)
    await harm(bench, "t-1")
    await bench.js.purge_stream(topology.DELIBERATIONS)
    watch = DeadlineWatch(bench.wire, effects, lost_of(bench, effects))

    async def looked() -> bool:
        return await watch.look() > 0

    await until(looked, "it is overdue")
    assert (await only_ending(bench, "t-1")).status == "failed"


async def test_one_that_has_ended_and_is_forgotten_does_not_end_again(bench: Bench) -> None:
    effects = await ask(bench)
    await effects.apply("t-1", [(CancelRequested("enough"), effects.now())])
    await bench.js.purge_stream(TALLIES)
    await effects.arm_for("t-1", 1, effects.now())  # an old deadline, delivered again
    await asyncio.sleep(TIMEOUT_SECONDS)
    await expire(bench)
    assert (await only_ending(bench, "t-1")).status == "cancelled"


@pytest.mark.parametrize(
    ("keep_seconds", "endings"), [(0.0, 2), (180.0, 1)], ids=["used again", "asked twice"]
)
async def test_of_a_name_that_was_asked_for_again_the_newest_request_ends(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, keep_seconds: float, endings: int
) -> None:
    """Where no deadline says which request it was: one that came while the ended tally was kept was a second asker's."""
    effects = await ask(bench)
    await effects.apply("t-1", [(CancelRequested("enough"), effects.now())])
    if endings == 2:
        await purged(bench, "t-1")
    await ask(bench)
    await overwritten(bench, "t-1")
    monkeypatch.setattr(EffectRunner, "keep_seconds", keep_seconds)
    await lost_of(bench, effects).end("t-1", None, effects.now() + 1_000)
    told = [
        ending.error for ending in await bench.endings_of("t-1") if isinstance(ending, DeliberationFailed)
    ]
    assert told == ["cancelled: enough", LOST][:endings]


async def test_a_request_that_is_not_taken_in_yet_has_no_record_to_be_lost(bench: Bench) -> None:
    """A deadline that comes after its time and before intake comes back: a stranger's (found by the simulation)."""
    await bench.publish(
        topology.REQUESTED, {"task_id": "t-1", "task_description": "x", "timeout_seconds": 0.1}
    )
    effects = effects_of(bench)
    await asyncio.sleep(0.1)
    await effects.arm_for("t-1", 1, effects.now())
    await expire(bench)
    assert await bench.endings_of("t-1") == []
    intake = Intake(effects, bench.notes, Bounds(16, 60.0))
    await runner_of(bench, INTAKE, intake.handle)(await bench.taken(INTAKE))
    assert (await only_ending(bench, "t-1")).status == "timeout"


@pytest.mark.parametrize("seq", [None, 7])
async def test_a_deadline_of_nothing_ends_nothing(bench: Bench, seq: int | None) -> None:
    effects = effects_of(bench)
    await overwritten(bench, "t-1")
    await effects.arm_for("t-1", seq, effects.now())
    await expire(bench)
    assert await bench.endings_of("t-1") == []
    # What cannot be read is put aside, and is not found again.
    assert [letter.data for letter in await bench.dead_letters()] == [OVERWRITTEN]
    stored = present(await bench.wire.get_last(TALLIES, topology.tally_subject("t-1")))
    assert stored.data == b""


async def test_a_deadline_that_finds_nothing_too_early_comes_again_at_its_time(bench: Bench) -> None:
    effects = await ask(bench, timeout_seconds=1.5)
    await purged(bench, "t-1")  # as by a process that died after it had deleted what it could not read
    await effects.arm_for("t-1", 1, effects.now())
    await expire(bench)
    assert await bench.endings_of("t-1") == []
    await expire(bench)
    assert (await only_ending(bench, "t-1")).error == LOST


async def test_an_early_deadline_of_a_request_that_is_not_taken_in_yet_ends_nothing(bench: Bench) -> None:
    await bench.publish(
        topology.REQUESTED, {"task_description": "x", "task_id": "t-1", "timeout_seconds": 60}
    )
    effects = effects_of(bench)
    await effects.arm_for("t-1", None, effects.now())  # a stranger's
    await expire(bench)
    assert await bench.endings_of("t-1") == []
    assert await bench.tally_of("t-1") is None


async def test_a_strangers_deadline_that_names_anothers_request_ends_nothing(bench: Bench) -> None:
    effects = await ask(bench, "t-1", timeout_seconds=60)
    await lost_of(bench, effects).end("t-2", 1, effects.now() + 1_000)
    assert await bench.endings_of("t-1") == []
    assert not present(await bench.tally_of("t-1")).ended


async def test_a_request_is_looked_for_among_so_many_only(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_tally_ending, "MAX_READ", 2)
    for number in range(3):
        await bench.publish(topology.REQUESTED, {"task_description": "x", "task_id": f"t-{number}"})
    for taken in await bench.taken(INTAKE, 3):
        await taken.msg.ack()
    await bench.settled(INTAKE)
    effects = effects_of(bench)
    lost = lost_of(bench, effects)
    far = effects.now() + 1_000
    await lost.end("t-2", None, far)
    assert await bench.endings_of("t-2") == []
    await lost.end("t-1", None, far)
    assert (await only_ending(bench, "t-1")).status == "failed"


async def test_a_question_about_an_unreadable_tally_is_answered(bench: Bench) -> None:
    await overwritten(bench, "t-1")
    effects = effects_of(bench)
    status = await Query(bench.wire, effects._tallies)(b'{"task_id": "t-1"}')
    assert status.status == "UNKNOWN"


async def test_intake_takes_in_a_name_whose_tally_cannot_be_read(bench: Bench) -> None:
    await overwritten(bench, "t-1")
    await ask(bench)
    assert present(await bench.tally_of("t-1")).request_seq == 1
    assert [letter.data for letter in await bench.dead_letters()] == [OVERWRITTEN]
