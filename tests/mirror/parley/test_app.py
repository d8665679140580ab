"""The service as one block: what it needs to start, what it serves over HTTP, and that it leaves nothing behind."""

import asyncio
import os
import re
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from parley import local_nats_and_model, tiny_model_process
from parley.app import Service, service
from parley.broker.core.errors import SettingsError, TopologyMismatch, Unavailable
from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import connect
from parley.broker.jetstream.embedded import EmbeddedNats, embedded_nats
from parley.broker.jetstream.nats_client import NatsClient as Nats
from parley.broker.jetstream.provision import provision
from parley.client import connect as connect_client
from parley.handlers.routes import Part
from parley.local_model_choice import LocalModel
from parley.local_nats_and_model import TINY_FIRST_BYTE_SECONDS, LocalParts, embedded, simulator
from parley.monitoring import check_runner
from parley.operator_http import asyncapi_document
from parley.settings import Settings, load
from parley.workers.model import readiness
from tests.harness import ModelServer, Running, model_server, until
from tests.rig.proc import free_port

PATHS = [
    "/metrics", "/livez", "/readyz", "/docs", "/docs/asyncapi.json", "/docs/assets/asyncapi.js",
    "/docs/assets/asyncapi.css",
]  # fmt: skip


@pytest.fixture(autouse=True)
def a_look_at_the_model_may_take_as_long_as_any_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "PATIENCE_SECONDS", check_runner.CHECK_SECONDS)


def local(nats: EmbeddedNats | None, model: ModelServer | None, **overrides: Any) -> Settings:
    defaults = {
        "nats_url": nats.url if nats else None,
        "vllm_url": model.url if model else None,
        "pool": "local",
        "http_port": 0,
        "drain_seconds": 1.0,
    }
    return load(**{**defaults, **overrides})


async def refusal(settings: Settings, *parts: Part) -> Exception:
    """What a service with these settings says instead of starting."""
    with pytest.raises((SettingsError, Unavailable)) as caught:
        async with service(settings, parts or frozenset(Part)):
            pass
    return caught.value


async def get(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        return response.status, await response.text()


def not_ready(url: str, named: str) -> Callable[[], Coroutine[Any, Any, str]]:
    """A fact to wait for: what /readyz says once it names this problem."""

    async def fact() -> str:
        status, body = await get(f"{url}/readyz")
        return body if status == 503 and named in body else ""

    return fact


# ── starting ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_service_needs_a_nats() -> None:
    error = await refusal(local(None, None))
    assert isinstance(error, SettingsError)
    assert "NATS_URL" in str(error)


async def test_a_service_that_dispatches_needs_a_model_server(empty_nats: EmbeddedNats) -> None:
    error = await refusal(local(empty_nats, None))
    assert isinstance(error, SettingsError)
    assert "VLLM_URL" in str(error)
    async with connection(empty_nats) as nc:
        assert await nc.jetstream().streams_info() == []  # said before anything was begun


async def test_a_service_that_does_not_dispatch_needs_none_and_has_no_pool(empty_nats: EmbeddedNats) -> None:
    async with service(local(empty_nats, None), [Part.INTAKE, Part.AGGREGATE, Part.QUERY]) as running:
        assert running.pool is None
        assert (await get(f"{running.http_url}/readyz"))[0] == 200


async def test_differing_streams_are_refused_and_kept(empty_nats: EmbeddedNats, model: ModelServer) -> None:
    async with connection(empty_nats) as nc:
        await provision(nc.jetstream())
        live = (await nc.jetstream().stream_info(topology.DELIBERATIONS)).config
        await nc.jetstream().update_stream(live, max_msgs=40)
        error = await refusal(local(empty_nats, model))
        assert isinstance(error, TopologyMismatch)
        assert "stream DELIBERATIONS: max_msgs is 40" in str(error)
        assert (await nc.jetstream().stream_info(topology.DELIBERATIONS)).config.max_msgs == 40


async def test_the_first_model_of_the_first_server_is_asked_where_none_is_named(
    empty_nats: EmbeddedNats, model: ModelServer
) -> None:
    async with service(local(empty_nats, model)) as running, connect_client(empty_nats.url) as client:
        ending = await client.deliberate("x", agents=1)
        assert ending.results[0].proposal.model == "simulated-model"
        assert 'model="simulated-model"' in (await get(f"{running.http_url}/metrics"))[1]


async def test_a_model_server_that_cannot_be_asked_is_named_with_a_way_out(empty_nats: EmbeddedNats) -> None:
    url = f"http://user:hush@127.0.0.1:{free_port()}"
    error = await refusal(local(empty_nats, None, vllm_url=url))
    assert isinstance(error, Unavailable)
    assert url.replace("user:hush", "***") in str(error)
    assert "VLLM_MODEL" in str(error)
    assert "hush" not in str(error)
    async with service(local(empty_nats, None, vllm_url=url, vllm_model="m")):
        pass  # it may come up later


async def test_it_is_not_ready_before_its_model_server_is_and_says_why(empty_nats: EmbeddedNats) -> None:
    port = free_port()
    settings = local(empty_nats, None, vllm_url=f"http://user:hush@127.0.0.1:{port}", vllm_model="m-9")
    async with service(settings) as running:
        status, body = await get(f"{running.http_url}/readyz")
        assert status == 503
        assert f'"models": "http://***@127.0.0.1:{port}: cannot connect' in body
        assert "hush" not in body
        async with model_server("--port", str(port), "--model", "m-8"):
            assert "m-9 is not served there; it serves m-8" in (await get(f"{running.http_url}/readyz"))[1]
        async with model_server("--port", str(port), "--model", "m-9"):
            assert (await get(f"{running.http_url}/readyz"))[0] == 200


async def test_a_taken_port_is_named_with_its_setting(empty_nats: EmbeddedNats, model: ModelServer) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        error = await refusal(local(empty_nats, model, http_port=port))
    assert isinstance(error, SettingsError)
    assert str(error).startswith("PARLEY_HTTP_PORT: ")
    assert f"127.0.0.1:{port}" in str(error)


@pytest.mark.parametrize("own", [TimeoutError("mine"), PermissionError("mine")])
async def test_an_error_inside_the_block_is_not_blamed_on_the_port(
    empty_nats: EmbeddedNats, model: ModelServer, own: OSError
) -> None:
    with pytest.raises(OSError, match="mine") as caught:
        async with service(local(empty_nats, model)):
            raise own
    assert caught.value is own


async def test_when_the_block_ends_nothing_is_left(empty_nats: EmbeddedNats, model: ModelServer) -> None:
    async with connection(empty_nats) as nc:
        tasks = asyncio.all_tasks()
        async with service(local(empty_nats, model)) as running, connect_client(empty_nats.url) as client:
            await client.deliberate("x")
        host, port = running.http_url.removeprefix("http://").split(":")
        with pytest.raises(OSError, match=port):
            await asyncio.open_connection(host, int(port))
        await until(lambda: asyncio.all_tasks() <= tasks, "every task has ended")
        for durable in topology.DURABLES:
            info = await nc.jetstream().consumer_info(durable.stream, durable.name)
            assert info.num_ack_pending == 0


async def test_a_service_whose_nats_has_gone_stops_all_the_same(
    tmp_path: Path, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_runner, "CHECK_SECONDS", 0.5)
    tasks = asyncio.all_tasks()
    async with embedded_nats(tmp_path) as server:
        async with service(local(server, model)) as running:
            os.kill(server.pid, signal.SIGKILL)
            await until(not_ready(running.http_url, '"nats": "not connected"'), "it has noticed")
            leaving = time.monotonic()
        assert time.monotonic() - leaving < 10
    await until(lambda: asyncio.all_tasks() <= tasks, "every task has ended")


# ── the door ──────────────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def connection(nats: EmbeddedNats) -> AsyncIterator[Nats]:
    nc = await connect(nats.url, "tests")
    yield nc
    await nc.close()


@pytest.fixture
async def own_service(empty_nats: EmbeddedNats, model: ModelServer) -> AsyncIterator[Service]:
    """On a NATS of its own, for tests that break it."""
    async with service(local(empty_nats, model)) as running:
        yield running


async def test_it_is_live_and_ready(local_service: Running) -> None:
    url = local_service.service.http_url
    assert await get(f"{url}/livez") == (200, '{"live": true}')
    assert await get(f"{url}/readyz") == (200, '{"ready": true, "problems": {}}')


@pytest.mark.parametrize("stream", [topology.DELIBERATIONS, topology.TALLIES, topology.AGENT_REQUESTS])
async def test_it_is_not_ready_while_a_stream_is_missing_and_says_which(
    own_service: Service, empty_nats: EmbeddedNats, stream: str
) -> None:
    async with connection(empty_nats) as nc:
        await nc.jetstream().delete_stream(stream)
        status, body = await get(f"{own_service.http_url}/readyz")
        assert status == 503
        assert f"stream {stream}" in body
        assert (await get(f"{own_service.http_url}/livez"))[0] == 200
        await provision(nc.jetstream())
        assert (await get(f"{own_service.http_url}/readyz"))[0] == 200


async def test_it_is_not_ready_without_nats_and_its_other_pages_still_answer(
    own_service: Service, empty_nats: EmbeddedNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_runner, "CHECK_SECONDS", 0.5)
    os.kill(empty_nats.pid, signal.SIGKILL)

    await until(not_ready(own_service.http_url, '"nats": "not connected"'), "it is not ready")
    # A NATS that is known to be away is not asked: that would take until the probe's own time is up.
    assert '"streams": "cannot be asked for"' in (await get(f"{own_service.http_url}/readyz"))[1]
    for path in ("/livez", "/metrics", "/docs"):
        assert (await get(f"{own_service.http_url}{path}"))[0] == 200


async def test_metrics_show_the_work_and_the_queues(local_service: Running, model: ModelServer) -> None:
    async def value(name: str) -> float:
        _, text = await get(f"{local_service.service.http_url}/metrics")
        (line,) = [line for line in text.splitlines() if line.startswith(f"{name} ")]
        return float(line.rpartition(" ")[2])

    async def outcomes_counted() -> bool:
        return await value(answered) == before + 2

    answered = 'parley_agent_outcomes_total{outcome="completed",role="QA"}'
    before = await value(answered)
    await local_service.client.deliberate("x", role="QA", agents=2)
    await until(outcomes_counted, "both outcomes are counted")
    assert await value("parley_pool_slots") == local_service.settings.pool_slots
    assert await value('parley_consumer_pending{consumer="dispatch"}') == 0


async def test_metrics_show_how_busy_the_pool_is(local_service: Running, model: ModelServer) -> None:
    await model.behave(faults={"hang": 1.0})
    submitted = await local_service.client.submit("x", timeout_seconds=60)

    async def busy() -> bool:
        _, text = await get(f"{local_service.service.http_url}/metrics")
        return (
            "\nparley_pool_busy 3.0\n" in text
            and '\nparley_consumer_ack_pending{consumer="dispatch"} 3.0\n' in text
        )

    await until(busy, "three slots are shown busy, and three messages handed out")
    await local_service.client.cancel(submitted.task_id)
    await local_service.client.ending(submitted)


async def test_the_documentation_uses_local_assets_only(local_service: Running) -> None:
    url = local_service.service.http_url
    status, page = await get(f"{url}/docs")
    assert status == 200
    references = re.findall(r"""(?:src|href)=["']([^"']*)""", page)
    assert sorted(references) == ["/docs/assets/asyncapi.css", "/docs/assets/asyncapi.js", "data:,"]
    status, css = await get(f"{url}/docs/assets/asyncapi.css")
    assert status == 200
    assert re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", css) == []
    status, script = await get(f"{url}/docs/assets/asyncapi.js")
    assert status == 200
    assert "AsyncApiStandalone" in script


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_no_request_over_http_changes_anything(local_service: Running, method: str) -> None:
    async with aiohttp.ClientSession() as http:
        for path in (*PATHS, "/", "/docs/try", "/asyncapi/try", "/docs/assets/try"):
            body = {"channelName": "deliberation.requested", "message": {}}
            async with http.request(method, f"{local_service.service.http_url}{path}", json=body) as response:
                assert response.status in (404, 405), path


@pytest.mark.parametrize(
    "path",
    ["/", "/docs/", "/docs/try", "/docs/assets/", "/docs/assets/README.md", "/docs/assets/..%2fhttp.py"],
)
async def test_no_other_path_is_served(local_service: Running, path: str) -> None:
    assert (await get(f"{local_service.service.http_url}{path}"))[0] == 404


# ── what one machine may lack ─────────────────────────────────────────────────────────────────────────────────────


async def test_what_is_missing_is_started_and_stopped_again(tmp_path: Path) -> None:
    async with embedded(load(pool="local", http_port=0), tmp_path, simulated=("--model", "m-9")) as local:
        filled = local.settings
        assert local.model is LocalModel.SIMULATED
        assert filled.nats_url is not None
        assert filled.vllm_url is not None
        async with service(filled), connect_client(filled.nats_url) as client:
            assert (await client.deliberate("x", agents=1)).results[0].proposal.model == "m-9"
    port = int(filled.nats_url.rpartition(":")[2])
    for gone in (port, int(filled.vllm_url.rpartition(":")[2])):
        with pytest.raises(OSError, match=str(gone)):
            await asyncio.open_connection("127.0.0.1", gone)


async def test_what_is_there_is_used(tmp_path: Path) -> None:
    settings = load(nats_url="nats://there:4222", vllm_url="http://there:8000")
    async with embedded(settings, tmp_path / "unused", model=LocalModel.TINY) as local:
        assert local == LocalParts(settings, None)
    assert not (tmp_path / "unused").exists()


async def test_where_the_tiny_model_cannot_be_had_the_simulated_one_answers_and_it_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_model_process, "missing_part", lambda: "xllamacpp")
    said: list[str] = []
    settings = load(nats_url="nats://there:4222")
    async with embedded(settings, tmp_path, model=LocalModel.TINY, say=said.append) as local:
        assert local.model is LocalModel.SIMULATED
        assert local.settings.vllm_url is not None
        assert not local.settings.vllm_stream
    assert said == ["no tiny model here: xllamacpp is not installed. The simulated one answers instead"]


async def test_the_tiny_model_is_asked_for_streams_which_end_when_their_client_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def served(_: Path) -> AsyncIterator[str]:
        yield "http://there:8000"

    monkeypatch.setattr(local_nats_and_model, "tiny_model", served)
    async with embedded(load(nats_url="nats://there:4222"), tmp_path, model=LocalModel.TINY) as local:
        assert local.model is LocalModel.TINY
        assert (local.settings.vllm_url, local.settings.vllm_stream) == ("http://there:8000", True)
        assert local.settings.vllm_first_byte_timeout_seconds == TINY_FIRST_BYTE_SECONDS


async def test_a_simulator_that_cannot_start_is_reported() -> None:
    with pytest.raises(Unavailable, match="simulated"):
        async with simulator("--fault", "earthquake"):
            pass


def test_the_document_needs_no_connection() -> None:
    document = asyncapi_document()
    assert document["asyncapi"] == "3.0.0"
