"""Each file of examples/ does what it shows: three agents of a real service are asked, and their answers are printed."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.harness import ModelServer, Running
from tests.mirror.parley.gateway import door

EXAMPLES = Path(__file__).parents[2] / "examples"
QUESTION = 'Which is safer, "a" or ä?'
AGENTS = ["agent-dev-001", "agent-dev-002", "agent-dev-003"]
# One example. Each takes a second or two; a busy machine takes longer.
RUN_SECONDS = 30.0
# 1 s with a quick registry. One that cannot be reached must not keep the other tests waiting.
NPM_SECONDS = 30.0
# Where Debian puts Go's libraries.
GO_LIBRARIES = Path("/usr/share/gocode")
GO = ("GO111MODULE=off", f"GOPATH={GO_LIBRARIES}")


def need(*commands: str) -> None:
    """Skips where one of these commands is not installed."""
    if missing := [command for command in commands if shutil.which(command) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")


def installed_from_npm(package: str, folder: Path) -> None:
    """Skips where npm cannot have it: no network, say."""
    command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), package]
    try:
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=NPM_SECONDS)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm did not install {package} within {NPM_SECONDS:g} s")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"npm cannot install {package}: {error.stderr.strip()[-300:]}")


async def printed(
    *command: str | Path, question: str | None = QUESTION, code: int = 0, **variables: str
) -> str:
    """What the command prints. It must exit with `code`."""
    process = await asyncio.create_subprocess_exec(
        *command, *([question] if question else []), env={**os.environ, **variables}, stdout=PIPE, stderr=PIPE
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), RUN_SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == code, f"{out.decode()}\n{err.decode()}"
    return out.decode()


async def check_answers(service: Running, output: str) -> None:
    """The answers that were printed are those of a deliberation that was asked this question."""
    asked = re.search(r"^asked (\S+)$", output, re.MULTILINE)
    assert asked, output
    ending = await service.client.find(asked[1])
    assert ending is not None
    assert [result.agent_id for result in ending.results] == AGENTS
    for result in ending.results:
        assert f"{result.agent_id}: {result.proposal.content}\n" in output
    body = await service.client.request_of(asked[1])
    assert body is not None
    fields = json.loads(body)
    assert QUESTION in (fields.get("task_description"), (fields.get("messages") or [{}])[-1].get("content"))


@pytest.fixture(autouse=True)
def quick_model(model: ModelServer) -> ModelServer:
    return model


async def test_bash_with_a_bare_socket(local_service: Running) -> None:
    need("bash", "jq")
    output = await printed(EXAMPLES / "bare_socket.sh", NATS_URL=local_service.service.nats_url)
    await check_answers(local_service, output)


async def test_python_without_parley(local_service: Running) -> None:
    output = await printed(
        sys.executable, EXAMPLES / "python_without_parley.py", NATS_URL=local_service.service.nats_url
    )
    await check_answers(local_service, output)


async def test_python_without_parley_reads_answers_that_are_too_large_for_a_message(
    local_service: Running, model: ModelServer
) -> None:
    await model.behave(tokens=60_000)
    output = await printed(
        sys.executable, EXAMPLES / "python_without_parley.py", NATS_URL=local_service.service.nats_url
    )
    assert [line.split(":")[0] for line in output.splitlines() if line.startswith("agent-")] == AGENTS
    task_id = output.split()[1]
    ending = await local_service.ending_of(task_id)
    assert ending["results_ref"]


async def test_celery_migration(local_service: Running) -> None:
    output = await printed(
        sys.executable, EXAMPLES / "celery_migration.py", NATS_URL=local_service.service.nats_url
    )
    await check_answers(local_service, output)


async def test_node(local_service: Running, tmp_path: Path) -> None:
    need("node", "npm")
    # Node looks for packages from the script's own folder upwards.
    script = shutil.copy(EXAMPLES / "node.mjs", tmp_path)
    await asyncio.to_thread(installed_from_npm, "@nats-io/transport-node@3", tmp_path)
    output = await printed("node", script, NATS_URL=local_service.service.nats_url)
    await check_answers(local_service, output)


async def test_go(local_service: Running, tmp_path: Path) -> None:
    need("go")
    if not (GO_LIBRARIES / "src/github.com/nats-io/nats.go").exists():
        pytest.skip("not installed: golang-github-nats-io-go-nats-dev")
    program = tmp_path / "ask"
    await printed("env", *GO, "go", "build", "-o", program, EXAMPLES / "go/main.go", question=None)
    await check_answers(local_service, await printed(program, NATS_URL=local_service.service.nats_url))


async def test_curl(local_service: Running) -> None:
    need("bash", "curl", "jq")
    async with door(local_service) as program:
        output = await printed(EXAMPLES / "curl.sh", GATEWAY_URL=str(program.base_url))
    await check_answers(local_service, output)


async def test_curl_goes_on_behind_the_last_event_where_a_stream_breaks(
    local_service: Running, model: ModelServer
) -> None:
    need("bash", "curl", "jq")
    # The stream is cut each second; no answer comes in the first.
    await model.behave(latency_ms=1500)
    async with door(local_service) as program:
        output = await printed(EXAMPLES / "curl.sh", GATEWAY_URL=str(program.base_url), STREAM_SECONDS="1")
    events = [line.split()[1:] for line in output.splitlines() if line.startswith("event ")]
    assert sorted(events) == [*(["answer", agent] for agent in AGENTS), ["ending"], ["phase"]]
    await check_answers(local_service, output)


@pytest.mark.parametrize(
    "name", ["bare_socket.sh", "curl.sh", "python_without_parley.py", "celery_migration.py"]
)
async def test_an_ending_without_answers_is_said_and_exits_with_1(
    local_service: Running, model: ModelServer, name: str
) -> None:
    command = [EXAMPLES / name]
    if name.endswith(".py"):
        command.insert(0, Path(sys.executable))
    else:
        need("bash", "curl", "jq")
    await model.behave(faults={"400": 1.0})
    async with door(local_service) as program:
        output = await printed(
            *command, code=1, NATS_URL=local_service.service.nats_url, GATEWAY_URL=str(program.base_url)
        )
    assert re.search(r"^failed\b", output, re.MULTILINE), output


async def test_openai_client(local_service: Running) -> None:
    async with door(local_service) as program:
        output = await printed(
            sys.executable, EXAMPLES / "openai_client.py", GATEWAY_URL=str(program.base_url)
        )
    await check_answers(local_service, output)
    chosen = re.search(r"^chosen (\S+)\n(.*)$", output, re.MULTILINE)
    assert chosen
    assert f"{chosen[1]}: {chosen[2]}" in output


@asynccontextmanager
async def web_app(nats_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """The web application in a process of its own, and a program before it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "uvicorn", "--app-dir", EXAMPLES, "--port", "0", "web_app:app",
        env={**os.environ, "NATS_URL": nats_url}, stderr=PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        async with asyncio.timeout(RUN_SECONDS):
            said = ""
            while not (found := re.search(r"running on (http://\S+)", said)):
                line = await process.stderr.readline()
                assert line, said
                said += line.decode()
        async with httpx.AsyncClient(base_url=found[1], timeout=RUN_SECONDS) as program:
            yield program
    finally:
        process.terminate()
        await process.communicate()


async def test_web_app(local_service: Running) -> None:
    async with web_app(local_service.service.nats_url) as program:
        asked = await program.post("/questions", content=QUESTION)
        assert asked.status_code == 202
        shown = await program.get(asked.headers["location"])
        assert (shown.status_code, shown.json()["status"]) == (200, "completed")
        lines = [f"{agent}: {answer}\n" for agent, answer in shown.json()["answers"].items()]
        await check_answers(local_service, "".join([f"asked {asked.json()['task_id']}\n", *lines]))
        assert (await program.post("/questions", content="")).status_code == 422
        assert (await program.get("/questions/nobody")).status_code == 404


def test_the_list_names_each_example() -> None:
    listed = re.findall(r"^\| \[([^]]+)\]", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    found = [
        str(path.relative_to(EXAMPLES))
        for path in EXAMPLES.rglob("*")
        if path.suffix in (".sh", ".py", ".mjs", ".go")
    ]
    assert sorted(listed) == sorted([*found, "nats"])
