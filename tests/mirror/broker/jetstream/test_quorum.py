"""A cluster that cannot decide is called that: by a publish, by a look at the streams, by the first look at a server."""

import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from nats.js.errors import APIError

from parley.broker.core.errors import BrokerUnavailable, NoQuorum, TopologyRefused
from parley.broker.jetstream.connection import check_server, close, connect, unavailable
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.provision import Extent, Wanted, provision
from parley.broker.jetstream.quorum import could_store, leaderless
from parley.broker.jetstream.store_health import StoreHealth
from tests.faults.cluster import SERVERS, Cluster, cluster
from tests.harness import until

UP, AWAY = {"offline": False}, {"offline": True}


@pytest.mark.parametrize(
    ("info", "lacks"),
    [
        (None, None),
        ({}, None),
        ({"name": "c", "leader": "n0"}, None),
        ({"name": "c", "leader": "n0", "replicas": [UP, UP]}, None),
        ({"name": "c", "leader": "n0", "replicas": [UP, AWAY]}, None),
        ({"name": "c", "leader": "n0", "replicas": [AWAY, AWAY]}, "2 of the 3 servers of stream S are away"),
        ({"name": "c", "leader": "n0", "replicas": [AWAY]}, "1 of the 2 servers of stream S are away"),
        ({"name": "c", "leader": "n0", "replicas": [UP, UP, AWAY, AWAY]}, None),
        ({"name": "c", "replicas": [UP, UP]}, "stream S has no leader"),
        ({"name": "c", "leader": ""}, "stream S has no leader"),
    ],
    ids=str,
)
def test_a_stream_needs_a_leader_and_most_of_its_servers(info: Any, lacks: str | None) -> None:
    assert leaderless("S", info) == lacks


NOW = "2026-11-27T03:28:20.673714025Z"
LONG_AGO, JUST_NOW = (
    {"leader": "n0", "leader_since": "2026-11-27T03:00:00Z"},
    {"leader_since": "2026-11-27T03:28:19.5Z"},
)
HEARD, UNHEARD = {"active": 900_000_000}, {"active": 1_600_000_000}


@pytest.mark.parametrize(
    ("cluster", "could"),
    [
        (None, True),
        (LONG_AGO, True),
        ({**LONG_AGO, "replicas": [HEARD, HEARD]}, True),
        ({**LONG_AGO, "replicas": [HEARD, UNHEARD]}, True),
        ({**LONG_AGO, "replicas": [UNHEARD, UNHEARD]}, False),
        ({**LONG_AGO, "replicas": [UNHEARD]}, False),
        ({**LONG_AGO, "replicas": [HEARD, HEARD, UNHEARD, UNHEARD]}, True),
        ({**JUST_NOW, "replicas": [HEARD, HEARD]}, False),
        ({"replicas": [HEARD, HEARD]}, False),
        ({**LONG_AGO, "replicas": [{}]}, False),
    ],
    ids=str,
)
def test_a_silence_means_a_full_store_only_where_a_write_had_all_it_needs(cluster: Any, could: bool) -> None:
    assert could_store({"cluster": cluster, "ts": NOW}, 1.5) is could


@pytest.mark.parametrize("code", [10008, 10009, 10118])
def test_a_refusal_for_want_of_a_leader_is_no_quorum(code: int) -> None:
    error = unavailable("nats://x", APIError(code=503, err_code=code, description="temporarily unavailable"))
    assert isinstance(error, NoQuorum)
    assert "start the servers of the cluster that are down" in str(error)
    assert "Is it running" not in str(error)


def test_another_refusal_is_none() -> None:
    assert not isinstance(unavailable("nats://x", APIError(code=400, err_code=10003)), NoQuorum)


async def test_a_message_that_the_replicas_are_still_storing_is_to_be_sent_again(
    wire: JetStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise APIError(code=409, err_code=10158, description="duplicate message id is in process")

    monkeypatch.setattr(wire.js, "publish", refuse)
    with pytest.raises(BrokerUnavailable, match="duplicate message id is in process"):
        await wire.publish("agent.response.completed", b"{}", msg_id="1")


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with cluster(tmp_path) as running:
        yield running


async def test_two_of_three_servers_gone_is_said_as_no_quorum(servers: Cluster) -> None:
    first = await connect(servers.url(), "test")
    await provision(first.jetstream(), Wanted(replicas=3))
    await close(first)
    left = SERVERS[0]
    for number in SERVERS[1:]:
        servers.servers[number].freeze()
    nc = await connect(servers.url(left), "test")
    jetstream = JetStream(nc)
    try:

        async def lacks() -> str | None:
            return await jetstream.quorum.problem("REQUESTS")

        assert await until(lacks, "it is known", 20.0)
        with pytest.raises(NoQuorum, match=r"has no quorum: (stream REQUESTS|its JetStream|2 of the 3)"):
            await jetstream.publish("deliberation.requested", b"{}", seconds=1.0)
        assert jetstream.health.refusal(["REQUESTS"]) is None  # it is not full

        async def refused() -> bool:
            with suppress(NoQuorum):
                return not await check_server(nc, servers.url(left))
            return True

        # The leader of JetStream itself, where it is the one left, gives up some seconds later.
        await until(refused, "the server is known to be without a quorum", 20.0)
        with pytest.raises(TopologyRefused, match="NATS has no quorum"):
            await provision(nc.jetstream(), Wanted(replicas=3), extent=Extent.LOOK)
    finally:
        await close(nc)
        for number in SERVERS[1:]:
            servers.servers[number].thaw()


def test_of_several_servers_one_silence_is_not_yet_a_full_store() -> None:
    health = StoreHealth()
    began = time.monotonic() - 2.0
    assert not health.is_silent_again("S", began)
    assert not health.is_silent_again("S", began + 1.0)  # as the first, it had begun before that was known
    assert health.is_silent_again("S", time.monotonic())
    health.stored("S")
    assert not health.is_silent_again("S", time.monotonic() - 1.0)
