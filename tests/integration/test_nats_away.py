"""NATS goes and comes back while a service and a command run: a line each way, a metric, and never a traceback."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from parley.broker.jetstream.embedded import config, executable
from parley.client import connect as connect_client
from tests.harness import ModelServer, until
from tests.rig.child import Child, answers, child, listens, module, started
from tests.rig.proc import free_port
from tests.rig.service import plain_environment

LOST, BACK = "the connection to NATS is lost", "the connection to NATS is back"
AWAY_SECONDS = 3.5  # some attempts to reconnect, and less than `ask` waits for NATS


@dataclass
class Nats:
    folder: Path
    port: int
    process: Child | None = None

    async def start(self, *, token: str = "t0ken", jetstream: bool = True) -> None:
        conf = self.folder / "nats.conf"
        conf.write_text(
            config(self.folder, port=self.port, token=token, sync_always=False, jetstream=jetstream)
        )
        self.process = await started([executable(), "-c", str(conf)], self.folder / "nats.log", {})
        await until(lambda: listens(self.port), "nats-server listens")

    async def stop(self, sig: signal.Signals = signal.SIGTERM) -> None:
        assert self.process is not None
        await self.process.stop(sig)


@asynccontextmanager
async def serving(folder: Path, model: ModelServer) -> AsyncIterator[tuple[Nats, Child, str, dict[str, str]]]:
    """NATS, a service, its HTTP address, and the environment for a command beside it."""
    nats, port = Nats(folder, free_port()), free_port()
    await nats.start()
    environment = plain_environment(
        NATS_URL=f"nats://t0ken@127.0.0.1:{nats.port}", VLLM_URL=model.url, PARLEY_POOL="local",
        PARLEY_HTTP_PORT=str(port), PARLEY_HOME=str(folder / "home"), PARLEY_DRAIN_SECONDS="1",
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    command = module("parley", "serve")
    async with (
        aiohttp.ClientSession() as http,
        child(command, folder / "service.log", environment) as service,
    ):
        await service.ready(lambda: answers(http, f"{url}/readyz"), 60)
        try:
            yield nats, service, url, environment
        finally:
            await nats.stop()


async def text(url: str) -> str:
    async with aiohttp.ClientSession() as http, http.get(url) as page:
        return await page.text()


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL], ids=lambda sig: sig.name)
async def test_an_absence_is_a_line_each_way_and_counts(
    sig: signal.Signals, model: ModelServer, tmp_path: Path
) -> None:
    await model.behave(latency_ms=3_000)
    async with (
        serving(tmp_path, model) as (nats, service, url, environment),
        connect_client(environment["NATS_URL"]) as client,
    ):
        command = module("parley", "ask", "why?", "--agents", "2", "--timeout", "60", "--json")
        ask = await started(command, tmp_path / "ask.log", environment)
        asked = await client.submit("why?", agents=2, timeout_seconds=60)
        await model.runs(4)
        await nats.stop(sig)
        await until(lambda: LOST in service.log.read_text(), "the loss is told")
        assert "parley_nats_connected 0.0" in await text(f"{url}/metrics")
        await asyncio.sleep(AWAY_SECONDS)
        await nats.start()
        await until(lambda: BACK in service.log.read_text(), "the return is told")
        assert (await client.ending(asked)).successful_responses == 2
        assert await asyncio.wait_for(ask.process.wait(), 60) == 0
        metrics = await text(f"{url}/metrics")
        assert "parley_nats_connected 1.0" in metrics
        assert "parley_nats_connection_losses_total 1.0" in metrics
        log = service.log.read_text()
        assert (log.count(LOST), log.count(BACK)) == (1, 1), log
        assert "Traceback" not in log + ask.log.read_text()
        assert LOST not in ask.log.read_text()  # its picture says it; a line would break that
        warnings = [line for line in service.log.read_text().splitlines() if " INFO " not in line]
        assert len(warnings) == 2, warnings
    await model.behave()


async def test_a_stop_while_nats_is_away_has_no_traceback(model: ModelServer, tmp_path: Path) -> None:
    async with serving(tmp_path, model) as (nats, service, _, _):
        await nats.stop()
        await until(lambda: LOST in service.log.read_text(), "the loss is told")
        await service.stop(seconds=30)
        assert service.process.returncode == 0
        assert "Traceback" not in service.log.read_text()
        await nats.start()


async def test_a_nats_that_lets_nobody_in_any_more_says_so_once_for_each_user(
    model: ModelServer, tmp_path: Path
) -> None:
    async with serving(tmp_path, model) as (nats, service, _, _):
        await nats.stop()
        await nats.start(token="an0ther")
        await asyncio.sleep(3)
        await service.stop(seconds=30)
        log = service.log.read_text()
        assert "Traceback" not in log
        assert log.lower().count("authorization violation") <= 2, log  # the service's and the workers'


async def test_a_nats_that_comes_back_without_jetstream_is_told_as_such(
    model: ModelServer, tmp_path: Path
) -> None:
    async with serving(tmp_path, model) as (nats, service, url, _):
        await nats.stop()
        await nats.start(jetstream=False)
        await until(lambda: BACK in service.log.read_text(), "the return is told")

        async def told() -> bool:
            return "its JetStream is switched off, or starting" in await text(f"{url}/readyz")

        await until(told, "readiness says why", 10)
        await nats.stop()
        await nats.start()

        async def ready() -> bool:
            return '"ready": true' in await text(f"{url}/readyz")

        await until(ready, "it works again", 20)
        log = service.log.read_text()
        assert "Traceback" not in log
        assert "err_code=None" not in log
