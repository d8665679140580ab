"""An invalid request gets an ending too, which names the field. The message itself is kept whole, as a dead letter."""

import pytest

from parley.broker.jetstream import topology
from tests.harness import ModelServer, Running


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{nope", "payload"),
        (b'{"task_description": "x", "num_agents": 10000}', "num_agents"),
        (b'{"task_description": "\xff\xfe"}', "payload"),
    ],
)
async def test_a_bad_request_is_rejected_by_field_and_kept_whole(
    local_service: Running, model: ModelServer, body: bytes, field: str
) -> None:
    seq = await local_service.publish(body)
    ending = await local_service.ending_of(f"d-{seq}")  # the service names a request without a valid task_id
    assert ending["status"] == "rejected"
    assert field in ending["error"]
    letters = [
        letter
        for letter in await local_service.all_of("deadletter.deliberation.requested", topology.DEAD_LETTERS)
        if (letter.headers or {}).get("Parley-Sequence") == str(seq)
    ]
    (letter,) = letters
    assert letter.data == body
    assert field in (letter.headers or {})["Parley-Reason"]
