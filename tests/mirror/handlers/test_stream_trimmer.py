"""A stream that would be full of what is long done loses that, and nothing else."""

from pathlib import Path

import pytest

from parley import stream_keeper
from parley.app import service
from parley.broker.core.states_and_moves import State
from parley.broker.core.tally import Outcome, Phase, Tally
from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.embedded import EmbeddedNats
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.provision import Wanted, examine, provision
from parley.client import connect as connect_client
from parley.handlers import stream_trimmer
from parley.handlers.stream_trimmer import Trimmer
from parley.settings import load
from tests.harness import ModelServer

# REQUESTS gets 1 MiB of it, AGENT_RESPONSES 2.
SMALL = 16 * 2**20
LARGE = b"x" * 100_000


async def test_what_is_done_goes_and_what_is_open_or_untaken_stays(empty_nats: EmbeddedNats) -> None:
    nc = await connect(empty_nats.url, "test")
    wire = JetStream(nc)
    await provision(wire.js, Wanted(storage_bytes=SMALL))
    requests = [(await wire.publish(topology.REQUESTED, LARGE)).seq for _ in range(8)]
    outcomes = [(await wire.publish(topology.AGENT_COMPLETED, LARGE)).seq for _ in range(15)]
    for durable, count in ((topology.INTAKE, 6), (topology.AGGREGATE, 12)):
        pull = await wire.js.pull_subscribe_bind(durable.name, durable.stream)
        for message in await pull.fetch(count, timeout=5):
            await message.ack_sync()
    phase = Phase(number=1, agents=("a", "b"), outcomes={"a": Outcome(succeeded=True, seq=outcomes[9])})
    still_open = Tally(
        task_id="open",
        state=State.IN_PROGRESS,
        request_seq=requests[4],
        accepted_at=0,
        deadline=1,
        phases=(phase,),
    )
    done = Tally(
        task_id="done",
        state=State.COMPLETED,
        request_seq=requests[0],
        accepted_at=0,
        deadline=1,
        ending_seq=1,
    )
    for tally, headers in ((still_open, {}), (done, {"Nats-TTL": "60s"})):
        body = tally.model_dump_json(exclude_defaults=True).encode()
        await wire.publish(topology.tally_subject(tally.task_id), body, headers=headers)
    await Trimmer(wire).on_look(await examine(wire.js))
    assert (await wire.js.stream_info(topology.REQUESTS)).state.first_seq == requests[4]
    assert (await wire.js.stream_info(topology.AGENT_RESPONSES)).state.first_seq == outcomes[9]
    # The open one ends: then what no consumer has settled is the first that is needed.
    await wire.js.purge_stream(topology.TALLIES)
    await Trimmer(wire).on_look(await examine(wire.js))
    assert (await wire.js.stream_info(topology.AGENT_RESPONSES)).state.first_seq == outcomes[
        9
    ]  # half is free
    await close(nc)


async def test_nothing_is_removed_while_a_tally_cannot_be_read(empty_nats: EmbeddedNats) -> None:
    nc = await connect(empty_nats.url, "test")
    wire = JetStream(nc)
    await provision(wire.js, Wanted(storage_bytes=SMALL))
    for _ in range(8):
        await wire.publish(topology.REQUESTED, LARGE)
    pull = await wire.js.pull_subscribe_bind(topology.INTAKE.name, topology.REQUESTS)
    for message in await pull.fetch(8, timeout=5):
        await message.ack_sync()
    await wire.publish(topology.tally_subject("t"), b"?")
    await Trimmer(wire).on_look(await examine(wire.js))
    assert (await wire.js.stream_info(topology.REQUESTS)).state.messages == 8
    await close(nc)


async def test_of_too_many_dead_letters_the_older_half_goes(empty_nats: EmbeddedNats) -> None:
    nc = await connect(empty_nats.url, "test")
    wire = JetStream(nc)
    await provision(wire.js, Wanted(storage_bytes=SMALL))
    for _ in range(8):
        await wire.publish("deadletter.x", LARGE)
    await Trimmer(wire).on_look(await examine(wire.js))
    assert (await wire.js.stream_info(topology.DEAD_LETTERS)).state.first_seq == 6
    await close(nc)


async def test_a_service_outlives_many_times_what_its_streams_hold(
    empty_nats: EmbeddedNats, model: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_keeper, "CHECK_SECONDS", 0.1)
    monkeypatch.setattr(stream_trimmer, "TRIM_SECONDS", 0.1)
    settings = load(
        nats_url=empty_nats.url, vllm_url=model.url, http_port=0, home=tmp_path, pool="local", storage_bytes=SMALL
    )  # fmt: skip
    async with service(settings) as running, connect_client(empty_nats.url) as client:
        for _ in range(40):  # 4 MB of requests into 1 MiB
            ending = await client.deliberate(LARGE.decode(), agents=1, timeout_seconds=60)
            assert ending.status == "completed"
        info = await running.wire.js.stream_info(topology.REQUESTS)
        assert info.state.last_seq == 40
        assert info.state.bytes < (info.config.max_bytes or 0)
