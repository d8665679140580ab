"""A flood of valid requests fills what it may fill, and whatever was taken in still ends in time."""

import json
import time
from pathlib import Path

import pytest

from parley.app import service
from parley.broker.core.errors import BrokerUnavailable
from parley.broker.jetstream import topology
from parley.settings import load
from tests.harness import ModelServer, until
from tests.mirror.broker import limited_server

TIMEOUT_SECONDS = 6.0
FLOOD_SECONDS = 10.0


@pytest.mark.timeout(120)
async def test_a_flood_of_requests_leaves_room_for_the_endings_of_what_was_taken_in(
    model: ModelServer, tmp_path: Path
) -> None:
    """3.7 MB of such requests filled 512 MiB, and nobody's deliberation ended."""
    await model.behave(latency_ms=60_000)
    async with limited_server(tmp_path, "40MB") as url:
        settings = load(nats_url=url, vllm_url=model.url, http_port=0, home=tmp_path, pool="local")
        async with service(settings) as running:
            wire, refused = running.wire, False
            body = {"task_description": "x" * 3_000, "num_agents": 256, "timeout_seconds": TIMEOUT_SECONDS}
            flood_ends = time.monotonic() + FLOOD_SECONDS
            while time.monotonic() < flood_ends and not refused:
                try:
                    await wire.publish(topology.REQUESTED, json.dumps(body).encode())
                except BrokerUnavailable:
                    refused = True
            bucket = await wire.js.stream_info(topology.TALLIES)
            assert bucket.state.bytes < (bucket.config.max_bytes or 0)
            named = await wire.js.stream_info(topology.TALLIES, subjects_filter=topology.tally_subject(">"))
            taken_in = len(
                {*(named.state.subjects or {})} - {topology.tally_subject("!store")}
            )  # the probe's
            assert taken_in > 20

            async def all_ended() -> bool:
                info = await wire.js.stream_info(topology.DELIBERATIONS, subjects_filter=topology.FAILED)
                return int((info.state.subjects or {}).get(topology.FAILED, 0)) >= taken_in

            await until(all_ended, f"the {taken_in} that were taken in have ended", TIMEOUT_SECONDS + 5)
