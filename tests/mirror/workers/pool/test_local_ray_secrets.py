"""A Ray of this machine: private folders, a private token, and daemons without our secrets."""

import json
import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from parley.broker.jetstream.embedded import EmbeddedNats
from parley.workers.pool.local_ray_secrets import in_private, protect_token


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


SECRETS = {
    "VLLM_API_KEY": "s", "PARLEY_VLLM_API_KEY": "s", "NATS_URL": "nats://t0ken@x", "PARLEY_NATS_URL": "s",
    "PARLEY_WORKER_NATS_URL": "s", "VLLM_URL": "http://u:p@x", "HF_TOKEN": "s", "AWS_SECRET_ACCESS_KEY": "s",
    "vllm_api_key": "s", "DB_PASSWORD": "s", "OPENAI_PAT": "s", "HTTPS_PROXY": "http://u:p@x", "DATABASE_URL": "s",
}  # fmt: skip


def test_what_is_started_meanwhile_gets_no_secret_and_makes_private_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**SECRETS, "RAY_AUTH_TOKEN": "rays", "CUDA_VISIBLE_DEVICES": "0"}.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    script = "import json, os; open('made', 'w'); print(json.dumps(dict(os.environ)))"
    with in_private():
        found = json.loads(subprocess.check_output([sys.executable, "-c", script], cwd=tmp_path))
    assert not set(SECRETS) & set(found)
    assert (found["RAY_AUTH_TOKEN"], found["CUDA_VISIBLE_DEVICES"]) == ("rays", "0")
    assert mode(tmp_path / "made") == 0o600
    assert dict(os.environ) == before
    (tmp_path / "after").touch()
    assert mode(tmp_path / "after") != 0o600


def test_a_token_that_others_can_read_is_made_private_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    protect_token()  # none yet
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir(mode=0o755)
    token.touch(mode=0o644)
    with caplog.at_level(logging.WARNING):
        protect_token()
        protect_token()
    assert (mode(token), mode(token.parent)) == (0o600, 0o700)
    assert len(caplog.records) == 1


DRIVER = """
import asyncio, json, os
from pathlib import Path
from parley.workers.model.call_policy import CallTimeouts, RetryPolicy
from parley.workers.model.model_server import ModelServer
from parley.workers.pool.worker_config import WorkerConfig
from parley.workers.pool.ray_pool import RayPool

async def main():
    config = WorkerConfig(
        {nats_url!r}, (ModelServer("http://127.0.0.1:1"),), "m", CallTimeouts(), RetryPolicy(), False, 1, 30.0, 1.0
    )
    async with RayPool(config, name="x", actors=1, address=None, actor_cpus=0.1, home=Path({home!r})) as pool:
        actor = pool._actor_slots[0].actor
        seen = await actor.__ray_call__.remote(lambda _: dict(__import__("os").environ))
        folder = pool._cluster._session_folder.path
        private = oct(folder.parent.stat().st_mode)
        token = Path.home() / ".ray" / "auth_token"
        print(json.dumps([seen, folder.exists(), private, token.exists() and oct(token.stat().st_mode)]))
    print(json.dumps(folder.parent.exists()))

asyncio.run(main())
"""


@pytest.mark.ray
def test_a_real_ray_keeps_to_its_user(nats_server: EmbeddedNats, tmp_path: Path) -> None:
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER.format(nats_url=nats_server.url, home=str(tmp_path / "state")))
    ended = subprocess.run(
        [sys.executable, "-P", str(driver)], cwd=tmp_path,
        env={**os.environ, **SECRETS, "HOME": str(tmp_path), "PYTHONWARNINGS": "ignore"},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    first, second = ended.stdout.strip().splitlines()[-2:]
    environment, there, private, token = json.loads(first)
    assert not set(SECRETS) & set(environment)
    assert there
    # Nobody else comes as far as what Ray opens to everybody.
    assert private == "0o40700"
    assert token in (False, "0o100600")
    assert not json.loads(second)
