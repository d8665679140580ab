"""A Ray that is not there is named at once, and a user's own files break no actor."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from parley.broker.jetstream.embedded import EmbeddedNats
from parley.workers.model.call_policy import CallTimeouts, RetryPolicy
from parley.workers.pool.pool import WorkerConfig
from parley.workers.pool.ray_cluster import RayCluster
from parley.workers.pool.ray_errors import RayUnavailable
from parley.workers.pool.ray_pool import RayPool

# A driver whose folder, which is also its working directory, is on its own import path, but behind everything else.
DRIVER = """
import asyncio, sys
from parley.workers.model.call_policy import CallTimeouts, RetryPolicy
from parley.workers.pool.pool import WorkerConfig
from parley.workers.pool.ray_pool import RayPool

async def main():
    config = WorkerConfig(
        {nats_url!r}, ("http://127.0.0.1:1",), "m", None, CallTimeouts(), RetryPolicy(), False, 1, 30.0, 1.0
    )
    async with RayPool(config, name="x", actors=2, address=None, actor_cpus=0.1) as pool:
        actor = pool._actor_slots[0].actor
        print(await actor.__ray_call__.remote(lambda _: __import__("sys").path))

sys.path.append({folder!r})
asyncio.run(main())
"""


@pytest.mark.ray
def test_files_named_like_ours_or_a_library_break_no_actor(nats_server: EmbeddedNats, tmp_path: Path) -> None:
    for name in ("broker", "nats", "queue", "types"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('a file of the user')")
    for name in ("workers", "handlers"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('a package of the user')")
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER.format(nats_url=nats_server.url, folder=str(tmp_path)))
    ended = subprocess.run(
        [sys.executable, "-P", str(driver)], cwd=tmp_path, env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert str(tmp_path) not in ended.stdout
    assert "''" not in ended.stdout, "the working directory"


@pytest.mark.parametrize(
    "address", ["127.0.0.1:{port}", "no-such-host.invalid:{port}", "127.0.0.1:port", "ray://127.0.0.1:{port}"]
)
async def test_a_ray_that_is_not_there_is_named_at_once_in_one_line(address: str) -> None:
    config = WorkerConfig(
        "nats://127.0.0.1:1", ("http://127.0.0.1:1",), "m", None, CallTimeouts(), RetryPolicy(), False, 1,
        30.0, 1.0,
    )  # fmt: skip
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        wrong = address.format(port=nobody.getsockname()[1])
        started = time.monotonic()
        with pytest.raises(RayUnavailable) as caught:
            async with RayPool(config, name="x", actors=1, address=wrong):
                pass
    assert time.monotonic() - started < 20  # Ray itself would try for minutes
    assert caught.value.address == wrong
    assert "\n" not in str(caught.value)
    assert wrong in str(caught.value)
    assert "RAY_ADDRESS" in str(caught.value)


@pytest.mark.parametrize(
    "error", [Exception("The current node timed out during startup."), OSError("AF_UNIX path")]
)
async def test_whatever_ray_raises_at_its_start_is_one_line(error: Exception) -> None:
    with pytest.raises(RayUnavailable, match="PARLEY_POOL=local") as caught:
        async with RayCluster(None, actors=1, actor_cpus=1).starting():
            raise error
    assert "\n" not in str(caught.value)


async def test_a_bug_of_ours_stays_a_bug() -> None:
    with pytest.raises(KeyError):
        async with RayCluster(None, actors=1, actor_cpus=1).starting():
            raise KeyError("x")
