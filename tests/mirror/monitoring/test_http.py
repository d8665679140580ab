"""The operators' HTTP server: what each path answers, on which address, and that no request changes anything."""

import asyncio
import gzip
import io
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_fd_to_metric_families as text_fd_to_openmetrics
from prometheus_client.parser import text_fd_to_metric_families, text_string_to_metric_families

from parley.monitoring import asyncapi
from parley.monitoring.check_runner import Check
from parley.monitoring.http import application, serving
from parley.monitoring.metrics import Metrics

SPEC = {"asyncapi": "3.0.0", "info": {"title": "A <title> & more"}}
IPV6 = socket.has_ipv6


async def healthy() -> str | None:
    return None


async def unhealthy() -> str | None:
    return "stream X is missing"


@asynccontextmanager
async def http_server(
    checks: Mapping[str, Check] | None = None,
    refresh: Callable[[], Awaitable[None]] | None = None,
    host: str = "127.0.0.1",
    notes: Callable[[], Mapping[str, str]] = dict,
) -> AsyncIterator[tuple[str, aiohttp.ClientSession]]:
    app = application(Metrics("llama"), checks or {}, SPEC, refresh, notes=notes)
    async with serving(app, host, 0) as url, aiohttp.ClientSession() as http:
        yield url, http


async def test_failed_checks_do_not_make_it_dead() -> None:
    async with http_server({"streams": unhealthy}) as (url, http), http.get(f"{url}/livez") as response:
        assert (response.status, await response.json()) == (200, {"live": True})


async def test_it_is_ready_when_every_check_succeeds() -> None:
    async with http_server({"nats": healthy}) as (url, http), http.get(f"{url}/readyz") as response:
        assert (response.status, await response.json()) == (200, {"ready": True, "problems": {}})


async def test_a_note_does_not_make_it_unready() -> None:
    notes = {"clock": "20 s ahead; corrected for"}
    async with (
        http_server({"nats": healthy}, notes=lambda: notes) as (url, http),
        http.get(f"{url}/readyz") as response,
    ):
        assert response.status == 200
        assert await response.json() == {"ready": True, "problems": {}, "notes": notes}


async def test_it_is_not_ready_while_a_check_fails_and_names_the_check() -> None:
    async with (
        http_server({"nats": healthy, "streams": unhealthy}) as (url, http),
        http.get(f"{url}/readyz") as response,
    ):
        assert response.status == 503
        assert await response.json() == {"ready": False, "problems": {"streams": "stream X is missing"}}


async def test_metrics_are_refreshed_and_served_in_prometheus_form() -> None:
    refreshed = 0

    async def refresh() -> None:
        nonlocal refreshed
        refreshed += 1

    async with http_server(refresh=refresh) as (url, http):
        for expected in (1, 2):
            async with http.get(f"{url}/metrics") as response:
                assert response.status == 200
                assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
                families = {family.name for family in text_string_to_metric_families(await response.text())}
            assert refreshed == expected
        assert {"parley_deliberations_accepted", "parley_agent_duration_seconds"} <= families


async def test_every_form_that_prometheus_asks_for_has_the_same_series() -> None:
    forms = {
        "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8": text_fd_to_openmetrics,
        "text/plain;version=1.0.0;escaping=allow-utf-8": text_fd_to_metric_families,
        "text/plain;version=0.0.4": text_fd_to_metric_families,
    }
    found = []
    async with http_server() as (url, http):
        for accept, parse in forms.items():
            asked = {"accept": accept, "accept-encoding": "gzip"}
            async with http.get(f"{url}/metrics", headers=asked) as response:
                assert response.content_type == accept.partition(";")[0]
                assert response.headers["content-encoding"] == "gzip"
                families = parse(io.StringIO(await response.text()))
            samples = [sample for family in families for sample in family.samples]
            found.append({(sample.name, *sample.labels.items()): sample.value for sample in samples})
    assert found[0] == found[1] == found[2]
    assert len(found[0]) > 200


async def test_the_document_and_its_page_are_served() -> None:
    async with http_server() as (url, http):
        async with http.get(f"{url}/docs/asyncapi.json") as response:
            assert await response.json() == SPEC
        async with http.get(f"{url}/docs") as response:
            assert response.content_type == "text/html"
            assert await response.text() == asyncapi.page(SPEC)


@pytest.mark.parametrize(("name", "kind"), [("asyncapi.js", "text/javascript"), ("asyncapi.css", "text/css")])
async def test_assets_come_from_the_package(name: str, kind: str) -> None:
    async with http_server() as (url, http), http.get(f"{url}/docs/assets/{name}") as response:
        assert (response.status, response.content_type) == (200, kind)
        assert await response.read() == gzip.decompress((asyncapi.ASSETS / f"{name}.gz").read_bytes())


@pytest.mark.parametrize("name", ["README.md", "asyncapi.js.gz", "..%2F..%2Fhttp.py", "%2Fetc%2Fpasswd", ""])
async def test_only_the_two_assets_are_served(name: str) -> None:
    async with http_server() as (url, http), http.get(f"{url}/docs/assets/{name}") as response:
        assert response.status == 404


@pytest.mark.parametrize(
    "path",
    [
        "/metrics", "/livez", "/readyz", "/docs", "/docs/asyncapi.json", "/docs/assets/asyncapi.js",
        "/docs/try",
    ],
)  # fmt: skip
async def test_no_path_accepts_a_post(path: str) -> None:
    async with http_server() as (url, http), http.post(f"{url}{path}", json={}) as response:
        assert response.status in (404, 405)


async def test_a_taken_port_is_an_error_and_leaves_no_task() -> None:
    def ours() -> list[str]:
        """Other tests' services run in this event loop too."""
        return [task.get_name() for task in asyncio.all_tasks() if "HTTP" in task.get_name()]

    before = ours()
    async with http_server() as (url, _):
        port = int(url.rpartition(":")[2])
        with pytest.raises(OSError, match=str(port)):
            async with serving(application(Metrics("m"), {}, SPEC), "127.0.0.1", port):
                pass
    assert ours() == before


async def test_it_listens_on_the_given_host_until_the_block_ends() -> None:
    async with http_server() as (url, _):
        host, _, port = url.removeprefix("http://").partition(":")
        assert host == "127.0.0.1"
    with pytest.raises(OSError, match=port):
        await asyncio.open_connection(host, int(port))


@pytest.mark.skipif(not IPV6, reason="no IPv6 on this machine")
async def test_an_ipv6_address_gives_a_usable_url() -> None:
    try:
        async with http_server(host="::1") as (url, http), http.get(f"{url}/livez") as response:
            assert json.loads(await response.text()) == {"live": True}
    except OSError as error:
        pytest.skip(f"no IPv6 loopback on this machine: {error}")


async def test_a_scraper_with_a_strange_accept_header_gets_plain_text() -> None:
    async with (
        serving(application(Metrics("m"), {}, {}), "127.0.0.1", 0) as url,
        aiohttp.ClientSession() as http,
    ):
        accept = {"accept": "application/openmetrics-text; version=abc"}
        async with http.get(f"{url}/metrics", headers=accept) as response:
            assert response.status == 200
            assert response.content_type == "text/plain"
            assert "parley_" in await response.text()
