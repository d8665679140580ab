"""`parley doctor`: one finding for each thing that is needed, and for what is missing, what to do."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from parley import doctor
from parley.broker.core.messages import ServiceProcess
from parley.broker.jetstream import connection, server_clock
from parley.broker.jetstream.connection import connect
from parley.broker.jetstream.embedded import EmbeddedNats, embedded_nats
from parley.broker.jetstream.provision import provision
from parley.doctor import Finding, examine
from parley.operator_http import VERSION
from parley.process_report import process_name
from parley.settings import load
from tests.harness import ModelServer, Running, model_server
from tests.mirror.workers.pool.test_ray_reachability import SETTINGS, server
from tests.rig.habit_server import Heard, Reply, either, habit_server, having, refusal
from tests.rig.proc import free_port


async def findings(**settings: Any) -> dict[str, Finding]:
    found = [finding async for finding in examine(load(**settings))]
    assert len({finding.what for finding in found}) == len(found)
    return {finding.what: finding for finding in found}


async def test_with_a_running_service_all_is_found(local_service: Running, model: ModelServer) -> None:
    settings = local_service.settings
    found = await findings(nats_url=settings.nats_url, vllm_url=model.url)
    process = f"process {process_name()}"
    assert list(found) == ["NATS", process, "store", f"model at {model.url}"]
    assert all(finding.ok for finding in found.values())
    assert found["NATS"].detail.startswith("version 2.")
    served = found[process].detail
    assert served.startswith(f"aggregate,dispatch,intake,query, version {VERSION}, since 20")
    assert f"agents at work, asking simulated-model at {model.url}" in served
    assert found[f"model at {model.url}"].detail == (
        "simulated-model generated a token, takes prompts and answers of up to 32,768 tokens together"
    )


@pytest.mark.usefixtures("model")
async def test_beside_a_healthy_service_nothing_needs_to_be_set_here(local_service: Running) -> None:
    """Nor does it matter with which settings the service was started."""
    found = await findings(nats_url=local_service.settings.nats_url, keep_seconds=7_200.0)
    assert [finding.ok for finding in found.values()] == [True, True, True]


def process(parts: str, **fields: Any) -> ServiceProcess:
    given: dict[str, Any] = {"process": f"host-{parts}", "version": "1", "started_at": "2026-01-01T00:00:00Z"}
    return ServiceProcess(**{**given, "parts": tuple(parts.split(",")), **fields})


@pytest.mark.parametrize(
    ("processes", "red", "words"),
    [
        ([], ["service"], "no process of the service answers; start one with `parley up` or `parley serve`"),
        ([process("intake,dispatch,aggregate,query")], [], ""),
        ([process("intake,aggregate"), process("dispatch,query")], [], ""),
        ([process("intake,aggregate,query")], ["part dispatch"], "`parley serve --parts dispatch`"),
        ([process("dispatch")], ["part intake", "part aggregate", "part query"], "no process serves it"),
        (
            [process("intake,dispatch,aggregate,query", problems={"models": "http://m: nothing listens"})],
            ["process host-intake,dispatch,aggregate,query"],
            "models: http://m: nothing listens",
        ),
        (
            [process("intake,dispatch,aggregate,query"), process("query", version="2")],
            [],
            "several run: 1, 2",
        ),
    ],
)
def test_each_part_must_be_served_by_a_process_without_problems(
    processes: list[ServiceProcess], red: list[str], words: str
) -> None:
    found = list(doctor.serving(processes))
    assert [finding.what for finding in found if not finding.ok] == red
    assert words in str(found)


async def test_a_store_without_a_service_is_looked_at_from_here(empty_nats: EmbeddedNats) -> None:
    nc = await connect(empty_nats.url, "tests")
    await provision(nc.jetstream())
    await nc.close()
    found = await findings(nats_url=empty_nats.url)
    assert (found["streams"].detail, found["store"].detail) == ("as declared", "stores what is published")
    assert not found["service"].ok


async def test_a_clock_that_is_wrong_is_told_and_is_no_fault(
    local_service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    class AnHourAhead:
        monotonic = staticmethod(time.monotonic)

        @staticmethod
        def time() -> float:
            return time.time() + 3_600

    monkeypatch.setattr(server_clock, "time", AnHourAhead)
    finding = (await findings(nats_url=local_service.settings.nats_url))["NATS"]
    assert finding.ok
    assert "this machine's clock is 3600.0 s ahead of the NATS server's; corrected for" in finding.detail


async def test_without_settings_it_names_the_missing_ones() -> None:
    found = await findings()
    assert not found["NATS"].ok
    assert "NATS_URL" in found["NATS"].detail


async def test_a_nats_without_an_answer_is_named_without_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT_SECONDS", 0.1)
    finding = (await findings(nats_url=f"nats://hush@127.0.0.1:{free_port()}"))["NATS"]
    assert not finding.ok
    assert "127.0.0.1" in finding.detail
    assert "hush" not in finding.detail


async def test_missing_streams_are_listed_and_are_not_made(empty_nats: EmbeddedNats) -> None:
    for _ in range(2):
        finding = (await findings(nats_url=empty_nats.url))["streams"]
        assert not finding.ok
        assert "stream DELIBERATIONS" in finding.detail
        assert "consumer AGENT_REQUESTS/dispatch" in finding.detail


async def test_a_stream_that_differs_is_reported_with_its_difference(empty_nats: EmbeddedNats) -> None:
    nc = await connect(empty_nats.url, "tests")
    await provision(nc.jetstream())
    live = (await nc.jetstream().stream_info("DELIBERATIONS")).config
    await nc.jetstream().update_stream(live, max_msgs=40)
    await nc.close()
    finding = (await findings(nats_url=empty_nats.url))["streams"]
    assert not finding.ok
    assert "stream DELIBERATIONS: max_msgs is 40" in finding.detail


async def test_a_nats_without_jetstream_is_no_use(tmp_path: Path) -> None:
    async with embedded_nats(tmp_path, jetstream=False) as server:
        found = await findings(nats_url=server.url)
    (problem,) = [finding for finding in found.values() if "JetStream" in finding.detail]
    assert not problem.ok


# ── Ray ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "settings",
    [{"pool": "local", "ray_address": "auto"}, {"ray_address": "auto"}, {"ray_address": "local"}],
    ids=str,
)
async def test_where_ray_cannot_be_looked_for_the_line_is_skipped(settings: dict[str, str]) -> None:
    finding = (await findings(**settings))["Ray"]
    assert finding.ok
    assert finding.skipped


async def test_a_ray_that_answers_is_found() -> None:
    async with server(SETTINGS) as address:
        finding = (await findings(ray_address=address))["Ray"]
    assert finding.ok
    assert not finding.skipped


@pytest.mark.parametrize(
    "address", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "no-such-host.invalid:{}", "127.0.0.1:port", "[::1"]
)
async def test_an_unreachable_ray_is_reported_with_what_to_check(address: str) -> None:
    wrong = address.format(free_port())
    finding = (await findings(ray_address=wrong))["Ray"]
    assert not finding.ok
    assert wrong in finding.detail
    assert "RAY_ADDRESS" in finding.detail


# ── models ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_each_model_server_has_its_own_line(model: ModelServer) -> None:
    absent = f"http://127.0.0.1:{free_port()}"
    found = await findings(vllm_url=f"{model.url},{absent}")
    assert found[f"model at {model.url}"].ok
    assert not found[f"model at {absent}"].ok
    assert "connection_failed" in found[f"model at {absent}"].detail


async def test_a_server_with_other_models_is_for_panels_while_another_has_the_services_own() -> None:
    async with habit_server(having("one")) as one, habit_server(having("two")) as two:
        urls = f"{one.url},{two.url}"
        found = await findings(vllm_url=urls, vllm_model="one")
        other = found[f"model at {two.url}"]
        assert found[f"model at {one.url}"].ok
        assert other.ok
        assert other.detail == (
            "one is not served there; it serves two (model_not_found). two generated a token: for requests that name "
            "its models"
        )
        found = await findings(vllm_url=urls, vllm_model="three")
        assert not any(finding.ok for what, finding in found.items() if what.startswith("model at"))


async def test_a_context_too_short_for_parleys_instructions_is_reported_with_the_remedy() -> None:
    async with model_server("--max-model-len", "64") as short:
        finding = (await findings(vllm_url=short.url))[f"model at {short.url}"]
    assert not finding.ok
    assert "64 tokens" in finding.detail
    assert "--max-model-len" in finding.detail


async def test_a_server_that_does_not_say_how_long_its_context_is_passes_without() -> None:
    body = b'{"data": [{"id": "m"}], "choices": [{"message": {"content": "x"}, "finish_reason": "length"}]}'

    async def same(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body)
        writer.close()

    async with await asyncio.start_server(same, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finding = (await findings(vllm_url=url))[f"model at {url}"]
    assert finding.ok
    assert finding.detail == "m generated a token"


async def test_a_token_that_is_no_text_is_one(model: ModelServer) -> None:
    await model.behave(faults={"null": 1.0})
    assert (await findings(vllm_url=model.url))[f"model at {model.url}"].ok


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, {"data": [{"id": "llama3:latest"}]}, "llama3 generated a token"),
        (200, [{"id": "llama3"}], "llama3 generated a token"),
        (404, {"detail": "Not Found"}, "llama3 generated a token; its list does not show it (HTTP 404 from"),
        (200, {"data": [{"id": "m"}]}, "llama3 generated a token; its list does not show it"),
    ],
)
async def test_a_token_outweighs_the_list(status: int, body: object, words: str) -> None:
    def habit(heard: Heard) -> Reply:
        return (status, body, {}) if heard.method == "GET" else either(heard)

    async with habit_server(habit) as server:
        finding = (await findings(vllm_url=server.url, vllm_model="llama3"))[f"model at {server.url}"]
    assert finding.ok
    assert words in finding.detail


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (404, {"detail": "Not Found"}, "HTTP 404"),
        (200, {"data": [{"id": "openai/*"}]}, "it lists only openai/*"),
        (200, {"object": "list"}, "lists no models"),
        (500, b"Internal Server Error", "HTTP 500"),  # `transformers serve` with a folder as its model
    ],
)
async def test_without_a_model_and_a_list_the_setting_is_named(status: int, body: object, words: str) -> None:
    async with habit_server(lambda _: (status, body, {})) as server:
        finding = (await findings(vllm_url=server.url))[f"model at {server.url}"]
    assert not finding.ok
    assert words in finding.detail
    assert "set VLLM_MODEL to go without its list" in finding.detail


async def test_a_server_is_asked_as_the_workers_ask_it() -> None:
    async with habit_server() as server:
        found = await findings(vllm_url=server.url, vllm_stream=True)
    assert found[f"model at {server.url}"].ok
    assert server.heard[-1].fields["stream"] is True


async def test_key_header_and_query_are_the_doctors_too_and_it_shows_no_secret() -> None:
    def habit(heard: Heard) -> Reply:
        right = heard.headers.get("api-key") == "swordfish-1" and heard.target.endswith("?code=swordfish-2")
        return either(heard) if right else refusal(400, f"{heard.headers} {heard.target}")

    async with habit_server(habit) as server:
        url = f"{server.url}/v1?code=swordfish-2"
        right = await findings(vllm_url=url, vllm_api_key="swordfish-1", vllm_api_key_header="api-key")
        wrong = await findings(vllm_url=url, vllm_api_key="swordfish-1", vllm_api_key_header="x-api-key")
    what = f"model at {server.url}/v1?code=***"
    assert right[what].ok
    assert not wrong[what].ok
    assert "swordfish" not in str(wrong)


async def test_a_server_that_refuses_the_key_is_reported_with_the_setting() -> None:
    async with model_server("--api-key", "other") as locked:
        finding = (await findings(vllm_url=locked.url, vllm_api_key="hush"))[f"model at {locked.url}"]
    assert not finding.ok
    assert finding.detail == "HTTP 401: it refuses the key, is VLLM_API_KEY right? (unauthorized)"


async def test_a_silent_server_delays_no_doctor(model: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ONE_TOKEN_SECONDS", 0.2)
    await model.behave(faults={"hang": 1.0})
    finding = (await findings(vllm_url=model.url))[f"model at {model.url}"]
    assert not finding.ok
    await model.idle()


async def test_a_password_in_a_model_servers_url_is_not_shown(model: ModelServer) -> None:
    found = await findings(vllm_url=model.url.replace("//", "//user:hush@"))
    assert "hush" not in str(found)
    assert found[f"model at {model.url.replace('//', '//***@')}"].ok
