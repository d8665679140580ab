"""A real Prometheus for tests: from the PATH, or fetched from Debian. Raises `NotHere` where neither can be had."""

import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import aiohttp
import yarl

from tests.rig.child import Child, answers, started
from tests.rig.debian import unpacked
from tests.rig.proc import free_port

PROMTOOL_SECONDS = 30.0
START_SECONDS = 30.0
# Another program may take the port before Prometheus does.
START_TRIES = 3


@dataclass(frozen=True, slots=True)
class Tools:
    prometheus: Path
    promtool: Path

    def complaints(self, *arguments: str | Path, text: str | None = None) -> str:
        """promtool's complaints, with `text` as its input. Empty if it has none."""
        command = [self.promtool, *arguments]
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, check=False, timeout=PROMTOOL_SECONDS
        )
        return f"{done.stdout}{done.stderr}" if done.returncode else ""


def tools() -> Tools:
    """From the PATH, else the cache, else fetched. Raises NotHere."""
    found = [shutil.which(name) for name in ("prometheus", "promtool")]
    if all(found):
        return Tools(*(Path(path) for path in found if path))
    folder = unpacked("prometheus")
    return Tools(folder / "usr/bin/prometheus", folder / "usr/bin/promtool")


@dataclass(frozen=True, slots=True)
class Sample:
    labels: Mapping[str, str]
    value: float


class Refused(AssertionError):
    """Prometheus answered, but not with data; `str` is its own explanation."""


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running server, by its HTTP API."""

    url: str
    _http: aiohttp.ClientSession

    async def query(self, promql: str) -> list[Sample]:
        """An instant query that gives a vector. Raises Refused."""
        data = await self._get("query", query=promql)
        assert isinstance(data, dict)
        assert data["resultType"] == "vector", promql
        return [Sample(entry["metric"], float(entry["value"][1])) for entry in data["result"]]

    async def values(self, promql: str, by: str) -> dict[str, float]:
        """An instant query's values by one label."""
        return {sample.labels[by]: sample.value for sample in await self.query(promql)}

    async def value(self, promql: str) -> float | None:
        """The value of a query that gives at most one."""
        found = await self.query(promql)
        assert len(found) <= 1, promql
        return found[0].value if found else None

    async def label_values(self, label: str, series: str) -> list[str]:
        data = await self._get(f"label/{label}/values", **{"match[]": series})
        assert isinstance(data, list)
        return [str(value) for value in data]

    async def rules(self) -> dict[str, dict[str, object]]:
        """Every loaded rule by its name."""
        data = await self._get("rules")
        assert isinstance(data, dict)
        return {rule["name"]: rule for group in data["groups"] for rule in group["rules"]}

    async def _get(self, path: str, **parameters: str) -> object:
        async with self._http.get(yarl.URL(f"{self.url}/api/v1/{path}").with_query(parameters)) as response:
            answer = await response.json()
        if answer["status"] != "success":
            raise Refused(f"{answer['error']} in {parameters}")
        data: object = answer["data"]
        return data


@asynccontextmanager
async def running(
    installed: Tools, folder: Path, job: str, target: str, rules: Path
) -> AsyncIterator[Prometheus]:
    """A server on a free port of loopback that scrapes `target` (host:port) every second. Keeps everything in
    `folder`."""
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rules)],
        "scrape_configs": [{"job_name": job, "static_configs": [{"targets": [target]}]}],
    }
    path = folder / "prometheus.yml"
    path.write_text(json.dumps(config))  # JSON is YAML
    async with aiohttp.ClientSession() as http:
        process, url = await _started(installed, folder, path, http)
        try:
            yield Prometheus(url, http)
        finally:
            await process.stop()


async def _started(
    installed: Tools, folder: Path, config: Path, http: aiohttp.ClientSession
) -> tuple[Child, str]:
    for attempt in range(1, START_TRIES + 1):
        address = f"127.0.0.1:{free_port()}"
        command = [
            str(installed.prometheus),
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={address}",
        ]
        process = await started(command, folder / "prometheus.log", os.environ)
        try:
            await process.ready(partial(answers, http, f"http://{address}/-/ready"), START_SECONDS)
        except BaseException as error:
            await process.stop()
            if not isinstance(error, RuntimeError) or attempt == START_TRIES:
                raise
        else:
            return process, f"http://{address}"
    raise AssertionError("unreachable")
