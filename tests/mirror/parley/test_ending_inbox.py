"""Endings that arrive in a client's inbox."""

import json

import pytest
from nats.aio.msg import Msg

from parley import ending_inbox
from parley.broker.jetstream.jetstream import JetStream
from parley.ending_inbox import EndingInbox


async def test_endings_that_nobody_waits_for_are_bounded_by_their_size(
    wire: JetStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand of 1 MiB were a GiB."""
    inbox = EndingInbox()
    body = {"task_id": "", "status": "timeout", "error": "x" * 1_000, "total_agents": 1, "duration_ms": 1}
    body |= {
        "failed_agents": [],
        "missing_agents": [],
        "results": [],
        "successful_responses": 0,
        "failed_responses": 0,
        "timestamp": "2026-01-01T00:00:00Z",
    }
    monkeypatch.setattr(ending_inbox, "KEPT_BYTES", 5_000)
    for number in range(10):
        data = json.dumps({**body, "task_id": f"t-{number}"}).encode()
        await inbox.receive(Msg(_client=wire.nc, data=data))
    assert [number for number in range(10) if f"t-{number}" in inbox] == [6, 7, 8, 9]
    inbox.forget("t-9")
    assert 0 < inbox._arrived_bytes < 4_000
