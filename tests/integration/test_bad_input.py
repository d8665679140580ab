"""Invalid messages: the sender gets an ending, the message becomes a dead letter, and the service goes on."""

import json
from typing import Any

import pytest
from nats.aio.msg import Msg

from parley.broker.jetstream import topology
from tests.harness import Running, fresh, until

HOSTILE_NAMES = [
    "a.b",
    ">",
    "*",
    "../x",
    "",
    " ",
    "x" * 5_000,
    "naïve",
    "a\nb",
    "$KV",
    17,
    None,
    ["a"],
    {"a": 1},
]


async def dead_letter_of(on: Running, seq: int) -> Msg:
    async def found() -> list[Msg]:
        letters = await on.all_of("deadletter.>", topology.DEAD_LETTERS)
        return [msg for msg in letters if (msg.headers or {}).get("Parley-Sequence") == str(seq)]

    letters = await until(found, f"message {seq} is in DEAD_LETTERS")
    assert len(letters) == 1
    return letters[0]


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=lambda name: repr(name)[:20])
async def test_a_hostile_task_id_names_nothing(local_service: Running, model: object, name: Any) -> None:
    seq = await local_service.publish({"task_id": name, "task_description": "x"})
    ending = await local_service.ending_of(f"d-{seq}")
    if name is None:  # null is as good as none
        assert ending["status"] == "completed"
        return
    assert ending["status"] == "rejected"
    assert "task_id" in ending["error"]
    await dead_letter_of(local_service, seq)


async def test_a_bad_request_is_rejected_under_a_usable_name(local_service: Running, model: object) -> None:
    task_id = fresh()
    await local_service.publish({"task_id": task_id, "num_agents": 0})
    ending = await local_service.ending_of(task_id)
    assert ending["status"] == "rejected"
    assert "num_agents" in ending["error"]
    assert "task_description" in ending["error"]
    assert (await local_service.client.status(task_id)).status == "FAILED"


@pytest.mark.parametrize(
    "inbox",
    ["deliberation.requested", "agent.response.completed", "_INBOX.>", "_INBOX.*", "_INBOX. x", "$JS.API.x"],
)
async def test_an_ending_goes_only_to_an_inbox(local_service: Running, model: object, inbox: str) -> None:
    seq = await local_service.publish({"task_description": "x"}, headers={"Parley-Reply-To": inbox})
    ending = await local_service.ending_of(f"d-{seq}")
    assert ending["status"] == "rejected"
    assert "Parley-Reply-To" in ending["error"]


@pytest.mark.parametrize(
    "subject",
    [
        topology.CANCEL,
        "deliberation.deadline.x",
        topology.AGENT_REQUESTED,
        topology.AGENT_COMPLETED,
        topology.AGENT_FAILED,
    ],
)
@pytest.mark.parametrize("body", [b"", b"{}", b"\x00\xff", b'{"task_id": "../x"}', b"[" * 3_000])
async def test_junk_on_every_consumed_subject_is_dead_lettered_and_the_service_goes_on(
    local_service: Running, model: object, subject: str, body: bytes
) -> None:
    seq = (await local_service.wire.publish(subject, body)).seq

    async def found() -> list[Msg]:
        letters = await local_service.all_of(f"deadletter.{subject}", topology.DEAD_LETTERS)
        return [msg for msg in letters if (msg.headers or {}).get("Parley-Sequence") == str(seq)]

    (letter,) = await until(found, f"junk on {subject} is dead-lettered")
    assert letter.data == body
    assert (await local_service.client.deliberate("still there?")).status == "completed"


@pytest.mark.parametrize("body", [b"", b"junk", b'{"task_id": ">"}'])
async def test_a_question_that_cannot_be_read_is_answered(local_service: Running, body: bytes) -> None:
    answer = await local_service.nats.request(topology.GET, body, timeout=5)
    status = json.loads(answer.data)
    assert status["status"] == "UNKNOWN"
    assert status["error_message"]


async def test_junk_broadcast_to_the_workers_is_ignored(local_service: Running, model: object) -> None:
    for body in (b"", b"junk", b'{"task_id": 5}'):
        await local_service.nats.publish(topology.AGENT_CANCEL, body)
    assert (await local_service.client.deliberate("x")).status == "completed"


async def test_the_largest_payload_is_kept_beside_its_letter(local_service: Running, model: object) -> None:
    body = b"x" * local_service.wire.max_payload
    ack = await local_service.nats.jetstream().publish(topology.REQUESTED, body)
    ending = await local_service.ending_of(f"d-{ack.seq}")
    assert ending["status"] == "rejected"
    letter = await dead_letter_of(local_service, ack.seq)
    headers = letter.headers or {}
    store = await local_service.nats.jetstream().object_store(headers["Parley-Payload-Bucket"])
    assert (await store.get(headers["Parley-Payload-Name"])).data == body
