"""Invalid messages: the sender gets an ending, the message becomes a dead letter, and the service goes on."""

import pytest
from nats.aio.msg import Msg

from parley.broker.jetstream import topology
from tests.harness import Running, until


@pytest.mark.parametrize(
    "subject",
    [
        topology.CANCEL, "deliberation.deadline.x", topology.AGENT_REQUESTED, topology.AGENT_COMPLETED,
        topology.AGENT_FAILED,
    ],
)  # fmt: skip
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
