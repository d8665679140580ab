"""Model servers of a file, asked by a service that runs: as a user starts it, changes the file, and makes mistakes in it."""

import asyncio
import re
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from parley import Client, DeliberationCompleted, DeliberationFailed, connect
from parley.broker.jetstream.embedded import EmbeddedNats
from parley.cli_common import USAGE
from parley.workers.simulator import DEFAULT_MODEL
from tests.harness import PATIENCE_SECONDS, model_server
from tests.integration.test_model_servers import served
from tests.mirror.parley.test_cli import Shell, serving
from tests.mirror.parley.test_doctor import findings
from tests.rig.habit_server import HabitServer, habit_server, having


def entry(server: HabitServer, *more: str) -> str:
    return "\n".join(["[[endpoints]]", f'url = "{server.url}"', *more, ""])


async def heard_line(process: asyncio.subprocess.Process, words: str) -> str:
    """The next line of its log with these words."""
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE_SECONDS):
        while line := (await process.stderr.readline()).decode():
            if re.search(words, line):
                return line
    raise AssertionError(f"no line with {words}")


async def test_each_agent_goes_to_the_endpoint_that_has_its_model_with_that_endpoints_key(
    empty_nats: EmbeddedNats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONE_KEY", "swordfish-1")
    (tmp_path / "two.key").write_text("swordfish-2\n")
    async with habit_server(having("one")) as one, habit_server(having("two")) as two:
        file = tmp_path / "endpoints.toml"
        file.write_text(
            entry(one, 'models = ["one"]', 'key = { env = "ONE_KEY" }')
            + entry(two, 'key = { file = "two.key" }', "system_message = false", 'omit = ["seed"]')
        )
        async with served(empty_nats, tmp_path / "home", endpoints=file, vllm_model="one") as (client, _):
            ending = await client.deliberate("Why?", models=["one", "two"], seed=7)
            nobody = await client.deliberate("Why?", model="three", agents=1)
    assert isinstance(ending, DeliberationCompleted)
    assert [result.proposal.content for result in ending.results] == ["from one", "from two"]
    assert {heard.headers["authorization"] for heard in one.heard} == {"Bearer swordfish-1"}
    assert {heard.headers["authorization"] for heard in two.heard} == {"Bearer swordfish-2"}
    (question,) = (
        heard.fields for heard in two.heard if "messages" in heard.fields and heard.fields["model"] == "two"
    )
    assert [message["role"] for message in question["messages"]] == ["user"]
    assert "seed" not in question
    assert isinstance(nobody, DeliberationFailed)
    assert "no server has three" in nobody.failed_agents[0].error
    assert [heard.fields["model"] for heard in one.heard if heard.method == "POST"].count("three") == 0


async def test_a_limit_holds_over_two_services(empty_nats: EmbeddedNats, tmp_path: Path) -> None:
    async with model_server("--latency-ms", "30") as model:
        file = tmp_path / "endpoints.yaml"
        file.write_text(f"endpoints:\n  - url: {model.url}\n    concurrency: 3\n")
        common = {"endpoints": file, "vllm_model": DEFAULT_MODEL}
        async with (
            served(empty_nats, tmp_path / "one", **common) as (client, _),
            served(empty_nats, tmp_path / "other", **common),
        ):
            endings = await asyncio.gather(*(client.deliberate("Why?", agents=5) for _ in range(8)))
        seen = await model.seen()
    assert all(isinstance(ending, DeliberationCompleted) for ending in endings)
    assert sum(len(ending.results) for ending in endings) == 40
    assert seen["most_running"] <= 3


@pytest.mark.parametrize("pool", ["local", pytest.param("ray", marks=pytest.mark.ray)])
async def test_on_sighup_the_file_is_read_again_and_a_mistake_leaves_what_was(
    empty_nats: EmbeddedNats, tmp_path: Path, pool: str
) -> None:
    async with habit_server(having("one")) as one, habit_server(having("two")) as two:
        file = tmp_path / "endpoints.toml"
        file.write_text(entry(one))
        environment = {"NATS_URL": empty_nats.url, "PARLEY_ENDPOINTS": str(file), "VLLM_MODEL": "one"}
        environment |= {"PARLEY_POOL": pool, "PARLEY_POOL_ACTORS": "1"}
        shell = Shell(tmp_path)
        async with serving(shell, **environment) as (process, _), connect(empty_nats.url) as client:
            assert await answers(client, ["one", "two"]) == ["from one", "model_not_found"]
            file.write_text(entry(one) + entry(two, "weight = 0"))
            process.send_signal(signal.SIGHUP)
            line = await heard_line(process, "PARLEY_ENDPOINTS")
            assert (
                f"{file}, line 5, `weight`: should be greater than 0; the endpoints before stay in force"
                in line
            )
            assert await answers(client, ["one", "two"]) == ["from one", "model_not_found"]
            # With a limit, which needs a stream of its own.
            file.write_text(entry(one) + entry(two, "concurrency = 2"))
            process.send_signal(signal.SIGHUP)
            await heard_line(process, f"asking {one.url}, {two.url}")
            assert await answers(client, ["one", "two"]) == ["from one", "from two"]
            (told,) = [each for each in await client.processes() if each.endpoints]
            assert told.endpoints == (one.url, two.url)
            assert not told.problems
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), PATIENCE_SECONDS) == 0


async def answers(client: Client, models: Sequence[str]) -> list[str]:
    """What each of these models said, or how it failed."""
    ending = await client.deliberate("Why?", models=models, min_responses=1)
    found = {failed.agent_id: failed.error_type.value for failed in ending.failed_agents}
    if isinstance(ending, DeliberationCompleted):
        found |= {result.agent_id: result.proposal.content for result in ending.results}
    return [found[agent] for agent in sorted(found)]


async def test_what_runs_when_the_servers_change_goes_on_where_it_is(
    empty_nats: EmbeddedNats, tmp_path: Path
) -> None:
    async with model_server() as slow, habit_server(having("m")) as other:
        file = tmp_path / "endpoints.toml"
        file.write_text(f'[[endpoints]]\nurl = "{slow.url}"\n')
        await slow.behave(latency_ms=1_000)
        async with served(empty_nats, tmp_path / "home", endpoints=file, vllm_model=DEFAULT_MODEL) as (
            client,
            started,
        ):
            asked = asyncio.create_task(client.deliberate("Why?", agents=3))
            await slow.runs(3)
            file.write_text(entry(other))
            await started.read_endpoints_again()
            after = await client.deliberate("Why?", model="m", agents=1)
            before = await asked
    assert isinstance(before, DeliberationCompleted)
    assert len(before.results) == 3
    assert isinstance(after, DeliberationCompleted)
    assert after.results[0].proposal.content == "from m"


@pytest.mark.parametrize("command", [("serve",), ("up",), ("doctor",), ("settings",)])
async def test_a_mistake_in_the_file_ends_a_command_before_anything_starts(
    tmp_path: Path, command: Sequence[str]
) -> None:
    file = tmp_path / "endpoints.toml"
    file.write_text('[[endpoints]]\nurl = "http://127.0.0.1:9"\nkey = { env = "NOT_SET" }\n')
    ran = await Shell(tmp_path)(*command, PARLEY_ENDPOINTS=str(file))
    assert ran.code == USAGE
    assert f"PARLEY_ENDPOINTS: {file}, line 3, `key`: the variable NOT_SET is not set" in ran.err


async def test_doctor_says_of_each_endpoint_what_it_found(
    empty_nats: EmbeddedNats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WRONG_KEY", "swordfish")
    async with habit_server(having("one")) as one, habit_server(lambda _: (401, {}, {})) as locked:
        file = tmp_path / "endpoints.toml"
        file.write_text(
            entry(one, "concurrency = 64", "tokens_per_minute = 200_000", "weight = 2")
            + entry(locked, 'models = ["one"]', 'key = { env = "WRONG_KEY" }')
        )
        found = await findings(endpoints=file, vllm_model="one")
    good, bad = found[f"model at {one.url}"], found[f"model at {locked.url}"]
    assert good.ok
    assert good.detail.endswith(
        "; endpoint 1 in endpoints.toml; 64 calls at once, of all workers together; "
        "200,000 tokens a minute, of all workers together; weight 2"
    )
    assert not bad.ok
    assert "is `key` of endpoint 2 in endpoints.toml right?" in bad.detail
    assert bad.detail.endswith("; endpoint 2 in endpoints.toml; asked for one")
    assert "swordfish" not in str(found)
