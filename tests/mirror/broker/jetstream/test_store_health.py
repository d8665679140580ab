"""What a process knows of the store from its own publishes."""

import asyncio

import pytest

from parley.broker.jetstream import store_health
from parley.broker.jetstream.store_health import StoreHealth


async def test_a_refusal_lasts_until_the_stream_stores_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_health, "CALM_SECONDS", 0.0)
    health = StoreHealth()
    waiting = asyncio.create_task(health.wait_restored(health.restorations))
    health.stored("A")
    for _ in range(3):
        health.refused("A", "no space left")
    health.stored("B")
    assert health.refusal(["B", "A"]) == "no space left"
    assert health.refusal(["B"]) is None
    await asyncio.sleep(0)
    assert not waiting.done()
    health.stored("A")
    assert await waiting == health.restorations == 1
    assert health.refusal(["A"]) is None
    assert (health.count("A"), health.count("B"), health.count("C")) == (2, 1, 0)
    assert caplog.messages == ["A: no space left", "JetStream stores again in A"]


def test_a_stream_that_refuses_and_stores_in_turns_is_told_once_and_followed_by_one_sweep(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    health = StoreHealth()
    for _ in range(100):
        health.refused("AGENT_REQUESTS", "maximum bytes exceeded")
        health.stored("AGENT_REQUESTS")
    assert health.restorations == 0
    monkeypatch.setattr(store_health, "CALM_SECONDS", 0.0)
    health.stored("AGENT_REQUESTS")
    assert health.restorations == 1
    assert caplog.messages == [
        "AGENT_REQUESTS: maximum bytes exceeded",
        "JetStream stores again in AGENT_REQUESTS",
    ]


def test_of_a_probed_stream_only_the_probe_says_that_there_is_room() -> None:
    health = StoreHealth()
    health.probed = frozenset({"A"})
    health.refused("A", "no space left")
    health.stored("A")
    assert health.refusal(["A"]) == "no space left"
    health.restored("A")
    assert health.refusal(["A"]) is None
    health.restored("A")  # nothing new
    assert health.restorations == 1
