"""Wheel and sdist: one package, light without its extra, that works beside a user's modules of the same names."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from parley.broker.jetstream.embedded import EmbeddedNats, embedded_nats

ROOT = Path(__file__).resolve().parents[2]
MAX_INSTALLED_BYTES = 30 * 1024 * 1024
MAX_IMPORT_SECONDS = 0.15
# What the extra `server` brings, and nats-py would import if it were there. A client loads none of it.
HEAVY = (
    "aiohttp",
    "faststream",
    "httpx",
    "prometheus_client",
    "pydantic_settings",
    "ray",
    "rich",
    "typer",
    "uvloop",
)
# Parts of Parley that a client does not load either.
SERVICE = (
    "parley.settings",
    "parley.handlers",
    "parley.workers",
    "parley.monitoring",
    "parley.app",
    "parley.cli",
)
# A user's own modules, of names that Parley's folders have, and of modules that Parley imports.
NAMESAKES = ("broker.py", "workers/__init__.py", "handlers/__init__.py", "monitoring.py")
SHADOWS = ("nats.py", "types.py")


def environment(home: Path, **more: str) -> dict[str, str]:
    """Nothing of the checkout's environment, nor of a developer's settings."""
    ours = ("PARLEY_", "RAY_", "PYTHON", "NATS_", "VLLM_", "VIRTUAL_ENV", "UV_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "HOME": str(home), "XDG_STATE_HOME": str(home), "COLUMNS": "240", **more}


def uv(*arguments: str | Path, **more: str) -> None:
    """Run uv on the checkout: from its cache if that has everything, else with the network."""
    found = next((str(path) for path in [ROOT / ".uv/bin/uv"] if path.exists()), None) or shutil.which("uv")
    assert found is not None, "uv is neither in .uv/ nor on the PATH: `make all` fetches it"
    for offline in ("1", "0"):
        ran = subprocess.run(
            [found, *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "UV_OFFLINE": offline, **more},
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode == 0:
            return
    raise AssertionError(ran.stderr)


class Installation:
    """An environment outside the checkout with the locked dependencies and one distribution of Parley."""

    def __init__(self, folder: Path, distribution: Path, *extra: str) -> None:
        options = ("--frozen", "--no-dev", "--no-install-project", "--python", sys.executable, *extra)
        uv("sync", "--quiet", *options, UV_PROJECT_ENVIRONMENT=str(folder))
        self.python = folder / "bin/python"
        self.parley = folder / "bin/parley"
        uv("pip", "install", "--quiet", "--no-deps", "--python", self.python, distribution)
        uv("pip", "check", "--quiet", "--python", self.python)
        (self.site,) = folder.glob("lib/python*/site-packages")

    def run(
        self, *command: str | Path, cwd: Path, code: int = 0, **more: str
    ) -> subprocess.CompletedProcess[str]:
        ran = subprocess.run(
            [str(part) for part in command],
            cwd=cwd,
            env=environment(cwd / "home", **more),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert ran.returncode == code, ran.stderr
        return ran


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, the wheel built from the checkout, and in `again` the wheel built from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    uv("build", "--quiet", "--wheel", "--out-dir", folder)
    uv("build", "--quiet", "--sdist", "--out-dir", folder)
    uv("build", "--quiet", "--wheel", "--out-dir", folder / "again", only(folder, "*.tar.gz"))
    return folder


@pytest.fixture(scope="module")
def light(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation(tmp_path_factory.mktemp("light") / "venv", only(built, "*.tar.gz"))


@pytest.fixture(scope="module")
def server(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation(tmp_path_factory.mktemp("server") / "venv", only(built, "*.whl"), "--extra", "server")


def only(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def project(folder: Path, *names: str) -> Path:
    """A user's project. A module of theirs that Parley imported would be seen."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('OWNER = "user"\nprint("imported:", __name__)\n')
    return folder


# ── what is in it ─────────────────────────────────────────────────────────────────────────────────────────────────


def wheel(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/RECORD")}


def test_the_wheel_is_one_package_with_every_module_and_no_tool(built: Path) -> None:
    files = wheel(only(built, "*.whl"))
    assert {name.partition("/")[0] for name in files if ".dist-info/" not in name} == {"parley"}
    folders = [ROOT / name for name in ("broker", "handlers", "monitoring", "workers")]
    modules = {f"parley/{path.relative_to(ROOT)}" for folder in folders for path in folder.rglob("*.py")}
    own = [
        path
        for path in (ROOT / "parley").rglob("*.py")
        if not any(each.is_symlink() for each in path.parents)
    ]
    modules |= {str(path.relative_to(ROOT)) for path in own}
    tools = {name for name in modules if name.startswith("parley/monitoring/dashboard")}
    assert {name for name in files if name.endswith(".py")} == modules - tools
    assert "parley/py.typed" in files
    assert not any("dashboard" in name or "alerts" in name for name in files)


def test_the_sdist_makes_the_same_wheel(built: Path) -> None:
    assert wheel(only(built / "again", "*.whl")) == wheel(only(built, "*.whl"))
    with tarfile.open(only(built, "*.tar.gz")) as archive:
        tops = {Path(member.name).parts[1] for member in archive.getmembers()}
    assert not tops & {"tests", "benchmarks", "docs", "helm"}


# ── the client alone ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_client_installs_little_and_imports_little(light: Installation, tmp_path: Path) -> None:
    size = sum(path.stat().st_size for path in light.site.rglob("*") if path.is_file())
    assert size <= MAX_INSTALLED_BYTES
    measured = "print(json.dumps([time.perf_counter() - began, *sys.modules]))"
    script = f"import json, sys, time; began = time.perf_counter(); {{}}; {measured}"
    for statement in ("import parley", "from parley import connect"):
        loaded: list[str] = []
        seconds = []
        for _ in range(5):
            took, *loaded = json.loads(
                light.run(light.python, "-c", script.format(statement), cwd=tmp_path).stdout
            )
            seconds.append(float(took))
        print(f"{statement}: best of 5 {min(seconds):.3f} s; installed {size / 2**20:.1f} MiB")
        assert not {name for name in loaded if name.partition(".")[0] in HEAVY or name in SERVICE}
        if statement == "import parley":
            assert min(seconds) <= MAX_IMPORT_SECONDS


def test_every_public_name_is_there_and_no_other_is(light: Installation, tmp_path: Path) -> None:
    script = """
import parley
for name in parley.__all__:
    assert name in dir(parley)
    found = getattr(parley, name)
    print(name, getattr(found, "__name__", name))
try:
    parley.no_such_name
except AttributeError as error:
    print("refused", "refused")
"""
    pairs = [line.split() for line in light.run(light.python, "-c", script, cwd=tmp_path).stdout.splitlines()]
    # `Ending` and `JobEvent` are unions, which have no name of their own; `Submitted` is the former name of `Job`.
    assert {name for name, own in pairs if own != name} <= {"Ending", "JobEvent", "Submitted"}
    assert pairs[-1] == ["refused", "refused"]


def test_a_command_without_the_extra_says_in_one_line_what_to_install(
    light: Installation, tmp_path: Path
) -> None:
    for command in ((light.parley, "up"), (light.python, "-m", "parley", "ask", "x"), (light.parley,)):
        ran = light.run(*command, cwd=tmp_path, code=2)
        assert ran.stdout == ""
        assert (
            ran.stderr == "parley: this command needs the server extra: pip install 'parley-queue[server]'\n"
        )
    assert light.run(light.parley, "--version", cwd=tmp_path).stdout.strip()


PROGRAM = """
import asyncio
import broker, handlers, monitoring, workers
import parley

async def main() -> None:
    async with parley.connect() as client:
        ending = await client.deliberate("Write a factorial function", agents=2)
        print(ending.status, len(ending.results), broker.OWNER, workers.OWNER)

asyncio.run(main())
"""
AWAY = """
import asyncio
import parley

async def main() -> None:
    async with parley.connect() as client:
        print("connected", flush=True)
        input()
        try:
            await client.status("t-1")
        except parley.Unavailable as error:
            print(type(error).__name__)

asyncio.run(main())
"""


async def test_a_client_prints_no_traceback_while_nats_is_away(light: Installation, tmp_path: Path) -> None:
    async with embedded_nats(tmp_path / "nats") as nats:
        process = asking(light, tmp_path, nats, AWAY)
        assert process.stdout is not None
        assert process.stdout.readline() == "connected\n"
    out, err = process.communicate("\n", timeout=30)
    assert (out, process.returncode) == ("BrokerUnavailable\n", 0), err
    assert "Traceback" not in err


def asking(light: Installation, cwd: Path, nats: EmbeddedNats, program: str) -> subprocess.Popen[str]:
    # A client ignores Kubernetes' variable for a Service named `parley`, and a setting's misspelt name.
    more = {"NATS_URL": nats.url, "PARLEY_PORT": "tcp://10.0.0.1:4222", "PARLEY_POOL_SLOT": "x"}
    return subprocess.Popen(
        [light.python, "-c", program],
        cwd=cwd,
        env=environment(cwd / "home", **more),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


TYPED = """
from collections.abc import Mapping, Sequence

import parley


async def ask(client: parley.Client, question: str) -> parley.Ending:
    job: parley.Job = await client.submit(question, agents=3, rubric={"tests": "must pass"})
    return await job.ending(timeout=10)


def proposals(results: Sequence[parley.AgentResult]) -> list[parley.Proposal]:
    return [result.proposal for result in results]


def reasons(ending: parley.DeliberationCompleted | parley.DeliberationFailed) -> dict[str, parley.ErrorType]:
    failed: Sequence[parley.FailedAgent] = ending.failed_agents
    stored: parley.ResultsRef | None = ending.results_ref
    return {} if stored else {agent.agent_id: agent.error_type for agent in failed}


def answered(phase: parley.Phase) -> int:
    outcomes: Mapping[str, parley.Outcome] = phase.outcomes
    return sum(outcome.succeeded for outcome in outcomes.values())


async def follow(client: parley.Client, task_id: str) -> parley.DeliberationStatus:
    async for tally in client.watch(task_id):
        last: parley.Tally = tally
        print(answered(last.phase), last.ended)
    return await client.status(task_id)


async def mistakes(client: parley.Client) -> None:
    await client.deliberate("x", agent=3)  # type: ignore[call-arg]
    await client.submit("x", agents="3")  # type: ignore[arg-type]
    parley.no_such_name  # type: ignore[attr-defined]
"""


def test_a_users_program_passes_mypy_in_strict_mode(light: Installation, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(TYPED)
    command = (sys.executable, "-m", "mypy", "--strict", "--python-executable", light.python, "program.py")
    assert "Success" in light.run(*command, cwd=tmp_path).stdout


# ── the service ───────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def up(server: Installation, cwd: Path, home: Path, **more: str) -> Iterator[Mapping[str, str]]:
    """`parley up` in `cwd`; its environment, once it is up."""
    variables = environment(
        home,
        PARLEY_HTTP_PORT="0",
        PARLEY_GATEWAY_PORT="0",
        PARLEY_GATEWAY_GRPC_PORT="0",
        PARLEY_POOL_ACTORS="1",
        **more,
    )
    process = subprocess.Popen(
        [server.parley, "up"],
        cwd=cwd,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    timer = threading.Timer(60, process.kill)
    timer.start()
    try:
        printed = []
        for line in process.stdout:
            printed.append(line)
            if "Ctrl-C stops" in line:
                break
        else:
            raise AssertionError("".join(printed))
        yield variables
        assert "imported:" not in "".join(printed)
    finally:
        process.terminate()
        process.communicate()
        timer.cancel()


@pytest.mark.ray
def test_the_service_its_ray_actors_and_a_client_work_beside_modules_of_the_same_names(
    server: Installation, light: Installation, tmp_path: Path
) -> None:
    hostile = project(tmp_path / "hostile", *NAMESAKES, *SHADOWS)
    friendly = project(tmp_path / "friendly", *NAMESAKES)
    with up(server, hostile, tmp_path / "home", PARLEY_POOL="ray") as variables:
        asked = subprocess.run(
            [server.parley, "ask", "x", "--json"],
            cwd=hostile,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (asked.returncode, asked.stderr) == (0, "")
        ending = json.loads(asked.stdout)
        assert (ending["status"], ending["degraded"], len(ending["results"])) == ("completed", False, 3)
        # A user's own program imports its own modules and ours, and finds the service that was announced.
        (friendly / "program.py").write_text(PROGRAM)
        told = subprocess.run(
            [light.python, "program.py"],
            cwd=friendly,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert told.stderr == ""
        assert told.stdout.splitlines()[-1] == "completed 2 user user"
