"""Many tallies are followed with one question a look, and the server is asked for what has changed only."""

import asyncio
from contextlib import aclosing

import pytest

from parley import tally_watch
from parley.broker.core.errors import BrokerUnavailable, StreamNotFound
from parley.broker.core.states_and_moves import State
from parley.broker.core.tally import Tally
from parley.broker.jetstream import topology
from parley.broker.jetstream.direct_reads import read_changed
from parley.broker.jetstream.jetstream import JetStream
from parley.tally_watch import TallyWatch
from tests.harness import Running, fresh, until
from tests.mirror.parley.test_display import tally


async def store(wire: JetStream, name: str, **fields: object) -> None:
    body = tally(task_id=name, **fields).model_dump_json().encode()
    await wire.publish(topology.tally_subject(name), body)


async def followed(watch: TallyWatch, name: str, seen: list[Tally]) -> None:
    async with aclosing(watch.follow(name)) as tallies:
        async for one in tallies:
            seen.append(one)  # noqa: PERF401


async def test_many_are_followed_each_by_its_own(
    local_service: Running, wire: JetStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally_watch, "NAMES_AT_ONCE", 7)
    watch = TallyWatch(wire)
    names = [fresh() for _ in range(20)]
    seen: dict[str, list[Tally]] = {name: [] for name in names}
    for name in names[:10]:
        await store(wire, name)
    following = [asyncio.create_task(followed(watch, name, seen[name])) for name in names]
    await until(lambda: all(len(seen[name]) == 1 for name in names[:10]), "those that are there are told")
    for name in names:
        await store(wire, name, state=State.COMPLETED, ending_seq=7)
    async with asyncio.timeout(10):
        await asyncio.gather(*following)
    assert all([one.task_id for one in seen[name]] == [name] * len(seen[name]) for name in names)
    assert all(seen[name][-1].ending_seq == 7 for name in names)
    assert not watch._followers
    await until(lambda: watch._looking is not None and watch._looking.done(), "nobody looks any more")


async def test_a_second_follower_gets_the_tally_as_it_is(local_service: Running, wire: JetStream) -> None:
    watch, name = TallyWatch(wire), fresh()
    await store(wire, name)
    first: list[Tally] = []
    second: list[Tally] = []
    following = [asyncio.create_task(followed(watch, name, first))]
    await until(lambda: len(first) == 1, "the first has it")
    following.append(asyncio.create_task(followed(watch, name, second)))
    await until(lambda: len(second) == 1, "the second has it")
    assert len(first) == 1
    await store(wire, name, ending_seq=3, state=State.COMPLETED)
    async with asyncio.timeout(10):
        await asyncio.gather(*following)


async def test_an_error_reaches_all_who_follow_and_they_may_begin_again(
    local_service: Running, wire: JetStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, name = TallyWatch(wire), fresh()
    away = True

    async def read(*arguments: object) -> object:
        if away:
            raise BrokerUnavailable("nats://x", "gone")
        return await read_changed(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(tally_watch, "read_changed", read)
    for _ in range(2):
        with pytest.raises(BrokerUnavailable):
            await anext(watch.follow(name))
    away = False
    await store(wire, name)
    async with asyncio.timeout(10), aclosing(watch.follow(name)) as tallies:
        assert (await anext(tallies)).task_id == name
    await watch.close()


async def test_without_a_bucket_it_says_so(
    local_service: Running, wire: JetStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topology, "TALLIES", "KV_nowhere")
    with pytest.raises(StreamNotFound):
        await anext(TallyWatch(wire).follow("t-1"))
