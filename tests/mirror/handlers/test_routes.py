"""Which subject leads to which handler, and whether the document that is made of it says so."""

import asyncio
import json
from typing import Any

import pytest
from faststream.nats import NatsBroker
from faststream.specification import AsyncAPI
from nats.aio.msg import Msg

from parley.broker.core.messages import AgentCancel, DeliberationGet
from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import connect_options
from parley.broker.jetstream.topology import DURABLES
from parley.handlers.delivery import Delivery
from parley.handlers.faststream_private import ServiceBroker
from parley.handlers.pull import HandleBatch, PullSubscriber
from parley.handlers.routes import Handlers, Part, declare, declare_all
from tests.harness import until
from tests.mirror.handlers import Bench

# Every subject of the contract that somebody sends or receives. `deliberation.timer.<task_id>` is between us and the
# scheduler, `deadletter.>` is for people with the nats CLI.
RECEIVED = {
    "deliberation.requested", "deliberation.cancel", "deliberation.deadline.*", "deliberation.get", "deliberation.service",
    "agent.requested", "agent.response.*", "agent.cancel",
}  # fmt: skip
SENT = {
    "deliberation.completed", "deliberation.failed", "agent.requested", "agent.response.completed",
    "agent.response.failed", "agent.cancel",
}  # fmt: skip


def listeners(heard: list[tuple[str, str]]) -> Handlers:
    """Every handler notes what comes to it, and acknowledges or answers."""

    def listener(name: str) -> HandleBatch:
        async def handle(deliveries: list[Delivery[Any]]) -> None:
            for delivery in deliveries:
                heard.append((name, delivery.msg.subject))
                await delivery.ack()

        return handle

    def drop(body: bytes) -> None:
        heard.append(("drop", body.decode()))

    async def query(question: Msg) -> None:
        heard.append(("query", question.data.decode()))
        await question.respond(question.data)

    async def describe(question: Msg) -> None:
        heard.append(("describe", question.data.decode()))
        await question.respond(question.data)

    names = ("intake", "dispatch", "aggregate", "expire", "cancel")
    return Handlers(**{name: listener(name) for name in names}, drop=drop, query=query, describe=describe)


def document() -> dict[str, Any]:
    broker = NatsBroker(apply_types=False, logger=None)
    declare_all(broker)
    specification = AsyncAPI(broker, title="t", version="1", schema_version="3.0.0").to_specification()
    found: dict[str, Any] = json.loads(specification.to_json())
    return found


def addresses(document: dict[str, Any], action: str) -> set[str]:
    """The addresses of every channel somebody receives from or sends to."""
    channels = {
        operation["channel"]["$ref"].removeprefix("#/channels/").replace("~1", "/")
        for operation in document["operations"].values()
        if operation["action"] == action
    }
    return {document["channels"][channel]["address"] for channel in channels}


async def start(broker: NatsBroker) -> None:
    """Start it and wait until the server knows of its subscriptions."""
    await broker.start()
    await (await broker.connect()).flush()


# ── on the wire ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_each_message_comes_to_its_handler(bench: Bench) -> None:
    heard: list[tuple[str, str]] = []
    broker = ServiceBroker(
        **connect_options(bench.url, "routes"), apply_types=False, logger=None, graceful_timeout=5
    )
    declare(broker, listeners(heard), slots=4)
    await start(broker)
    try:
        subjects = {
            "intake": topology.REQUESTED,
            "cancel": topology.CANCEL,
            "expire": topology.deadline_subject("t-1"),
            "dispatch": topology.AGENT_REQUESTED,
        }
        for subject in (*subjects.values(), topology.AGENT_COMPLETED, topology.AGENT_FAILED):
            await bench.publish(subject, {})
        await bench.publish(topology.COMPLETED, {})  # ours to send, not to receive
        wanted = {
            *subjects.items(),
            ("aggregate", topology.AGENT_COMPLETED),
            ("aggregate", topology.AGENT_FAILED),
        }
        await until(lambda: set(heard) >= wanted, "every handler has heard")
        assert sorted(heard) == sorted(wanted)
        await asyncio.gather(*map(bench.settled, DURABLES))
    finally:
        await broker.stop()


async def test_a_question_is_answered_and_a_broadcast_is_heard(bench: Bench) -> None:
    heard: list[tuple[str, str]] = []
    broker = ServiceBroker(
        **connect_options(bench.url, "routes"), apply_types=False, logger=None, graceful_timeout=5
    )
    declare(broker, listeners(heard))
    await start(broker)
    try:
        question = DeliberationGet(task_id="t-1").encode()
        answer = await bench.nc.request(topology.GET, question, timeout=5)
        assert answer.data == question
        cancel = AgentCancel(task_id="t-1", reason="x").encode()
        # FastStream would answer a broadcast that names a subject, with the service's rights.
        before = await bench.all_of(topology.DELIBERATIONS, topology.COMPLETED)
        await bench.nc.publish(topology.AGENT_CANCEL, cancel, reply=topology.COMPLETED)
        await until(lambda: ("drop", cancel.decode()) in heard, "dispatch has heard of the cancel")
        await (await broker.connect()).flush()
        assert await bench.all_of(topology.DELIBERATIONS, topology.COMPLETED) == before == []
    finally:
        await broker.stop()


async def test_of_several_replicas_one_answers_and_all_hear_a_broadcast(bench: Bench) -> None:
    heard: list[list[tuple[str, str]]] = [[], [], []]
    brokers = []
    for mine in heard:
        broker = ServiceBroker(
            **connect_options(bench.url, "routes"), apply_types=False, logger=None, graceful_timeout=5
        )
        declare(broker, listeners(mine))
        await start(broker)
        brokers.append(broker)
    try:
        for _ in range(10):
            await bench.nc.request(topology.GET, DeliberationGet(task_id="t-1").encode(), timeout=5)
        await bench.nc.publish(topology.AGENT_CANCEL, AgentCancel(task_id="t-1").encode())
        await until(
            lambda: all(("drop" in dict(mine)) for mine in heard), "every replica has heard of the cancel"
        )
        assert sum(name == "query" for mine in heard for name, _ in mine) == 10
    finally:
        for broker in brokers:
            await broker.stop()


# ── what is declared ──────────────────────────────────────────────────────────────────────────────────────────────


def subscribers(handlers: Handlers, slots: int = 1) -> dict[str, PullSubscriber]:
    broker = NatsBroker(apply_types=False, logger=None)
    return {subscriber.durable.name: subscriber for subscriber in declare(broker, handlers, slots=slots)}


def test_every_consumer_that_is_provisioned_has_a_subscriber() -> None:
    assert set(subscribers(listeners([]))) == {durable.name for durable in DURABLES}


@pytest.mark.parametrize(
    ("part", "consumers"),
    [
        ("intake", {"intake"}),
        ("dispatch", {"dispatch"}),
        ("aggregate", {"aggregate"}),
        ("expire", {"expire"}),
        ("cancel", {"cancel"}),
        ("query", set()),
    ],
)
def test_a_handler_that_does_not_run_here_takes_no_messages(part: str, consumers: set[str]) -> None:
    whole = listeners([])
    alone = Handlers(**{part: getattr(whole, part)})
    assert set(subscribers(alone)) == consumers
    assert subscribers(Handlers()) == {}


def test_no_more_work_is_in_hand_than_the_pool_has_slots() -> None:
    assert subscribers(listeners([]), slots=12)["dispatch"].window.limit == 12


def test_the_parts_have_the_names_of_the_command_line() -> None:
    assert [str(part) for part in Part] == ["intake", "dispatch", "aggregate", "query"]


# ── the document ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_document_lists_every_subject() -> None:
    described = document()
    assert addresses(described, "receive") == RECEIVED
    assert addresses(described, "send") == SENT


def test_the_document_knows_every_payload_by_its_schema() -> None:
    schemas = set(document()["components"]["schemas"])
    assert schemas >= {
        "DeliberationRequested", "DeliberationCancel", "DeliberationDeadline", "DeliberationGet", "DeliberationCompleted",
        "DeliberationFailed", "AgentRequested", "AgentCompleted", "AgentFailed", "AgentCancel",
    }  # fmt: skip


def test_an_outcome_is_documented_as_one_of_two_messages() -> None:
    payload = document()["components"]["schemas"]["agent.response:Message:Payload"]
    kinds = {option["$ref"].rpartition("/")[2] for option in payload["anyOf"]}
    assert kinds == {"AgentCompleted", "AgentFailed"}


def test_every_channel_says_what_it_is_for() -> None:
    described = document()
    # A `/` in a name breaks the references of the document (faststream#1780).
    assert not [name for name in described["channels"] if "/" in name]
    received = [
        described["channels"][operation["channel"]["$ref"].removeprefix("#/channels/")]
        for operation in described["operations"].values()
        if operation["action"] == "receive"
    ]
    assert all(channel.get("description") for channel in received)
