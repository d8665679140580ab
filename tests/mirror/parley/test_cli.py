"""The `parley` command as a person or a script runs it: real processes, their exit codes, and what they print."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
import sysconfig
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from parley.broker.jetstream.embedded import EmbeddedNats
from parley.find_nats import announce
from tests.harness import PATIENCE_SECONDS, ModelServer, Running, fresh, until
from tests.integration.test_deliberations import COMPLETED_FIELDS, FAILED_FIELDS

PARLEY = str(Path(sysconfig.get_path("scripts")) / "parley")
OK, FAILED, USAGE, NO_SERVICE, RUNNING, UNKNOWN = 0, 1, 2, 3, 4, 5
SECRET = "hush-hush"


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of a command."""

    code: int | None
    out: str
    err: str


class Shell:
    """Runs `parley` in a home of its own, with nothing in its environment but what is given."""

    def __init__(self, home: Path, command: tuple[str, ...] = (PARLEY,), **environment: str) -> None:
        self._command = command
        # A local Ray in this process has left its own settings in the environment.
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PARLEY_", "RAY_"))}
        # Wide enough that no line is folded.
        self.environment = {
            **kept,
            "HOME": str(home),
            "XDG_STATE_HOME": str(home),
            "COLUMNS": "240",
            **environment,
        }

    @asynccontextmanager
    async def started(self, *arguments: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(
            *(*self._command, *arguments), stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE, env={**self.environment, **environment},
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def given(self, stdin: bytes, *arguments: str | bytes, **environment: str) -> Ran:
        """With this on its standard input."""
        process = await asyncio.create_subprocess_exec(
            *(*self._command, *arguments), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE, env={**self.environment, **environment}, cwd=self.environment["HOME"],
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(stdin), PATIENCE_SECONDS)
        return Ran(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))

    async def __call__(self, *arguments: str, **environment: str) -> Ran:
        async with self.started(*arguments, **environment) as process:
            out, err = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
            return Ran(process.returncode, out.decode(), err.decode())


@pytest.fixture
def bare(tmp_path: Path) -> Shell:
    """Nothing is set."""
    return Shell(tmp_path)


@pytest.fixture
def sh(tmp_path: Path, local_service: Running, model: ModelServer) -> Shell:
    """Beside a running service."""
    return Shell(tmp_path, NATS_URL=local_service.service.nats_url)


@pytest.fixture(scope="module", autouse=True)
async def refused(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator["asyncio.Task[Ran]"]:
    """Asking a NATS that is not there. Begun with the first test and looked at by the last: it is given five seconds
    to come."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"nats://{SECRET}@127.0.0.1:{unused.getsockname()[1]}"
        task = asyncio.create_task(Shell(tmp_path_factory.mktemp("refused"), NATS_URL=url)("ask", "x"))
        yield task
        task.cancel()


def one_line(ran: Ran) -> str:
    """The only line on stderr; nothing may be on stdout."""
    assert ran.out == ""
    (line,) = ran.err.splitlines()
    assert line.startswith("parley: ")
    return line


# ── ask ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_asking_shows_answers_or_the_ending_and_exits_with_0(sh: Shell, local_service: Running) -> None:
    task_id = fresh()
    people, scripts = await asyncio.gather(
        sh(*["ask", "Write", "--agents", "2", "--role", "qa", "--requirement", "a", "--requirement", "b"]),
        sh("ask", "x", "--json", "--task-id", task_id, "--seed", "7", "--diversity"),
    )
    assert (people.code, people.err, scripts.code, scripts.err) == (OK, "", OK, "")
    assert people.out.count("[simulated answer]") == 2
    assert "agent-qa-001" in people.out
    assert "COMPLETED: 2 of 2 agents answered" in people.out
    ending = json.loads(scripts.out)
    assert set(ending) >= COMPLETED_FIELDS
    assert (ending["task_id"], ending["status"], ending["degraded"]) == (task_id, "completed", False)
    assert len(ending["results"]) == 3
    assert ending == await local_service.ending_of(task_id)


async def test_a_deliberation_that_fails_exits_with_1(sh: Shell, model: ModelServer) -> None:
    await model.behave(faults={"400": 1.0})
    people, scripts = await asyncio.gather(sh("ask", "x"), sh("ask", "x", "--json"))
    assert (people.code, people.err, scripts.code) == (FAILED, "", FAILED)
    assert "bad_request" in people.out
    assert "FAILED: 0 of 3 agents answered, 1 needed" in people.out
    assert set(json.loads(scripts.out)) >= FAILED_FIELDS


async def test_a_request_that_cannot_be_valid_exits_with_2_and_names_the_field(sh: Shell) -> None:
    ran = await sh("ask", "x", "--agents", "0")
    assert ran.code == USAGE
    assert "--agents: at least 1" in one_line(ran)


async def test_a_command_line_that_cannot_be_read_exits_with_2(bare: Shell) -> None:
    wrong = [("ask",), ("ask", "x", "--agents", "many")]
    for ran in await asyncio.gather(*(bare(*arguments) for arguments in wrong)):
        assert (ran.code, ran.out) == (USAGE, "")
        assert "Usage: parley" in ran.err
        assert "Traceback" not in ran.err


async def test_without_a_service_asking_exits_with_3_and_why(bare: Shell, empty_nats: EmbeddedNats) -> None:
    unset, empty = await asyncio.gather(bare("ask", "x"), bare("ask", "x", NATS_URL=empty_nats.url))
    assert unset.code == empty.code == NO_SERVICE
    assert "NATS_URL" in one_line(unset)
    assert "no Parley service" in one_line(empty)


async def test_a_service_that_parley_up_announced_is_found_without_being_named(
    bare: Shell, tmp_path: Path, local_service: Running, model: ModelServer
) -> None:
    with announce(tmp_path / "parley", local_service.service.nats_url):
        ran = await bare("ask", "x", "--json")
    assert ran.code == OK


# ── result, cancel, ls ────────────────────────────────────────────────────────────────────────────────────────────


async def test_results_are_shown_with_an_exit_code_of_their_status(sh: Shell, local_service: Running) -> None:
    ending = await local_service.client.deliberate("x", metadata={"ticket": "P-1"})
    people, scripts, unknown = await asyncio.gather(
        sh("result", ending.task_id), sh("result", ending.task_id, "--json"), sh("result", fresh("unknown"))
    )
    assert people.code == OK
    assert f"{ending.task_id} COMPLETED: 3 of 3 agents answered in" in people.out
    assert people.out.count("[simulated answer]") == 3
    status = json.loads(scripts.out)
    assert (scripts.code, status["status"], status["received_count"]) == (OK, "COMPLETED", 3)
    assert status["metadata"] == {"ticket": "P-1"}
    assert set(status) >= {
        "task_id", "status", "results", "error_message", "duration_ms", "total_agents", "received_count", "failed_count",
        "winner_id", "metadata",
    }  # fmt: skip
    assert unknown.code == UNKNOWN
    assert "UNKNOWN" in unknown.out


async def test_cancelling_stops_a_running_deliberation_and_refuses_an_ended_or_unknown_one(
    sh: Shell, local_service: Running, model: ModelServer
) -> None:
    await model.behave(faults={"hang": 1.0})
    submitted = await local_service.client.submit("x", timeout_seconds=60)

    async def known() -> bool:
        return (await local_service.client.status(submitted.task_id)).status != "UNKNOWN"

    await until(known, "it was taken in")
    ran = await sh("cancel", submitted.task_id, "--reason", "enough")
    assert (ran.code, ran.out) == (OK, f"asked to stop {submitted.task_id}\n")
    ending = await local_service.ending_of(submitted.task_id)
    assert (ending["status"], ending["error"]) == ("cancelled", "cancelled: enough")
    ended, unknown = await asyncio.gather(sh("cancel", submitted.task_id), sh("cancel", fresh("unknown")))
    assert (ended.code, unknown.code) == (FAILED, FAILED)
    assert "has ended already: FAILED" in one_line(ended)
    assert "unknown" in one_line(unknown)


async def test_the_newest_deliberations_are_listed_first(sh: Shell, local_service: Running) -> None:
    names = [
        (await local_service.client.deliberate("x", agents=1, task_id=fresh("ls"))).task_id for _ in range(3)
    ]
    people, scripts = await asyncio.gather(sh("ls"), sh("ls", "--json", "--limit", "2"))
    assert people.code == OK
    assert re.findall(r"ls-\w+", people.out)[:3] == names[::-1]
    assert [tally["task_id"] for tally in json.loads(scripts.out)] == names[:0:-1]


# ── settings ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_settings_are_shown_as_they_are_with_secrets_masked(tmp_path: Path) -> None:
    ran = await Shell(tmp_path, command=(sys.executable, "-m", "parley"))(
        "settings", VLLM_API_KEY=SECRET, NATS_URL=f"nats://{SECRET}@one:4222",
        VLLM_URL="http://[fe80::1]:8000", PARLEY_HOME="/tmp/[/x] [bold]home",
    )  # fmt: skip
    assert (ran.code, ran.err) == (OK, "")
    assert SECRET not in ran.out
    rows = dict(line.split("=", 1) for line in ran.out.splitlines())
    assert rows["VLLM_API_KEY"] == "***"
    assert rows["NATS_URL"] == "nats://***@one:4222"
    assert rows["VLLM_URL"] == "http://[fe80::1]:8000"
    assert rows["PARLEY_HOME"] == "/tmp/[/x] [bold]home"
    assert rows["PARLEY_HTTP_PORT"] == "9464"


async def test_a_bad_setting_exits_with_2_and_one_line_at_once(bare: Shell, tmp_path: Path) -> None:
    wrong = {"PARLEY_POOL_SLOTS": f"0{SECRET}", "PARLEY_HOME": str(tmp_path / "state")}
    several = {"PARLEY_POOL": "dask", "PARLEY_HTTP_PORT": "x", "NATS_URL": f"http://{SECRET}@x"}
    up, ask, serve = await asyncio.gather(
        bare("up", **wrong), bare("ask", "x", **wrong), bare("serve", **several)
    )
    assert up.code == ask.code == serve.code == USAGE
    assert "PARLEY_POOL_SLOTS" in one_line(up)
    assert "PARLEY_POOL_SLOTS" in one_line(ask)
    assert not (tmp_path / "state").exists()
    # And every bad setting has its line.
    assert sorted(line.split(":")[1].strip() for line in serve.err.splitlines()) == [
        "NATS_URL",
        "PARLEY_HTTP_PORT",
        "PARLEY_POOL",
    ]
    assert SECRET not in serve.err


# ── doctor ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_doctor_lets_the_service_speak_and_exits_with_0(sh: Shell, model: ModelServer) -> None:
    ran = await sh("doctor")
    assert (ran.code, ran.err) == (OK, "")
    nats, service, store = ran.out.splitlines()
    assert re.fullmatch(r"ok  NATS: version 2\.\d+\.\d+ with JetStream", nats)
    assert service.startswith("ok  process ")
    assert "aggregate,dispatch,intake,query" in service
    assert store == "ok  store: stores what is published"
    ran = await sh("doctor", "--json", VLLM_URL=model.url)
    *_, served = json.loads(ran.out)
    assert (served["what"], served["ok"]) == (f"model at {model.url}", True)


async def test_the_doctor_exits_with_3_and_tells_what_is_missing(
    bare: Shell, empty_nats: EmbeddedNats
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        wrong = f"127.0.0.1:{unused.getsockname()[1]}"
        broken = await bare(
            "doctor", NATS_URL=empty_nats.url, RAY_ADDRESS=wrong, VLLM_URL=f"http://user:{SECRET}@{wrong}"
        )
    assert (broken.code, broken.err) == (NO_SERVICE, "")
    nats, service, streams, ray, served = broken.out.splitlines()
    assert nats.startswith("ok  NATS")
    assert (
        service
        == "no  service: no process of the service answers; start one with `parley up` or `parley serve`"
    )
    assert streams.startswith("no  streams: missing: stream REQUESTS")
    assert ray.startswith(f"no  Ray: cannot use Ray at {wrong}: nobody listens there")
    assert served.startswith(f"no  model at http://***@{wrong}: cannot connect")
    assert SECRET not in broken.out


# ── up ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_up_finds_a_taken_port_before_it_starts_anything(bare: Shell, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ran = await bare(
            "up",
            PARLEY_GATEWAY_PORT="0",
            PARLEY_GATEWAY_GRPC_PORT="0",
            PARLEY_HTTP_PORT=str(taken.getsockname()[1]),
            PARLEY_HOME=str(tmp_path / "state"),
        )
    assert (ran.code, ran.out) == (USAGE, "")
    assert "does another `parley up` or `serve` run here? 0 takes a free port" in one_line(ran)
    assert not (tmp_path / "state").exists()


async def test_up_says_each_step_and_where_the_logs_are_and_logs_as_asked(
    bare: Shell, tmp_path: Path
) -> None:
    home = tmp_path / "state"
    settings = {
        "PARLEY_POOL": "local", "PARLEY_HTTP_PORT": "0", "PARLEY_GATEWAY_PORT": "0", "PARLEY_GATEWAY_GRPC_PORT": "0", "PARLEY_HOME": str(home), "PARLEY_LOG_FORMAT": "json",
    }  # fmt: skip
    async with bare.started("up", **settings) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        said = ""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while "Ctrl-C stops" not in said:
                line = (await process.stdout.readline()).decode()
                assert line, said
                said += line
        steps = [line.split(" s  ", 1)[1] for line in said.partition("Parley is up")[0].splitlines()]
        assert steps[0] == "starting a nats-server on this machine"
        assert "agents in this process" in steps[2]
        assert str(home / "nats" / "nats-server.log") in said
        # A second one is told of the first, and not of the port that the first has taken.
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = str(taken.getsockname()[1])
            second = await bare("up", **{**settings, "PARLEY_HTTP_PORT": port})
        assert (second.code, second.out) == (NO_SERVICE, "")
        assert f"another one of ours runs on {home / 'nats'}" in one_line(second)
        url = json.loads((home / "up.json").read_text())["nats_url"]
        asked = await bare("ask", "What is the SECRET?", "--json", NATS_URL=url)
        task_id = json.loads(asked.out)["task_id"]
        process.terminate()
        logged = [json.loads(line) for line in (await process.stderr.read()).decode().splitlines()]
    ours = [line["message"] for line in logged if line.get("task_id") == task_id]
    assert ours[0] == f"{task_id} accepted: 3 agents, at most 300 s"
    assert ours[1].startswith(f"{task_id} completed: 3 of 3 agents answered")
    assert "SECRET" not in str(logged)


# ── serve ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def serving(
    shell: Shell, *arguments: str, **environment: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A running `parley serve` and the line that says that it serves."""
    defaults = {
        "PARLEY_POOL": "local",
        "PARLEY_HTTP_PORT": "0",
        "PARLEY_GATEWAY_PORT": "0",
        "PARLEY_GATEWAY_GRPC_PORT": "0",
    }
    async with shell.started("serve", *arguments, **{**defaults, **environment}) as process:
        assert process.stderr is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            while line := (await process.stderr.readline()).decode():
                if "serving" in line:
                    yield process, line
                    return
        raise AssertionError(f"it ended with code {await process.wait()}")


async def left(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    """Exit code, and what it said on its way out."""
    _, err = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
    return process.returncode, err.decode()


async def test_serve_answers_and_on_sigterm_exits_with_0_at_once(
    bare: Shell, empty_nats: EmbeddedNats, model: ModelServer
) -> None:
    environment = {"NATS_URL": empty_nats.url, "VLLM_URL": model.url}
    async with serving(bare, **environment) as (process, line):
        assert "serving aggregate,dispatch,intake,query" in line
        assert empty_nats.url not in line  # it holds the token
        asked = await bare("ask", "x", "--json", **environment)
        assert asked.code == OK
        process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        code, err = await left(process)
        assert (code, "Traceback" in err) == (OK, False)
        assert time.monotonic() - started < 5  # nothing runs: the drain of 20 s is for calls that do


async def test_serve_lets_running_calls_finish_before_it_exits(
    bare: Shell, empty_nats: EmbeddedNats, model: ModelServer
) -> None:
    await model.behave(latency_ms=800)
    environment = {"NATS_URL": empty_nats.url, "VLLM_URL": model.url}
    before = (await model.seen())["completed"]
    async with (
        serving(bare, **environment) as (process, _),
        bare.started("ask", "x", "--json", **environment) as asking,
    ):
        await model.runs(3)
        process.send_signal(signal.SIGTERM)
        assert (await left(process))[0] == OK
        assert (await model.seen())["completed"] == before + 3
        asking.kill()
        await asking.communicate()


async def test_serve_runs_the_parts_it_is_told_to(bare: Shell, empty_nats: EmbeddedNats) -> None:
    async with serving(bare, "--parts", "query, intake", NATS_URL=empty_nats.url) as (process, line):
        assert "serving intake,query" in line  # and asks for no model server, which only dispatch needs
        process.send_signal(signal.SIGINT)
        assert (await left(process))[0] == OK


async def test_serve_refuses_unknown_parts_and_missing_settings(bare: Shell) -> None:
    parts, nats = await asyncio.gather(bare("serve", "--parts", "intake,disptach"), bare("serve"))
    assert parts.code == nats.code == USAGE
    assert "disptach" in one_line(parts)
    assert "--parts: none given; there are intake" in one_line(await bare("serve", "--parts", ","))
    assert "NATS_URL" in one_line(nats)


async def test_an_absent_nats_is_named_in_one_line_without_its_secret(refused: "asyncio.Task[Ran]") -> None:
    ran = await refused
    assert ran.code == NO_SERVICE
    assert "cannot reach NATS at nats://***@127.0.0.1:" in one_line(ran)
    assert SECRET not in ran.err
