"""What cannot be used: its sender hears back, the message is kept whole, the service does not move."""

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
BAD_REQUESTS: dict[str, tuple[Any, str]] = {
    "not JSON": (b"{nope", "payload"),
    "nothing": (b"", "payload"),
    "not UTF-8": (b'{"task_description": "\xff\xfe"}', "payload"),
    "a list": (b"[1, 2]", "payload"),
    "deeply nested": (b'{"task_description": ' + b"[" * 5_000 + b"]" * 5_000 + b"}", "payload"),
    "no description": ({}, "task_description"),
    "an empty description": ({"task_description": ""}, "task_description"),
    "a description that is no text": ({"task_description": 5}, "task_description"),
    "a prompt of 900 KB": ({"task_description": "x" * 900_000}, "task_description"),
    "no agents": ({"task_description": "x", "num_agents": 0}, "num_agents"),
    "ten thousand agents": ({"task_description": "x", "num_agents": 10_000}, "num_agents"),
    "agents as text": ({"task_description": "x", "num_agents": "3"}, "num_agents"),
    "agents as a truth value": ({"task_description": "x", "num_agents": True}, "num_agents"),
    "a quorum out of reach": (
        {"task_description": "x", "num_agents": 2, "min_responses": 3},
        "min_responses",
    ),
    "two rounds": ({"task_description": "x", "rounds": 2}, "rounds"),
    "a negative timeout": ({"task_description": "x", "timeout_seconds": -1}, "timeout_seconds"),
    "an endless timeout": (b'{"task_description": "x", "timeout_seconds": Infinity}', "timeout_seconds"),
    "a timeout of no number": (b'{"task_description": "x", "timeout_seconds": NaN}', "timeout_seconds"),
    "a role of markup": ({"task_description": "x", "role": "<script>"}, "role"),
    "too much metadata": ({"task_description": "x", "metadata": {"k": "v" * 20_000}}, "metadata"),
    "metadata that is no text": ({"task_description": "x", "metadata": {"k": 1}}, "metadata"),
    "too many constraints": (
        {"task_description": "x", "constraints": {"rubric": "r" * 70_000}},
        "constraints",
    ),
    "an impossible temperature": ({"task_description": "x", "temperature": 9}, "temperature"),
}


def encoded(payload: Any) -> bytes:
    return payload if isinstance(payload, bytes) else json.dumps(payload).encode()


async def dead_letter_of(on: Running, seq: int) -> Msg:
    async def found() -> list[Msg]:
        letters = await on.all_of("deadletter.>", topology.DEAD_LETTERS)
        return [msg for msg in letters if (msg.headers or {}).get("Parley-Sequence") == str(seq)]

    letters = await until(found, f"message {seq} is in DEAD_LETTERS")
    assert len(letters) == 1
    return letters[0]


@pytest.mark.parametrize("what", BAD_REQUESTS)
async def test_a_bad_request_is_rejected_by_field_and_kept_whole(
    local_service: Running, model: object, what: str
) -> None:
    payload, field = BAD_REQUESTS[what]
    body = encoded(payload)
    seq = await local_service.publish(body)
    ending = await local_service.ending_of(f"d-{seq}")
    assert ending["status"] == "rejected"
    assert field in ending["error"]
    assert len(ending["error"]) < 2_000
    letter = await dead_letter_of(local_service, seq)
    assert letter.subject == "deadletter.deliberation.requested"
    assert letter.data == body
    assert field in (letter.headers or {})["Parley-Reason"]


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=lambda name: repr(name)[:20])
async def test_a_hostile_task_id_never_names_anything(
    local_service: Running, model: object, name: Any
) -> None:
    seq = await local_service.publish({"task_id": name, "task_description": "x"})
    ending = await local_service.ending_of(f"d-{seq}")
    if name is None:  # null is as good as none
        assert ending["status"] == "completed"
        return
    assert ending["status"] == "rejected"
    assert "task_id" in ending["error"]
    await dead_letter_of(local_service, seq)


async def test_a_bad_request_with_a_usable_task_id_is_rejected_under_it(
    local_service: Running, model: object
) -> None:
    task_id = fresh()
    await local_service.publish({"task_id": task_id, "num_agents": 0})
    ending = await local_service.ending_of(task_id)
    assert ending["status"] == "rejected"
    assert "num_agents" in ending["error"]
    assert "task_description" in ending["error"]
    assert (await local_service.client.status(task_id)).status == "FAILED"


async def test_a_bad_request_cannot_end_a_running_deliberation_of_the_same_name(
    local_service: Running, model: Any
) -> None:
    await model.behave(faults={"hang": 1.0})
    submitted = await local_service.client.submit("x", task_id=fresh(), timeout_seconds=60)

    async def known() -> bool:
        return (await local_service.client.status(submitted.task_id)).status != "UNKNOWN"

    await until(known, "the deliberation is recorded")
    seq = await local_service.publish({"task_id": submitted.task_id, "num_agents": 0})
    await dead_letter_of(local_service, seq)
    assert await local_service.endings_of(submitted.task_id) == []
    await local_service.client.cancel(submitted.task_id)
    ending = await local_service.client.ending(submitted)
    assert ending.status == "cancelled"


@pytest.mark.parametrize(
    "inbox",
    ["deliberation.requested", "agent.response.completed", "_INBOX.>", "_INBOX.*", "_INBOX. x", "$JS.API.x"],
)
async def test_an_ending_is_never_sent_to_a_subject_that_is_no_inbox(
    local_service: Running, model: object, inbox: str
) -> None:
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


async def test_a_payload_of_the_last_possible_byte_is_kept_whole_beside_its_dead_letter(
    local_service: Running, model: object
) -> None:
    body = b"x" * local_service.wire.max_payload
    ack = await local_service.nats.jetstream().publish(topology.REQUESTED, body)
    ending = await local_service.ending_of(f"d-{ack.seq}")
    assert ending["status"] == "rejected"
    letter = await dead_letter_of(local_service, ack.seq)
    headers = letter.headers or {}
    store = await local_service.nats.jetstream().object_store(headers["Parley-Payload-Bucket"])
    assert (await store.get(headers["Parley-Payload-Name"])).data == body
