"""Memory of the service's own process, measured from outside, with real Ray actors behind it."""

import asyncio

import aiohttp
import pytest

from parley.client import connect
from tests.harness import until
from tests.rig.service import serving

IDLE_MIB = 200.0
IN_FLIGHT_MIB = 200.0
DELIBERATIONS = 1_000


@pytest.mark.ray
@pytest.mark.timeout(240)
async def test_the_idle_service_and_a_thousand_deliberations_in_flight_stay_within_their_memory() -> None:
    async with (
        serving(pool="ray", latency_ms=20) as service,
        connect(service.nats_url) as client,
        aiohttp.ClientSession() as http,
    ):
        await client.deliberate("warm up")
        idle = service.resident_mib()
        assert idle < IDLE_MIB

        async with http.post(f"{service.model_url}/simulator", json={"latency_ms": 3_600_000}) as response:
            assert response.status == 200
        description = "x" * 2_000
        submitted = await asyncio.gather(
            *(client.submit(description, agents=3, timeout_seconds=600) for _ in range(DELIBERATIONS))
        )

        async def all_recorded() -> bool:
            tallies = await client.tallies()
            return sum(not tally.ended for tally in tallies) == DELIBERATIONS

        await until(all_recorded, f"{DELIBERATIONS} deliberations are in flight", seconds=60)
        loaded = service.resident_mib()
        print(f"idle {idle:.0f} MiB, with {DELIBERATIONS} in flight {loaded:.0f} MiB")
        assert loaded - idle < IN_FLIGHT_MIB

        await asyncio.gather(*(client.cancel(each.task_id) for each in submitted))
        endings = await asyncio.gather(*(client.ending(each, wait_seconds=60) for each in submitted))
        assert {ending.status for ending in endings} == {"cancelled"}
