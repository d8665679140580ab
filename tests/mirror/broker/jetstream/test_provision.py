"""Streams, consumers and buckets: made where they are missing, changed where nothing is lost, refused where others
changed them."""

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import nats.js.errors
import pytest
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    DiscardPolicy,
    ReplayPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
    StreamConsumerLimits,
)

from parley.broker.core.errors import TopologyMismatch
from parley.broker.jetstream import provision as provision_module
from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import connect
from parley.broker.jetstream.embedded import EmbeddedNats
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.jetstream_client import WholeConsumerConfig
from parley.broker.jetstream.provision import PROBE, Extent, Wanted, provision, review
from parley.broker.jetstream.provision_errors import NO_STORAGE
from tests.harness import until
from tests.mirror.broker import limited_nats, limited_server

EVERYTHING = [
    "stream REQUESTS", "stream DELIBERATIONS", "stream AGENT_REQUESTS", "stream AGENT_RESPONSES",
    "stream DEAD_LETTERS", "stream SUSPECTS", "stream KV_deliberations", "stream OBJ_results", "consumer REQUESTS/intake",
    "consumer REQUESTS/cancel", "consumer DELIBERATIONS/expire", "consumer AGENT_REQUESTS/dispatch",
    "consumer AGENT_RESPONSES/aggregate",
]  # fmt: skip


@pytest.fixture
async def js(empty_nats: EmbeddedNats) -> AsyncIterator[JetStreamContext]:
    nc = await connect(empty_nats.url, "test")
    yield nc.jetstream()
    await nc.close()


async def stream_names(js: JetStreamContext) -> set[str | None]:
    return {info.config.name for info in await js.streams_info()}


async def live(js: JetStreamContext) -> list[Any]:
    """The whole live configuration."""
    found: list[Any] = [info.config for info in await js.streams_info()]
    for name in sorted(await stream_names(js), key=str):
        found += [info.config for info in await js.consumers_info(str(name))]
    return found


@pytest.mark.parametrize(
    ("subject", "stream"),
    [
        ("deliberation.requested", "REQUESTS"),
        ("deliberation.cancel", "REQUESTS"),
        ("deliberation.completed", "DELIBERATIONS"),
        ("deliberation.failed", "DELIBERATIONS"),
        ("deliberation.timer.t-1", "DELIBERATIONS"),
        ("deliberation.deadline.t-1", "DELIBERATIONS"),
        ("agent.requested", "AGENT_REQUESTS"),
        ("agent.response.completed", "AGENT_RESPONSES"),
        ("agent.response.failed", "AGENT_RESPONSES"),
        ("deadletter.deliberation.requested", "DEAD_LETTERS"),
        ("deadletter.deliberation.deadline.t-1", "DEAD_LETTERS"),
        ("suspect.REQUESTS.intake.7", "SUSPECTS"),
        ("$KV.deliberations.t-1", "KV_deliberations"),
        ("agent.cancel", None),
        ("deliberation.get", None),
        ("deliberation.other", None),
    ],
)
async def test_each_subject_is_in_its_stream(js: JetStreamContext, subject: str, stream: str | None) -> None:
    await provision(js)
    if stream is None:  # core NATS: not stored
        with pytest.raises(nats.js.errors.NotFoundError):
            await js.find_stream_name_by_subject(subject)
    else:
        assert await js.find_stream_name_by_subject(subject) == stream


# ── making it so ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_on_an_empty_server_everything_is_made_and_said(js: JetStreamContext) -> None:
    assert await provision(js) == EVERYTHING
    assert await stream_names(js) == {name.removeprefix("stream ") for name in EVERYTHING[:8]}


async def test_a_second_time_nothing_is_made_and_nothing_has_changed(js: JetStreamContext) -> None:
    await provision(js)
    before = await live(js)
    assert await provision(js) == []
    assert await live(js) == before


class StoreOnceBusy:
    """A context at whose first stream the server fails once, as it does under load."""

    def __init__(self, js: JetStreamContext) -> None:
        self._js = js
        self.failures = 1

    async def add_stream(self, config: StreamConfig) -> Any:
        if self.failures and config.name != PROBE:
            self.failures -= 1
            raise nats.js.errors.ServerError(
                code=500, err_code=10049, description="error creating store for stream"
            )
        return await self._js.add_stream(config)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._js, name)


async def test_a_store_that_fails_once_is_asked_again(js: JetStreamContext) -> None:
    busy = StoreOnceBusy(js)
    assert await provision(busy) == EVERYTHING  # type: ignore[arg-type]  # a double
    assert busy.failures == 0


async def test_a_budget_that_nobody_promises_is_one_line(js: JetStreamContext) -> None:
    with pytest.raises(TopologyMismatch) as caught:
        await provision(js, Wanted(storage_bytes=10**15))
    assert str(caught.value) == (
        "stream REQUESTS, AGENT_REQUESTS, AGENT_RESPONSES, DEAD_LETTERS, KV_deliberations, OBJ_results: refused by "
        "the server: insufficient storage resources available; lower PARLEY_STORAGE_BYTES, or unset it"
    )


async def test_only_what_is_missing_is_made(js: JetStreamContext) -> None:
    await provision(js)
    await js.delete_stream("DEAD_LETTERS")
    await js.delete_consumer("DELIBERATIONS", "expire")
    assert await provision(js) == ["stream DEAD_LETTERS", "consumer DELIBERATIONS/expire"]


async def test_without_leave_to_create_what_is_missing_is_only_listed(js: JetStreamContext) -> None:
    assert await provision(js, extent=Extent.LOOK) == EVERYTHING
    assert await stream_names(js) == set()
    await provision(js)
    await js.delete_consumer("AGENT_REQUESTS", "dispatch")
    await js.delete_stream("OBJ_results")
    assert await provision(js, extent=Extent.LOOK) == [
        "stream OBJ_results",
        "consumer AGENT_REQUESTS/dispatch",
    ]
    assert "OBJ_results" not in await stream_names(js)
    with pytest.raises(nats.js.errors.NotFoundError):
        await js.consumer_info("AGENT_REQUESTS", "dispatch")


async def test_the_buckets_are_what_clients_of_nats_take_for_buckets(js: JetStreamContext) -> None:
    await provision(js)
    bucket = await js.key_value("deliberations")
    revision = await bucket.put("t-1", b"1")
    assert (await bucket.get("t-1")).revision == revision
    store = await js.object_store("results")
    await store.put("t-1", b"words")
    assert (await store.get("t-1")).data == b"words"


# ── what differs ──────────────────────────────────────────────────────────────────────────────────────────────────


# What somebody set on a stream of ours: the change, and what a start says of it.
SET_BY_OTHERS = [
    ("DELIBERATIONS", {"max_msgs": 40}, "max_msgs is 40, declared -1"),
    ("DELIBERATIONS", {"max_bytes": 8192}, "max_bytes is 8192, declared -1"),
    ("DELIBERATIONS", {"max_age": 3600.0}, "max_age is 3600.0, declared 172800.0"),
    ("DELIBERATIONS", {"max_msg_size": 1000}, "max_msg_size is 1000, declared -1"),
    ("DELIBERATIONS", {"max_msgs_per_subject": 1}, "max_msgs_per_subject is 1, declared -1"),
    ("DELIBERATIONS", {"duplicate_window": 5.0}, "duplicate_window is 5.0, declared 3600.0"),
    ("REQUESTS", {"max_msgs": 40}, "max_msgs is 40, declared -1"),
    ("REQUESTS", {"max_bytes": 8192}, "max_bytes is 8192, declared"),
    ("REQUESTS", {"subjects": ["deliberation.requested"]}, "subjects is ['deliberation.requested']"),
    ("AGENT_RESPONSES", {"max_age": 600.0}, "max_age is 600.0, declared 172800.0"),
    ("AGENT_REQUESTS", {"max_msgs_per_subject": 7}, "max_msgs_per_subject is 7, declared -1"),
    ("DEAD_LETTERS", {"subjects": ["deadletter.agent.>"]}, "subjects is ['deadletter.agent.>']"),
    ("KV_deliberations", {"max_msgs_per_subject": 5}, "max_msgs_per_subject is 5, declared 1"),
    ("KV_deliberations", {"discard_new_per_subject": True}, "discard_new_per_subject is True, declared False"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "said"), SET_BY_OTHERS)
async def test_a_limit_that_others_set_stops_a_start_by_name_and_goes_when_that_is_asked_for(
    js: JetStreamContext, name: str, change: dict[str, Any], said: str
) -> None:
    await provision(js)
    config = (await js.stream_info(name)).config
    await js.update_stream(replace(config, **change))
    before = await live(js)
    for extent in (Extent.START, Extent.LOOK):
        with pytest.raises(TopologyMismatch, match="parley provision --apply") as caught:
            await provision(js, extent=extent)
        assert f"stream {name}: {said}" in caught.value.differences[0]
        assert await live(js) == before
    (changed,) = await provision(js, extent=Extent.ALL)
    assert changed.startswith(f"stream {name}: {next(iter(change))} ")
    assert await provision(js) == []


# What nats-server changes in no live stream.
FOR_GOOD = [
    ("AGENT_REQUESTS", {"retention": RetentionPolicy.LIMITS}, "retention is limits, declared workqueue"),
    ("DELIBERATIONS", {"storage": StorageType.MEMORY}, "storage is memory, declared file"),
    ("KV_deliberations", {"storage": StorageType.MEMORY}, "storage is memory, declared file"),
    ("REQUESTS", {"allow_msg_schedules": True, "allow_rollup_hdrs": True, "discard": DiscardPolicy.OLD},
     "allow_msg_schedules is True, declared False"),
    ("REQUESTS", {"allow_msg_ttl": True}, "allow_msg_ttl is True, declared False"),
    ("REQUESTS", {"deny_purge": True}, "deny_purge is True, declared False"),
    ("AGENT_RESPONSES", {"max_consumers": 1}, "max_consumers is 1, declared -1"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "said"), FOR_GOOD)
async def test_what_cannot_be_changed_is_refused_with_what_to_do(
    js: JetStreamContext, name: str, change: dict[str, Any], said: str
) -> None:
    declared = {stream.name: stream for stream in topology.streams()}
    await js.add_stream(replace(declared[name], **change))
    before = (await js.stream_info(name)).config
    for extent in (Extent.START, Extent.LOOK, Extent.ALL):
        with pytest.raises(TopologyMismatch) as caught:
            await provision(js, extent=extent)
        (line,) = (line for line in caught.value.differences if f"stream {name}: {said}" in line)
        assert f"`nats stream rm {name}`" in line
    assert (await js.stream_info(name)).config == before


# What an operator may choose, and what another setting or version of Parley leaves.
HARMLESS = [
    ("DELIBERATIONS", {"max_age": 0.0}), ("DELIBERATIONS", {"max_age": 1e7}), ("DELIBERATIONS", {"description": "ours"}),
    ("AGENT_RESPONSES", {"max_bytes": 2**20}),
    ("DEAD_LETTERS", {"duplicate_window": 60.0}), ("DEAD_LETTERS", {"max_msg_size": 8 * 2**20}),
    ("DELIBERATIONS", {"duplicate_window": 600.0}), ("AGENT_REQUESTS", {"deny_delete": True}),
    ("REQUESTS", {"metadata": {"owner": "us"}}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change"), HARMLESS)
async def test_what_does_no_harm_is_no_difference(
    js: JetStreamContext, name: str, change: dict[str, Any]
) -> None:
    await provision(js)
    config = (await js.stream_info(name)).config
    await js.update_stream(replace(config, **change))
    await assert_nothing_to_change(js)


async def test_more_room_than_declared_is_no_difference(js: JetStreamContext) -> None:
    await provision(js)
    config = (await js.stream_info("AGENT_RESPONSES")).config
    # A little more: how much the server has to promise is its disk's.
    await js.update_stream(replace(config, max_bytes=(config.max_bytes or 0) + 2**20))
    await assert_nothing_to_change(js)


async def assert_nothing_to_change(js: JetStreamContext) -> None:
    before = await live(js)
    for extent in (Extent.LOOK, Extent.START, Extent.ALL):
        assert await provision(js, extent=extent) == []
    assert await live(js) == before


# Parley's own, of another version: changed by a start.
OURS = [
    ("REQUESTS", {"max_bytes": -1, "discard": DiscardPolicy.OLD}),
    ("REQUESTS", {"allow_rollup_hdrs": True}),
    ("AGENT_REQUESTS", {"allow_direct": False}),
    ("DELIBERATIONS", {"duplicate_window": 7200.0}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change"), OURS)
async def test_what_an_earlier_version_left_is_changed_at_a_start(
    js: JetStreamContext, name: str, change: dict[str, Any]
) -> None:
    await provision(js)
    before = (await js.stream_info(name)).config
    await js.update_stream(replace(before, **change))
    assert await provision(js, extent=Extent.LOOK) == []  # a process that runs goes on
    assert len(await provision(js)) == len(change)
    assert (await js.stream_info(name)).config == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"filter_subject": "deliberation.cancel"}, "filter_subject is deliberation.cancel, declared deliberation.requested"),
        ({"ack_policy": AckPolicy.ALL}, "ack_policy is all, declared explicit"),
        ({"max_waiting": 2}, "max_waiting is 2, declared 512"),
        ({"replay_policy": ReplayPolicy.ORIGINAL}, "replay_policy is original, declared instant"),
        ({"mem_storage": True}, "mem_storage is True, declared None"),
    ],
)  # fmt: skip
async def test_a_consumer_that_cannot_be_changed_is_refused_with_what_to_do(
    js: JetStreamContext, change: dict[str, Any], said: str
) -> None:
    await provision(js)
    await js.delete_consumer("REQUESTS", "intake")
    await js.add_consumer("REQUESTS", replace(topology.consumer(topology.INTAKE), **change))
    for extent in (Extent.START, Extent.ALL):
        with pytest.raises(TopologyMismatch) as caught:
            await provision(js, extent=extent)
        (line,) = caught.value.differences
        assert (
            line
            == f"consumer REQUESTS/intake: {said} (`nats consumer rm REQUESTS intake`: a service makes it again)"
        )


async def test_a_consumer_that_is_paused_is_told_with_how_it_goes_on(js: JetStreamContext) -> None:
    await provision(js)
    await js.pause_consumer("REQUESTS", "intake", "2999-01-01T00:00:00Z")
    for extent in (Extent.LOOK, Extent.START, Extent.ALL):
        with pytest.raises(
            TopologyMismatch, match=r"pause_until is .*`nats consumer resume REQUESTS intake`"
        ) as caught:
            await provision(js, extent=extent)
        assert "--apply" not in str(caught.value)  # which changes nothing of it
    await js.resume_consumer("REQUESTS", "intake")
    assert await provision(js) == []


async def test_limits_for_the_consumers_of_a_stream_are_a_difference(js: JetStreamContext) -> None:
    declared = {stream.name: stream for stream in topology.streams()}
    limited = StreamConsumerLimits(max_ack_pending=1000)
    await js.add_stream(replace(declared["REQUESTS"], consumer_limits=limited))
    with pytest.raises(TopologyMismatch, match="stream REQUESTS: consumer_limits is"):
        await provision(js)
    await provision(js, extent=Extent.ALL)
    assert await provision(js) == []


async def test_a_consumer_that_the_server_refuses_is_one_line_that_names_it(tmp_path: Path) -> None:
    account = "accounts { A { jetstream: { max_file: 500MB, max_consumers: 1 }, users: [{ user: a, password: p }] } }"
    async with limited_server(tmp_path, "1GB", account) as url:
        nc = await connect(f"nats://a:p@{url.removeprefix('nats://')}", "test")
        with pytest.raises(
            TopologyMismatch, match=r"^consumer REQUESTS/cancel: refused by the server: .*consumers"
        ):
            await provision(nc.jetstream())
        await nc.close()


@pytest.mark.parametrize(
    "change",
    [
        {"max_deliver": 5},
        {"max_ack_pending": 10},
        {"headers_only": True},
        {"max_bytes": 1000},
        {"priority_policy": "overflow", "priority_groups": ["a"]},
    ],
)
async def test_a_limit_that_others_set_on_a_consumer_stops_a_start_and_goes_when_that_is_asked_for(
    js: JetStreamContext, change: dict[str, Any]
) -> None:
    await provision(js)
    before = await live(js)
    declared = WholeConsumerConfig(**vars(topology.consumer(topology.INTAKE)))
    await js.add_consumer("REQUESTS", replace(declared, **change))
    with pytest.raises(TopologyMismatch, match=f"consumer REQUESTS/intake: {next(iter(change))} is"):
        await provision(js)
    assert len(await provision(js, extent=Extent.ALL)) == len(change)
    assert await live(js) == before


async def test_every_difference_is_told_at_once(js: JetStreamContext) -> None:
    await provision(js)
    for name in ("AGENT_RESPONSES", "DEAD_LETTERS"):
        config = (await js.stream_info(name)).config
        await js.update_stream(replace(config, max_age=600.0))
    with pytest.raises(TopologyMismatch) as caught:
        await provision(js)
    told = [difference.partition(":")[0] for difference in caught.value.differences]
    assert told == ["stream AGENT_RESPONSES", "stream DEAD_LETTERS"]


# ── two settings ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_processes_of_two_settings_start_side_by_side_and_change_nothing_to_and_fro(
    js: JetStreamContext,
) -> None:
    one, other = Wanted(), Wanted(keep_seconds=600.0, ack_wait_seconds=60.0)
    await provision(js, one)
    changed = await provision(js, other)
    assert "stream DELIBERATIONS: duplicate_window 3600.0 → 600.0" in changed
    assert "consumer AGENT_REQUESTS/dispatch: ack_wait 30.0 → 60.0" in changed
    before = await live(js)
    for wanted in (one, other, one):
        assert await provision(js, wanted) == []
        assert await provision(js, wanted, extent=Extent.LOOK) == []
    assert await live(js) == before


async def test_a_shorter_ack_wait_is_said_and_made_when_that_is_asked_for(
    js: JetStreamContext, caplog: pytest.LogCaptureFixture
) -> None:
    await provision(js, Wanted(ack_wait_seconds=60.0))
    assert await provision(js, Wanted(ack_wait_seconds=20.0)) == []
    said = "consumer AGENT_REQUESTS/dispatch: ack_wait is 60.0, declared 20.0 (kept until `parley provision --apply`)"
    assert caplog.messages == [said]
    assert await review(js, Wanted(ack_wait_seconds=20.0)) == [said]
    changed = await provision(js, Wanted(ack_wait_seconds=20.0), extent=Extent.ALL)
    assert changed == ["consumer AGENT_REQUESTS/dispatch: ack_wait 60.0 → 20.0"]


async def test_too_many_replicas_are_one_line_that_names_the_setting(js: JetStreamContext) -> None:
    line = (
        "PARLEY_REPLICAS=3: this NATS is one server and keeps one copy; "
        "set PARLEY_REPLICAS=1, or use a cluster of at least 3"
    )
    with pytest.raises(TopologyMismatch) as caught:
        await provision(js, Wanted(replicas=3))
    assert str(caught.value) == line
    assert await stream_names(js) == set()
    await provision(js)
    with pytest.raises(TopologyMismatch) as caught:  # and where streams are already
        await provision(js, Wanted(replicas=3))
    assert caught.value.differences == (line,)


# A user as `parley serve` may be: it reads and makes consumers, and neither makes nor changes streams.
USERS = """
authorization { users: [
  { user: may, password: p },
  { user: not, password: p, permissions: { publish: { deny: ["$JS.API.STREAM.CREATE.>", "$JS.API.STREAM.UPDATE.>"] } } }
] }
"""


async def test_a_user_without_the_right_to_change_streams_starts_where_nothing_is_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with limited_server(tmp_path, "1GB", USERS) as url:
        address = url.removeprefix("nats://")
        may, may_not = [await connect(f"nats://{user}:p@{address}", "test") for user in ("may", "not")]
        restricted = may_not.jetstream(timeout=0.5)
        with pytest.raises(TopologyMismatch, match=r"^stream REQUESTS, .*: not made or changed"):
            await provision(restricted)
        await provision(may.jetstream())
        await may.jetstream().delete_consumer("REQUESTS", "intake")
        assert await provision(restricted) == ["consumer REQUESTS/intake"]
        assert await provision(restricted, Wanted(keep_seconds=600.0)) == []
        assert "parley provision --apply` as one that may" in caplog.messages[-1]
        for nc in (may, may_not):
            await nc.close()


@pytest.mark.parametrize("right", ["STREAM.INFO", "CONSUMER.INFO"])
async def test_a_user_that_may_not_look_is_told_which_right_it_lacks(tmp_path: Path, right: str) -> None:
    users = USERS.replace("STREAM.CREATE", right)
    async with limited_server(tmp_path, "1GB", users) as url:
        address = url.removeprefix("nats://")
        may, may_not = [await connect(f"nats://{user}:p@{address}", "test") for user in ("may", "not")]
        await provision(may.jetstream())
        for look in (provision(may_not.jetstream()), review(may_not.jetstream(), Wanted())):
            with pytest.raises(
                TopologyMismatch, match=rf"no right to publish to \$JS\.API\.{right}\.REQUESTS"
            ):
                await look
        for nc in (may, may_not):
            await nc.close()


# ── from 0.1.0 ────────────────────────────────────────────────────────────────────────────────────────────────────


async def old_streams(js: JetStreamContext) -> None:
    """As 0.1.0 made them: requests in DELIBERATIONS, no limits, and nothing discards what is new but the buckets."""
    for stream in topology.streams():
        if stream.name == topology.REQUESTS:
            continue
        bucket = stream.name in (topology.TALLIES, topology.RESULTS)
        discard = DiscardPolicy.NEW if bucket else DiscardPolicy.OLD
        config = replace(stream, discard=discard, max_bytes=-1)
        if stream.name == topology.DELIBERATIONS:
            config.subjects = [topology.REQUESTED, topology.CANCEL, *(stream.subjects or ())]
        await js.add_stream(config)
    old = (
        topology.OLD_INTAKE,
        topology.OLD_CANCELLER,
        topology.EXPIRY,
        topology.DISPATCH,
        topology.AGGREGATE,
    )
    for durable in old:
        await js.add_consumer(durable.stream, topology.consumer(durable))


async def test_the_streams_of_0_1_0_become_those_of_this_version_and_keep_what_they_hold(
    js: JetStreamContext,
) -> None:
    await old_streams(js)
    waiting = [(await js.publish(topology.REQUESTED, b"{}")).seq for _ in range(3)]
    await js.publish(topology.CANCEL, b"{}")
    missing = ["stream REQUESTS", "consumer REQUESTS/intake", "consumer REQUESTS/cancel"]
    assert await provision(js, extent=Extent.LOOK) == missing
    changed = await provision(js)
    assert any(line.startswith("stream DELIBERATIONS: subjects ") for line in changed)
    assert set(missing) <= set(changed)
    assert await provision(js) == []
    # No name d-<number> is given twice.
    assert (await js.publish(topology.REQUESTED, b"{}")).seq > waiting[-1]
    left = await js.consumer_info(topology.DELIBERATIONS, topology.OLD_INTAKE.name)
    assert left.num_pending == len(waiting)
    for name, limit in (await limits(js)).items():
        assert (limit > 0) == (name in topology.SHARES)


class Busy:
    """A context on which requests are stored until the last moment before a stream is changed."""

    def __init__(self, js: JetStreamContext) -> None:
        self._js = js
        self.stored: list[int] = []

    async def update_stream(self, config: StreamConfig) -> Any:
        if config.name == topology.DELIBERATIONS:
            self.stored += [(await self._js.publish(topology.REQUESTED, b"{}")).seq for _ in range(5)]
        return await self._js.update_stream(config)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._js, name)


async def test_no_name_is_given_twice_where_requests_come_while_the_streams_are_changed(
    js: JetStreamContext,
) -> None:
    await old_streams(js)
    busy = Busy(js)
    await provision(busy)  # type: ignore[arg-type]  # a double
    assert (await js.publish(topology.REQUESTED, b"{}")).seq > busy.stored[-1]


# ── storage ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def limits(js: JetStreamContext) -> dict[str, int]:
    return {str(info.config.name): info.config.max_bytes or -1 for info in await js.streams_info()}


@pytest.mark.parametrize(
    ("promised", "budget"), [("10GB", 8 * 2**30), ("100MB", 64 * 2**20), ("4718592", 4 * 2**20)]
)
async def test_streams_share_what_the_server_promises_and_leave_a_quarter_to_timers_and_endings(
    tmp_path: Path, promised: str, budget: int
) -> None:
    async with limited_nats(tmp_path, promised) as js:
        await provision(js)
        found = await limits(js)
        assert (found.pop("DELIBERATIONS"), found.pop("SUSPECTS")) == (-1, -1)
        assert PROBE not in found
        assert found == {name: int(budget * share) for name, share in topology.SHARES.items()}
        assert sum(found.values()) == budget * 3 // 4
        assert await provision(js) == []


def account(limits: str) -> str:
    return f"accounts {{ A {{ jetstream: {{ {limits} }}, users: [{{ user: a, password: p }}] }} }}"


async def test_the_limits_of_an_account_are_kept_to(tmp_path: Path) -> None:
    async with limited_server(tmp_path, "10GB", account("max_file: 100MB")) as url:
        nc = await connect(f"nats://a:p@{url.removeprefix('nats://')}", "test")
        await provision(nc.jetstream())
        found = await limits(nc.jetstream())
        assert sum(limit for limit in found.values() if limit > 0) == 48 * 2**20  # three quarters of 64 MiB
        await nc.close()


async def test_an_account_that_wants_a_limit_on_each_stream_is_told_why_one_has_none(tmp_path: Path) -> None:
    more = account("max_file: 1GB, max_bytes_required: true")
    async with limited_server(tmp_path, "10GB", more) as url:
        nc = await connect(f"nats://a:p@{url.removeprefix('nats://')}", "test")
        with pytest.raises(
            TopologyMismatch,
            match=r"stream DELIBERATIONS, SUSPECTS: .* max bytes .*; switch max_bytes_required off",
        ):
            await provision(nc.jetstream())
        await nc.close()


async def test_a_set_budget_is_kept_to(js: JetStreamContext) -> None:
    await provision(js, Wanted(storage_bytes=64 * 2**20))
    assert (await limits(js))["AGENT_RESPONSES"] == 8 * 2**20
    assert await provision(js, Wanted(storage_bytes=32 * 2**20)) == []
    changed = await provision(js, Wanted(storage_bytes=32 * 2**20), extent=Extent.ALL)
    assert len(changed) == len(topology.SHARES)
    assert (await limits(js))["AGENT_RESPONSES"] == 4 * 2**20


async def test_a_set_budget_that_the_server_does_not_promise_is_refused_by_name(tmp_path: Path) -> None:
    async with limited_nats(tmp_path, "10MB") as js:
        with pytest.raises(TopologyMismatch, match="lower PARLEY_STORAGE_BYTES"):
            await provision(js, Wanted(storage_bytes=2**30))


async def test_a_server_without_room_is_refused_by_name(tmp_path: Path) -> None:
    async with limited_nats(tmp_path, "100KB") as js:
        with pytest.raises(
            TopologyMismatch, match="storage for the streams: refused by the server: insufficient"
        ):
            await provision(js)


async def test_no_limit_is_set_below_what_is_stored(tmp_path: Path) -> None:
    async with limited_nats(tmp_path, "40MB") as js:
        await provision(js)
        config = (await js.stream_info("AGENT_RESPONSES")).config
        await js.update_stream(replace(config, max_bytes=-1, discard=DiscardPolicy.OLD))
        for _ in range(20):
            await js.publish("agent.response.completed", b"x" * 300_000)
        stored = (await js.stream_info("AGENT_RESPONSES")).state
        await provision(js)
        after = await js.stream_info("AGENT_RESPONSES")
        assert (after.config.max_bytes or 0) >= 2 * stored.bytes
        assert after.state.messages == stored.messages


async def test_a_stream_without_a_limit_stays_so_where_the_server_has_promised_all(tmp_path: Path) -> None:
    async with limited_nats(tmp_path, "40MB") as js:
        await provision(js)
        config = (await js.stream_info("AGENT_RESPONSES")).config
        await js.update_stream(replace(config, max_bytes=-1, discard=DiscardPolicy.OLD))
        await promise_the_rest(js)
        assert await provision(js) == ["stream AGENT_RESPONSES: discard old → new"]


async def promise_the_rest(js: JetStreamContext) -> None:
    """Let the server promise to others what it has left, to the megabyte. What that is can't be added up from outside:
    a store that it could not make and made again may count for less."""
    for number in range(64):
        name = f"THEIRS_{number}"
        try:
            await js.add_stream(StreamConfig(name=name, subjects=[name], max_bytes=2**20))
        except nats.js.errors.APIError as error:
            if error.err_code not in NO_STORAGE:
                raise
            return
    raise AssertionError("the server promises more than it has")


# ── what vanished ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_numbers_of_a_stream_that_was_lost_are_not_used_again(js: JetStreamContext) -> None:
    await provision(js)
    for _ in range(3):
        last = (await js.publish("deliberation.requested", b"{}")).seq
        await js.publish("deliberation.completed", b"{}")
    await js.delete_stream("REQUESTS")
    assert await provision(js, extent=Extent.MISSING) == [
        "stream REQUESTS", "consumer REQUESTS/intake", "consumer REQUESTS/cancel"
    ]  # fmt: skip
    assert (await js.publish("deliberation.requested", b"{}")).seq > last


async def test_two_that_start_together_each_take_the_consumer_that_the_other_made(
    js: JetStreamContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages came between their looks: one would begin at the start of the stream, the other a day ago."""
    await provision(js, Wanted())
    await js.delete_consumer(topology.INTAKE.stream, topology.INTAKE.name)
    await js.publish(topology.REQUESTED, b"{}")
    resumed = provision_module._resumed

    async def after_the_other(js: JetStreamContext, durable: topology.Durable, config: Any) -> Any:
        if durable == topology.INTAKE:
            await js.add_consumer(durable.stream, config, name=durable.name)
        return await resumed(js, durable, config)

    monkeypatch.setattr(provision_module, "_resumed", after_the_other)
    assert await provision(js, Wanted()) == []
    info = await js.consumer_info(topology.INTAKE.stream, topology.INTAKE.name)
    assert info.num_pending == 1


async def test_a_consumer_that_was_lost_goes_on_where_a_deadline_may_be_open(
    js: JetStreamContext, empty_nats: EmbeddedNats
) -> None:
    settings = Wanted(keep_seconds=1.0)
    await provision(js, settings)
    nc = await connect(empty_nats.url, "client")
    wire = JetStream(nc)
    request = (await wire.publish("deliberation.requested", b"{}")).seq
    work = (await wire.publish("agent.requested", b"work")).seq
    published = time.time()
    await until(lambda: time.time() > published + 1.1, "it is older than a tally is kept")
    lost = (("REQUESTS", "intake"), ("AGENT_REQUESTS", "dispatch"))
    for stream, name in lost:
        await js.delete_consumer(stream, name)
    made = ["consumer REQUESTS/intake", "consumer AGENT_REQUESTS/dispatch"]
    assert await provision(js, settings) == made
    assert await provision(js, settings) == []
    begins = (await js.consumer_info("REQUESTS", "intake")).config.opt_start_time
    assert begins is not None
    assert timedelta(days=1) < datetime.now(UTC) - begins < timedelta(days=1, hours=2)
    for (stream, name), seq in zip(lost, (request, work), strict=True):
        pull = await nc.jetstream().pull_subscribe_bind(name, stream)
        assert [msg.metadata.sequence.stream for msg in await pull.fetch(1, timeout=5)] == [seq]
    await nc.close()


async def test_a_message_is_always_delivered_again(js: JetStreamContext, empty_nats: EmbeddedNats) -> None:
    await provision(js)
    nc = await connect(empty_nats.url, "worker")
    await JetStream(nc).publish("agent.requested", b"poison")
    pull = await nc.jetstream().pull_subscribe_bind("dispatch", "AGENT_REQUESTS")
    for count in range(1, 31):
        (msg,) = await pull.fetch(1, timeout=5)
        assert msg.metadata.num_delivered == count
        await msg.nak()
    await nc.close()
