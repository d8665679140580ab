"""A Ray that is not there is named at once, and a user's own files break no actor."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from parley.broker.jetstream.embedded import EmbeddedNats
from parley.workers.model.call_policy import CallTimeouts, RetryPolicy
from parley.workers.model.model_server import ModelServer
from parley.workers.pool import ray_cluster
from parley.workers.pool.blocking_thread import BlockingThread
from parley.workers.pool.ray_cluster import HEAD_REPLACED, RayCluster
from parley.workers.pool.ray_errors import RayUnavailable
from parley.workers.pool.ray_pool import RayPool
from parley.workers.pool.ray_private import NotAHead, NotANode, StillStarting
from parley.workers.pool.ray_reachability import A_HEAD_LISTENS, ON_A_NODE, START_OR_NAME
from parley.workers.pool.worker_config import WorkerConfig
from tests.mirror.workers.pool.test_ray_reachability import SETTINGS, server

T = TypeVar("T")

# A driver whose folder, which is also its working directory, is on its own import path, but behind everything else.
DRIVER = """
import asyncio, sys
from parley.workers.model.call_policy import CallTimeouts, RetryPolicy
from parley.workers.model.model_server import ModelServer
from parley.workers.pool.worker_config import WorkerConfig
from parley.workers.pool.ray_pool import RayPool

async def main():
    config = WorkerConfig(
        {nats_url!r}, (ModelServer("http://127.0.0.1:1"),), "m", CallTimeouts(), RetryPolicy(), False, 1, 30.0, 1.0
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
        "nats://127.0.0.1:1", (ModelServer("http://127.0.0.1:1"),), "m", CallTimeouts(), RetryPolicy(), False, 1,
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


async def test_a_stale_note_of_rays_is_named_by_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        stale = f"127.0.0.1:{nobody.getsockname()[1]}"
        monkeypatch.setattr(ray_cluster, "head_of_this_machine", lambda: stale)
        cluster = RayCluster("auto", actors=1, actor_cpus=1)
        with pytest.raises(RayUnavailable) as caught:
            async with cluster.starting():
                await cluster.start()
    assert caught.value.address == f"{stale} (what `auto` finds on this machine)"
    assert "nobody listens there" in caught.value.reason
    assert caught.value.remedy == START_OR_NAME


async def test_without_a_ray_on_this_machine_auto_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def find() -> str:
        raise ConnectionError("Could not find any running Ray instance. …")

    monkeypatch.setattr(ray_cluster, "head_of_this_machine", find)
    cluster = RayCluster("auto", actors=1, actor_cpus=1)
    with pytest.raises(RayUnavailable, match=r"cannot use Ray at auto: no Ray runs on this machine\. Run"):
        async with cluster.starting():
            await cluster.start()


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ("s-1", None),
        ("s-2", HEAD_REPLACED),
        (RuntimeError("Unauthenticated: WrongClusterID: Perhaps …"), HEAD_REPLACED),
        (RuntimeError("UNAVAILABLE: failed to connect.\nmore"), "Ray's head: UNAVAILABLE: failed to connect"),
        (None, "Ray's head at 127.0.0.1:{port} does not answer"),
    ],
    ids=["the same", "another session", "another cluster", "away", "silent"],
)
async def test_a_head_is_known_again_or_not(
    answers: str | Exception | None, problem: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    forever = threading.Event()

    def ask() -> str:
        if isinstance(answers, Exception):
            raise answers
        if answers is None:
            forever.wait()
        return str(answers)

    monkeypatch.setattr(ray_cluster, "session_name", ask)
    monkeypatch.setattr(ray_cluster, "ASK_SECONDS", 0.2)
    cluster = RayCluster("auto", actors=1, actor_cpus=1)
    async with server(SETTINGS) as address:
        port = int(address.rpartition(":")[2])
        cluster._head, cluster._session_name = ("127.0.0.1", port), "s-1"
        found = await cluster.head_problem()
    forever.set()
    assert found == (problem and problem.format(port=port))


class Elsewhere(BlockingThread):
    """Asks the same question each time, and gets the same answer."""

    def __init__(self, answer: Exception) -> None:
        super().__init__("elsewhere")
        self.answer = answer

    async def run(self, call: Callable[[], T]) -> T:
        raise self.answer


@pytest.mark.parametrize(
    ("answer", "reason", "remedy"),
    [
        (NotAHead(), "what listens there speaks gRPC and is not Ray's head", A_HEAD_LISTENS),
        (NotANode(), "this machine is not a node of that cluster", ON_A_NODE),
        (
            StillStarting(),
            "its head does not say which Ray it runs",
            "Is it still starting? Try again once it is up",
        ),
        (TimeoutError(), "what listens there does not answer as Ray's head within 15 s", A_HEAD_LISTENS),
    ],
    ids=lambda answer: type(answer).__name__,
)
async def test_a_head_that_cannot_be_joined_is_told_with_its_remedy(
    answer: Exception, reason: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "NODE_SECONDS", 0.2)
    async with server(SETTINGS) as address:
        cluster = RayCluster(address, actors=1, actor_cpus=1)
        monkeypatch.setattr(cluster, "_asking", Elsewhere(answer))
        with pytest.raises(RayUnavailable) as caught:
            async with cluster.starting():
                await cluster.start()
    assert caught.value.reason.startswith(reason)
    assert caught.value.remedy == remedy
