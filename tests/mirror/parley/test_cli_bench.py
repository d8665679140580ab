"""`parley bench` measures a service by asking it."""

import json

from tests.harness import ModelServer, Running
from tests.mirror.parley.test_cli import FAILED, OK, Shell, sh

__all__ = ["sh"]


async def test_it_tells_what_it_measured(sh: Shell, local_service: Running, model: ModelServer) -> None:
    ran = await sh("bench", "--count", "6", "--limit", "3", "--agents", "2", "--json")
    told = json.loads(ran.out)
    assert (ran.code, told["completed"], told["otherwise"]) == (OK, 6, {})
    assert told["calls_a_second"] > told["deliberations_a_second"] > 0
    assert 0 < told["median_seconds"] <= told["p99_seconds"] <= told["seconds"]
    ran = await sh("bench", "--count", "1", "--agents", "1")
    assert "median_seconds" in ran.out


async def test_what_does_not_complete_is_told(sh: Shell, local_service: Running, model: ModelServer) -> None:
    await model.behave(faults={"400": 1.0})
    ran = await sh("bench", "--count", "2", "--agents", "1", "--json")
    assert (ran.code, json.loads(ran.out)["otherwise"]) == (FAILED, {"failed": 2})
