"""A signal stops a service while it runs and while it starts; a second one ends it at once."""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from parley.broker.jetstream.embedded import EmbeddedNats
from parley.shutdown import SIGNALS, Interrupted, Shutdown
from tests.harness import PATIENCE_SECONDS, ModelServer
from tests.mirror.parley.test_cli import OK, PARLEY, Shell, left, serving
from tests.mirror.parley.test_cli_waiting import CONTROLLED
from tests.mirror.workers.pool.test_ray_reachability import SETTINGS
from tests.rig.pseudo_terminal import pseudo_terminal

# Far below what Ray takes to give up on an address (over 200 s).
SOON_SECONDS = 15.0


@pytest.fixture
async def shutdown() -> AsyncIterator[Shutdown]:
    yield Shutdown()
    for number in SIGNALS:
        asyncio.get_running_loop().remove_signal_handler(number)


class Service:
    disabled: str | None = None
    readings = 0

    async def read_endpoints_again(self) -> None:
        self.readings += 1


async def test_the_result_of_a_start_is_returned_and_its_error_is_raised(shutdown: Shutdown) -> None:
    async def starts() -> int:
        return 7

    async def fails() -> int:
        raise KeyError("x")

    assert await shutdown.during(starts()) == 7
    with pytest.raises(KeyError):
        await shutdown.during(fails())


async def test_a_start_is_undone_when_a_signal_comes_first(shutdown: Shutdown) -> None:
    undone = asyncio.Event()

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            undone.set()

    starting = asyncio.create_task(shutdown.during(slow()))
    await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Interrupted):
        await starting
    assert undone.is_set()


async def test_a_service_that_cannot_work_any_more_says_why(shutdown: Shutdown) -> None:
    service = Service()
    waiting = asyncio.create_task(shutdown.wait(service))
    await asyncio.sleep(0)
    assert not waiting.done()
    service.disabled = "Ray's head is gone"
    assert await waiting == "Ray's head is gone"


async def test_a_signal_ends_the_waiting(shutdown: Shutdown) -> None:
    waiting = asyncio.create_task(shutdown.wait(Service()))
    await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGINT)
    assert await waiting is None


async def test_a_hangup_has_the_endpoints_read_again_and_a_stop_still_stops() -> None:
    shutdown, service = Shutdown(reads_again=True), Service()
    waiting = asyncio.create_task(shutdown.wait(service))
    for times in (1, 2):
        os.kill(os.getpid(), signal.SIGHUP)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while service.readings < times:  # noqa: ASYNC110  # it is looked at once a second
                await asyncio.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await waiting is None
    for number in SIGNALS:
        asyncio.get_running_loop().remove_signal_handler(number)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
async def test_serve_is_stopped_while_it_waits_for_a_ray_that_does_not_answer(
    tmp_path: Path, empty_nats: EmbeddedNats, model: ModelServer, number: signal.Signals
) -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        mute.setblocking(False)
        environment = {
            "NATS_URL": empty_nats.url,
            "VLLM_URL": model.url,
            "RAY_ADDRESS": f"127.0.0.1:{mute.getsockname()[1]}",
            "PARLEY_HTTP_PORT": "0",
            "PARLEY_GATEWAY_PORT": "0",
            "PARLEY_GATEWAY_GRPC_PORT": "0",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else Ray takes the machine's outside address for 127.0.0.1
        }
        async with Shell(tmp_path).started("serve", **environment) as process:
            async with asyncio.timeout(PATIENCE_SECONDS):
                loop = asyncio.get_running_loop()
                ours = await loop.sock_accept(mute)
                await loop.sock_sendall(ours[0], SETTINGS)
                connections = [ours, await loop.sock_accept(mute)]  # Ray's
            process.send_signal(number)
            told = time.monotonic()
            code, _ = await left(process)
        for connection, _ in connections:
            connection.close()
    assert time.monotonic() - told < SOON_SECONDS
    assert code == OK


async def test_up_stops_in_order_when_its_terminal_is_closed(tmp_path: Path) -> None:
    seen = {
        **Shell(tmp_path).environment, "PARLEY_POOL": "local", "PARLEY_HTTP_PORT": "0", "TERM": "xterm",
        "PARLEY_HOME": str(tmp_path / "state"),
    }  # fmt: skip
    command = (sys.executable, "-c", CONTROLLED, str(tmp_path / "log"), PARLEY, "up")
    async with pseudo_terminal(*command, environment=seen) as terminal:
        await terminal.read_until("Ctrl-C stops")
        terminal.close()
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await terminal.process.wait() == OK
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert not (tmp_path / "state" / "up.json").exists()


async def test_a_second_signal_ends_it(tmp_path: Path, empty_nats: EmbeddedNats, model: ModelServer) -> None:
    await model.behave(faults={"hang": 1.0})
    environment = {"NATS_URL": empty_nats.url, "VLLM_URL": model.url, "PARLEY_DRAIN_SECONDS": "60"}
    shell = Shell(tmp_path)
    async with (
        serving(shell, **environment) as (process, _),
        shell.started("ask", "x", "--json", **environment) as asking,
    ):
        await model.runs(3)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(process.wait(), 1.0)  # it lets them finish
        process.send_signal(signal.SIGTERM)
        told = time.monotonic()
        code, _ = await left(process)
        assert time.monotonic() - told < SOON_SECONDS
        assert code == 128 + signal.SIGTERM
        asking.kill()
        await asking.communicate()
