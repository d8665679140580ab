"""Ray as others run it: a service that finds no place in it says why, soon, in one line; and a local Ray of ours comes
up beside everything."""

import asyncio
import os
import re
import shutil
import signal
import sys
import tempfile
import venv
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import ray

from parley.broker.jetstream.embedded import EmbeddedNats
from tests.harness import ModelServer
from tests.integration.test_whole_command import PARLEY, alive
from tests.rig.child import Child, answers, child
from tests.rig.proc import descendants, free_port
from tests.rig.ray_head import ON_LOOPBACK, RayHead, ray_head, token
from tests.rig.service import plain_environment
from tests.rig.waiting import until

pytestmark = pytest.mark.ray

NO_SERVICE = 3
OUR_PYTHON = ".".join(map(str, sys.version_info[:3]))
# A start that fails must be over by then: Ray is imported (2 s), looked at, and the actors' places are waited for.
SOON_SECONDS = 60.0
UP_SECONDS = 90.0
# Ray itself takes half a minute.
NOTICED_SECONDS = 10.0
STOP_SECONDS = 40.0


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path leaves room for Ray's sockets."""
    made = Path(tempfile.mkdtemp(prefix="rayhome-", dir="/tmp"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def service(empty_nats: EmbeddedNats, model: ModelServer, short: Path) -> dict[str, str]:
    """The variables of a `parley serve` or `up`."""
    return plain_environment(
        **ON_LOOPBACK,
        RAY_AUTH_MODE="disabled",
        NATS_URL=empty_nats.url,
        VLLM_URL=model.url,
        HOME=str(short),
        PARLEY_HOME=str(short / "p"),
        PARLEY_POOL_SLOTS="4",
        PARLEY_DRAIN_SECONDS="1",
        PARLEY_HTTP_PORT=str(free_port()),
        PARLEY_GATEWAY_PORT="0",
        PARLEY_GATEWAY_GRPC_PORT="0",
    )


@asynccontextmanager
async def parley(command: str, settings: Mapping[str, str], folder: Path) -> AsyncIterator[Child]:
    log = folder / "parley.log"
    async with child([PARLEY, command], log, settings, stop_seconds=STOP_SECONDS) as process:
        yield process


async def ready(process: Child, settings: Mapping[str, str]) -> None:
    async with aiohttp.ClientSession() as http:
        url = f"http://127.0.0.1:{settings['PARLEY_HTTP_PORT']}/readyz"
        await process.ready(lambda: answers(http, url), UP_SECONDS)


async def told(process: Child) -> str:
    """The line with which it left."""
    async with asyncio.timeout(SOON_SECONDS):
        code = await process.process.wait()
    text = process.log.read_text()
    assert code == NO_SERVICE, text
    assert "Traceback" not in text, text
    (line,) = [line for line in text.splitlines() if line.startswith("parley: ")]
    return line


def without_parley(folder: Path) -> tuple[list[str], dict[str, str]]:
    """A `ray` whose Python has all that this one has installed, but not Parley: it is installed by a `.pth` file, which
    Python does not read in folders of PYTHONPATH."""
    venv.create(folder, symlinks=True)
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    return [str(folder / "bin" / "python"), "-m", "ray.scripts.scripts"], {"PYTHONPATH": packages}


async def test_each_cluster_that_cannot_be_used_is_told_in_one_line(
    service: dict[str, str], tmp_path: Path
) -> None:
    """One head for several cases: each takes seconds to come up."""
    async with ray_head(cpus=1, environment=token("right")) as head:
        joined = {**service, "RAY_ADDRESS": head.address}
        for given in ({"RAY_AUTH_MODE": "disabled"}, token("wrong")):
            async with parley("serve", {**joined, **given}, tmp_path) as process:
                line = await told(process)
            assert line.startswith(f"parley: cannot use Ray at {head.address}: it asks for a token")
            assert "RAY_AUTH_TOKEN" in line
            assert "right" not in line
            assert "wrong one" in line
        async with parley(
            "serve", {**joined, **token("right"), "PARLEY_POOL_ACTORS": "2"}, tmp_path
        ) as process:
            line = await told(process)
        assert "wants 2 actors of 1 CPU and the cluster, 1 node with 1 CPU, has room for 1 of them" in line
        assert "lower PARLEY_POOL_ACTORS (it is 2)" in line
        assert head.process.process.returncode is None


@pytest.mark.parametrize(
    ("ray_there", "python_there"),
    [("2.49.0", OUR_PYTHON), (ray.__version__, "3.12.4")],
    ids=["Ray", "Python"],
)
async def test_a_cluster_of_another_version_is_told_so(
    service: dict[str, str], tmp_path: Path, ray_there: str, python_there: str
) -> None:
    """A head that says so of itself. A real one, of Ray 2.58 on Python 3.11.2, was told in the same words."""
    script = (
        "import sys; from ray._private import utils; from ray.scripts.scripts import main\n"
        f"utils.compute_version_info = lambda: ({ray_there!r}, {python_there!r})\n"
        "main()"
    )
    async with (
        ray_head(command=[sys.executable, "-c", script]) as head,
        parley("serve", {**service, "RAY_ADDRESS": head.address}, tmp_path) as process,
    ):
        line = await told(process)
    theirs, ours = (
        f"Ray {one} on Python {two}"
        for one, two in ((ray_there, python_there), (ray.__version__, OUR_PYTHON))
    )
    assert f"the cluster runs {theirs}, and this process {ours}. Both sides" in line


async def test_an_actor_that_cannot_reach_nats_is_told_in_its_own_words(
    service: dict[str, str], tmp_path: Path
) -> None:
    nobody = f"nats://127.0.0.1:{free_port()}"
    refused = f"cannot reach NATS at {nobody}: [Errno 111] Connection refused"
    given = {**service, "PARLEY_WORKER_NATS_URL": nobody}
    async with parley("serve", given, tmp_path) as process:
        assert (await told(process)).startswith(f"parley: {refused}")
    async with (
        ray_head() as head,
        parley("serve", {**given, "RAY_ADDRESS": head.address}, tmp_path) as process,
    ):
        line = await told(process)
    assert line.startswith(f"parley: cannot use Ray at {head.address}: an actor could not start ({refused}")


async def test_a_cluster_without_parley_is_told_so(service: dict[str, str], tmp_path: Path) -> None:
    command, environment = without_parley(tmp_path / "bare")
    async with (
        ray_head(cpus=2, command=command, environment=environment) as head,
        parley("serve", {**service, "RAY_ADDRESS": head.address}, tmp_path) as process,
    ):
        line = await told(process)
    assert line.startswith(
        f"parley: cannot use Ray at {head.address}: its nodes have no Parley (No module named 'parley"
    )
    assert "Install parley-queue[server]" in line


async def test_a_head_of_another_hand_is_not_touched_by_ours(service: dict[str, str], tmp_path: Path) -> None:
    """`parley up` beside `ray start --head`, with a file that names it, a stale one, and a variable for others."""
    async with AsyncExitStack() as stack:
        head = await stack.enter_async_context(ray_head(cpus=1))
        temporary = tmp_path / "t"
        (temporary / "ray").mkdir(parents=True)
        stale = temporary / "ray" / "ray_current_cluster"
        stale.write_text(f"127.0.0.1:{free_port()}")
        before = jobs(head)
        settings = {
            **service, "RAY_TMPDIR": str(temporary), "RAY_ADDRESS": head.address, "PARLEY_RAY_ADDRESS": "local",
        }  # fmt: skip
        process = await stack.enter_async_context(parley("up", settings, tmp_path))
        await ready(process, settings)
        assert jobs(head) == before == 0, "nobody joined it"
        assert stale.exists()
        ours = set(descendants(process.pid))
        session = Path(settings["PARLEY_HOME"]) / "ray"
        assert session.is_dir()
        process.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.process.wait(), STOP_SECONDS)
        assert not session.exists(), "what the local Ray wrote is gone"
        await until(lambda: not alive(ours), "its processes are gone")
        assert head.process.process.returncode is None


def jobs(head: RayHead) -> int:
    """How many drivers the head has had."""
    return len(ray._raylet.GcsClient(address=head.address).get_all_job_info())  # type: ignore[attr-defined]


async def test_a_replaced_head_is_noticed_and_told(service: dict[str, str], tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{service['PARLEY_HTTP_PORT']}/readyz"
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        first = await stack.enter_async_context(AsyncExitStack())
        head = await first.enter_async_context(ray_head(cpus=2, port=port))
        settings = {**service, "RAY_ADDRESS": head.address}
        process = await stack.enter_async_context(parley("serve", settings, tmp_path))
        await ready(process, settings)
        (store,) = [pid for pid in descendants(head.process.pid) if b"gcs_server" in cmdline(pid)]
        os.kill(store, signal.SIGKILL)
        await stack.enter_async_context(ray_head(cpus=2, port=port))
        replaced = asyncio.get_running_loop().time()
        await until(lambda: not_ready(http, url), "it is not ready")
        assert asyncio.get_running_loop().time() - replaced < NOTICED_SECONDS
        assert await told(process) == "parley: Ray's head was started anew; stopped, to be started again"


async def not_ready(http: aiohttp.ClientSession, url: str) -> bool:
    return not await answers(http, url)


async def test_what_actors_write_is_in_the_log_of_the_dispatcher(
    service: dict[str, str], empty_nats: EmbeddedNats, tmp_path: Path
) -> None:
    """The line that an actor logs before it ends itself, because NATS will not have it, and a crash's words."""
    settings = {**service, "PARLEY_POOL_ACTORS": "1"}
    async with parley("up", settings, tmp_path) as process:
        await ready(process, settings)
        (actor,) = [pid for pid in descendants(process.pid) if b"LoggingActor" in cmdline(pid)]
        os.kill(actor, signal.SIGABRT)
        logged = re.compile(
            r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} WARNING parley.workers \S+-1\.1 wrote: ", re.MULTILINE
        )
        await until(lambda: logged.search(process.log.read_text()), "the crash is in the log")


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
