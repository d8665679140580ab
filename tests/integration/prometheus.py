"""A real Prometheus for tests: found on the PATH, or fetched from Debian once into a cache folder of our own.

Nothing of the system is changed. The package lists and the package itself go to the cache and are only unpacked there, so no
daemon is installed and none is started; that needs no root. Where there is no apt, or nothing to fetch from, `NotHere` says why.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import yarl

from benchmarks.machine import free_port
from tests.harness import until

# For about 30 MB in all: it takes three seconds here. Behind a slow mirror it ends well before pytest's own timeout.
FETCH_SECONDS = 60.0
PROMTOOL_SECONDS = 30.0
STOP_SECONDS = 10.0
# Another program may take the port between our look and Prometheus' start.
START_TRIES = 3


class NotHere(Exception):
    """No Prometheus, and why."""


@dataclass(frozen=True, slots=True)
class Tools:
    prometheus: Path
    promtool: Path

    def complaints(self, *arguments: str | Path, text: str | None = None) -> str:
        """What promtool has to say against it, given `text` as its input; empty when it is content."""
        command = [self.promtool, *arguments]
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, check=False, timeout=PROMTOOL_SECONDS
        )
        return f"{done.stdout}{done.stderr}" if done.returncode else ""


def tools() -> Tools:
    """The PATH's, else the cache's, else fetched. Raises NotHere."""
    found = [shutil.which(name) for name in ("prometheus", "promtool")]
    if all(found):
        return Tools(*(Path(path) for path in found if path))
    folder = _cache() / "prometheus"
    if not folder.exists():
        _fetch(folder)
    return Tools(folder / "usr/bin/prometheus", folder / "usr/bin/promtool")


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "parley-tests"


def _fetch(folder: Path) -> None:
    if not all(shutil.which(name) for name in ("apt-get", "dpkg")):
        raise NotHere("no `prometheus` on the PATH, and no apt-get and dpkg to fetch it with")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        work = Path(name)
        for part in ("lists/partial", "archives/partial"):
            (work / part).mkdir(parents=True)
        # Lists and locks of our own: the system's may be absent, old, or another's to hold. No sandbox user, who could not write here.
        ours = {
            "Dir::State::Lists": work / "lists",
            "Dir::Cache": work,
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
        }
        apt = [
            "apt-get",
            "--quiet",
            *(part for key, value in ours.items() for part in ("-o", f"{key}={value}")),
        ]
        end = time.monotonic() + FETCH_SECONDS
        _run([*apt, "update"], work, end)
        _run([*apt, "download", "prometheus"], work, end)
        (package,) = work.glob("prometheus_*.deb")
        _run(["dpkg", "-x", str(package), str(work / "unpacked")], work, end)
        with suppress(OSError):  # another test run was first: its copy serves as well
            (work / "unpacked").rename(folder)
    if not folder.exists():
        raise NotHere(f"fetched, but {folder} could not be written")


def _run(command: Sequence[str], folder: Path, end: float) -> None:
    left = max(0.1, end - time.monotonic())
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=left)
    except subprocess.TimeoutExpired:
        raise NotHere(
            f"not fetched within {FETCH_SECONDS:g} s, `{command[0]} … {command[-1]}` still ran"
        ) from None
    except (OSError, subprocess.CalledProcessError) as error:
        words = (getattr(error, "stderr", None) or str(error)).strip()
        raise NotHere(f"`{command[0]} … {command[-1]}` failed: {words[-300:]}") from None


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

    async def ready(self) -> bool:
        try:
            async with self._http.get(f"{self.url}/-/ready") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

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
    """A server on a free port of loopback that scrapes `target` (host:port) every second. Keeps everything in `folder`."""
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
            await _ended(process)


async def _started(
    installed: Tools, folder: Path, config: Path, http: aiohttp.ClientSession
) -> tuple[asyncio.subprocess.Process, str]:
    log = folder / "prometheus.log"
    for _ in range(START_TRIES):
        address = f"127.0.0.1:{free_port()}"
        with log.open("wb") as words:
            process = await asyncio.create_subprocess_exec(
                str(installed.prometheus),
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                start_new_session=True,
            )
        server = Prometheus(f"http://{address}", http)

        async def ready_or_gone(
            server: Prometheus = server, process: asyncio.subprocess.Process = process
        ) -> bool:
            return process.returncode is not None or await server.ready()

        try:
            await until(ready_or_gone, "Prometheus is ready")
        except BaseException:
            await _ended(process)
            raise
        if process.returncode is None:
            return process, server.url
    raise AssertionError(f"Prometheus did not start:\n{log.read_text(errors='replace')[-2000:]}")


async def _ended(process: asyncio.subprocess.Process) -> None:
    """End the process that was started here: ask, wait, insist."""
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
