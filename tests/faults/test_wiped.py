"""NATS comes back with an empty store while the service runs: processes on real ports, no restart of the service."""

import asyncio
import os
import shutil
import sys
import time
from pathlib import Path

import aiohttp
import pytest

from parley.broker.jetstream.embedded import config, executable
from parley.client import connect
from tests.harness import ModelServer
from tests.rig.child import answers, listens, started
from tests.rig.proc import free_port

WORKING_SECONDS = 10.0
PARTS = ("intake,query", "dispatch", "aggregate")


@pytest.mark.timeout(120)
async def test_after_the_store_was_wiped_all_works_again_within_ten_seconds(
    model: ModelServer, tmp_path: Path
) -> None:
    home, port = tmp_path / "nats", free_port()
    home.mkdir()
    conf = home / "nats-server.conf"
    conf.write_text(config(home, port=port, token=None, sync_always=False))
    command = (executable(), "-c", str(conf))
    nats = await started(command, tmp_path / "nats.log", dict(os.environ))
    await nats.ready(lambda: listens(port), 10)
    url = f"nats://127.0.0.1:{port}"
    shared = {**os.environ, "NATS_URL": url, "VLLM_URL": model.url, "VLLM_MODEL": "simulated-model",
              "PARLEY_POOL": "local"}  # fmt: skip
    children = [nats]
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as http:
            for parts in PARTS:
                door = free_port()
                serve = (sys.executable, "-P", "-m", "parley", "serve", "--parts", parts)
                environment = {**shared, "PARLEY_HTTP_PORT": str(door)}
                child = await started(serve, tmp_path / f"{parts}.log", environment, folder=tmp_path)
                children.append(child)

                async def ready(door: int = door) -> bool:
                    return await answers(http, f"http://127.0.0.1:{door}/readyz")

                await child.ready(ready, 60)
        async with connect(url) as client:
            assert (await client.deliberate("x", agents=2)).status == "completed"
        nats.process.kill()
        await nats.process.wait()
        shutil.rmtree(home / "jetstream")
        nats = await started(command, tmp_path / "nats.log", dict(os.environ), append=True)
        children.append(nats)
        await nats.ready(lambda: listens(port), 10)
        began = time.monotonic()
        while True:
            try:
                async with asyncio.timeout(WORKING_SECONDS), connect(url) as client:
                    ending = await client.deliberate("x", agents=2)
                break
            except Exception:  # no service and no stream yet
                assert time.monotonic() - began < WORKING_SECONDS
        assert ending.status == "completed"
        print(f"working again after {time.monotonic() - began:.1f} s")
        assert time.monotonic() - began < WORKING_SECONDS
        assert [child.process.returncode for child in children[1:4]] == [None] * 3
    finally:
        for child in reversed(children):
            await child.stop()
