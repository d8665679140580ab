"""`parley deadletters` as a person or a script runs it: what it shows, what it puts back, what it deletes, and what
it refuses."""

import asyncio
import base64
import json
import os
import pty
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from parley.broker.core.errors import SettingsError
from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.deadletters import DeadLetters, OriginalMessage, dead_letter
from parley.broker.jetstream.embedded import EmbeddedNats
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.provision import provision
from parley.broker.jetstream.topology import AGGREGATE, CANCELLER, DEAD_LETTERS, INTAKE, Durable
from parley.cli_deadletters import app, readable
from tests.harness import PATIENCE_SECONDS, ModelServer, Running, fresh, until
from tests.mirror.broker import Accounts, accounts, provisioned
from tests.mirror.parley.test_cli import FAILED, NO_SERVICE, OK, PARLEY, USAGE, Ran, Shell, one_line

PROMPT = b'{"task_description": "my secret plan"}'
# What would clear a screen, retitle a window, set the clipboard, overwrite or reverse a line.
CONTROLS = ["\x1b", "\x07", "\x08", "\r", "\x7f", "\x9b", "\x00", "\u202e", "\u2028"]


@dataclass(frozen=True)
class DeadLetterShell:
    """A NATS account with our streams, some dead letters, and a shell beside it."""

    sh: Shell
    wire: JetStream

    async def __call__(self, *arguments: str, **environment: str) -> Ran:
        return await self.sh("deadletters", *arguments, **environment)

    async def dead_letter(
        self,
        data: bytes = PROMPT,
        *,
        seq: int = 1,
        subject: str = topology.REQUESTED,
        durable: Durable = INTAKE,
        reason: str = "num_agents: must be more",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        await dead_letter(
            self.wire, durable, OriginalMessage(subject, data, headers or {}, seq, 1_767_225_600.5, 5), reason
        )

    async def left(self) -> list[int]:
        return await DeadLetters(self.wire).sequences()

    async def replayed(self, stream: str = topology.REQUESTS) -> int:
        return int((await self.wire.js.stream_info(stream)).state.messages)


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Accounts]:
    async with accounts(tmp_path_factory.mktemp("nats")) as started:
        yield started


@pytest.fixture
async def shell(server: Accounts, tmp_path: Path) -> AsyncIterator[DeadLetterShell]:
    url = server.fresh_url()
    async with provisioned(url) as nc:
        yield DeadLetterShell(Shell(tmp_path, NATS_URL=url), JetStream(nc))


def harmless(text: str) -> bool:
    return not any(control in text for control in CONTROLS)


# ── list ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_they_are_listed_newest_first_with_why_but_no_payload(shell: DeadLetterShell) -> None:
    await shell.dead_letter(seq=1)
    await shell.dead_letter(
        b"", seq=2, subject=topology.AGENT_FAILED, durable=AGGREGATE, reason="payload: not JSON"
    )
    people, scripts = await asyncio.gather(shell("list"), shell("list", "--json"))
    assert (people.code, people.err, scripts.code) == (OK, "", OK)
    first, why, second, other = people.out.splitlines()
    assert first.split()[0] == "2"
    assert "agent.response.failed  0 bytes" in first
    assert why.strip() == "payload: not JSON"
    assert "deliberation.requested  38 bytes" in second
    assert other.strip() == "num_agents: must be more"
    assert "secret" not in people.out + scripts.out
    new, old = json.loads(scripts.out)
    assert (new["seq"], new["subject"], new["consumer"]) == (2, "agent.response.failed", "aggregate")
    assert new["size"] == 0
    assert (old["stream"], old["sequence"], old["deliveries"]) == ("REQUESTS", 1, 5)
    assert old["stored_at"] == "2026-01-01T00:00:00.500Z"
    assert old["buried_at"].endswith("Z")


async def test_the_list_of_a_thousand_can_be_cut_and_says_so(shell: DeadLetterShell) -> None:
    publishing = (
        shell.wire.js.publish(f"deadletter.{subject}", PROMPT)
        for subject in ["agent.requested", *["deliberation.requested"] * 999]
    )
    await asyncio.gather(*publishing)
    some, usual, one, scripts = await asyncio.gather(
        shell("list", "--limit", "3"),
        shell("list"),
        shell("list", "--subject", "agent.>"),
        shell("list", "--json", "--limit", "1000"),
    )
    assert [line.split()[0] for line in some.out.splitlines()[:6:2]] == ["1000", "999", "998"]
    assert "There are older ones" in some.out
    assert usual.out.count("deliberation.requested") == 50
    assert (one.out.count("agent.requested"), "older" in one.out) == (1, False)
    assert [letter["seq"] for letter in json.loads(scripts.out)] == list(range(1_000, 0, -1))


async def test_eighty_columns_are_enough(shell: DeadLetterShell) -> None:
    long = "x: " + "very much is wrong with this; " * 15
    await shell.dead_letter(
        b"x" * 1_000_000, seq=123_456, subject=topology.AGENT_COMPLETED, durable=AGGREGATE, reason=long
    )
    ran = await shell("list", COLUMNS="80")
    head, why = ran.out.splitlines()
    assert len(head) <= 80
    assert len(why) <= 80
    assert "agent.response.completed" in head
    assert head.endswith("1,000,000 bytes")
    assert why.endswith("…")


async def test_an_empty_list_says_that_it_is(shell: DeadLetterShell) -> None:
    empty, scripts, wrong = await asyncio.gather(
        shell("list"), shell("list", "--json"), shell("list", "--subject", "a b")
    )
    assert (empty.code, empty.out) == (OK, "no dead letters\n")
    assert (scripts.code, json.loads(scripts.out)) == (OK, [])
    assert wrong.code == USAGE
    assert "subject" in one_line(wrong)


async def test_nothing_that_others_wrote_reaches_the_terminal_as_a_control(shell: DeadLetterShell) -> None:
    words = "be\x1b[2J\x07\x08\x7ffore"
    await shell.wire.js.publish(
        "deadletter.x", words.encode(), headers={"Parley-Reason": words, "X-Mine": words}
    )
    for ran in await asyncio.gather(
        shell("list"), shell("show", "1", "--payload"), shell("show", "1", "--payload", "--json")
    ):
        assert ran.code == OK
        assert "be\\" in ran.out
        assert harmless(ran.out)


# ── show ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_one_is_shown_with_everything_but_its_payload_unless_asked_for(shell: DeadLetterShell) -> None:
    await shell.dead_letter(seq=42, headers={"traceparent": "00-aa", "Nats-Msg-Id": "m-1"})
    bare, whole, scripts, all_of_it = await asyncio.gather(
        shell("show", "1"),
        shell("show", "1", "--payload"),
        shell("show", "1", "--json"),
        shell("show", "1", "--json", "--payload"),
    )
    assert bare.code == whole.code == scripts.code == all_of_it.code == OK
    for said in (
        "1 of DEAD_LETTERS, since 20",
        "deliberation.requested",
        "num_agents: must be more",
        "message 42 of REQUESTS, stored 2026-01-01T00:00:00.500Z",
        "intake, after 5 deliveries",
        "traceparent: 00-aa",
        "Nats-Msg-Id: m-1",
        "38 bytes",
    ):
        assert said in bare.out
    assert "secret" not in bare.out + scripts.out
    assert whole.out == bare.out + '\n{\n  "task_description": "my secret plan"\n}\n'
    assert json.loads(all_of_it.out) == {**json.loads(scripts.out), "payload": PROMPT.decode()}
    assert json.loads(scripts.out)["headers"]["traceparent"] == "00-aa"


async def test_a_payload_of_any_bytes_is_shown_safely_and_whole_in_json(shell: DeadLetterShell) -> None:
    hostile = b'\xff\x00\x1b]52;c;aGk=\x07 "' + "größe\n".encode()
    await shell.dead_letter(hostile, seq=1)
    await shell.dead_letter(b"", seq=2)
    shown, scripts, empty, nothing = await asyncio.gather(
        shell("show", "1", "--payload"),
        shell("show", "1", "--payload", "--json"),
        shell("show", "2", "--payload"),
        shell("show", "2", "--payload", "--json"),
    )
    assert shown.out.endswith('\n\\xff\\x00\\x1b]52;c;aGk=\\x07 "größe\n\n')
    told = json.loads(scripts.out)
    assert (told["payload"], base64.b64decode(told["payload_base64"])) == (None, hostile)
    assert (empty.code, empty.out.endswith("0 bytes\n\n\n")) == (OK, True)
    assert json.loads(nothing.out)["payload"] == ""


async def test_a_payload_that_was_put_aside_is_shown_like_any_other(shell: DeadLetterShell) -> None:
    await shell.dead_letter(b"y" * shell.wire.max_payload)
    bare, whole = await asyncio.gather(shell("show", "1"), shell("show", "1", "--payload"))
    assert "1,048,576 bytes, in the object store results/dead.letter.REQUESTS.1.intake" in bare.out
    assert whole.out.count("y") > shell.wire.max_payload
    await (await shell.wire.js.object_store("results")).delete("dead.letter.REQUESTS.1.intake")
    gone = await shell("show", "1", "--payload")
    assert gone.code == FAILED
    assert gone.out == bare.out
    assert gone.err == "parley: 1: its payload is no longer kept\n"


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b'{"a":[1,2]}', '{\n  "a": [\n    1,\n    2\n  ]\n}'),
        (b'{"a":1,"a":2}', '{"a":1,"a":2}'),  # indented, one would be missing
        ('{"a": "größe"}'.encode(), '{\n  "a": "größe"\n}'),
        (rb'{"a": "\u001b[2J \ud800"}', '{\n  "a": "\\u001b[2J \\ud800"\n}'),
        (b"[" * 100_000, "[" * 100_000),
        (b"1" * 10_000, "1" * 10_000),
        ("a\u202eb\u2028c".encode(), "a\\u202eb\\u2028c"),
        (b"one\r\n\ttwo", "one\\r\n\ttwo"),
        (b"", ""),
    ],
    ids=range(9),
)
def test_a_payload_is_readable(body: bytes, shown: str) -> None:
    assert readable(body) == shown
    assert harmless(readable(body))


# ── replay ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_replayed_request_runs(tmp_path: Path, local_service: Running, model: ModelServer) -> None:
    """Two that were dead-lettered by some mistake of the service's, one of them without a name of its own."""
    shell = DeadLetterShell(Shell(tmp_path, NATS_URL=local_service.service.nats_url), local_service.wire)
    task_id = fresh("replayed")
    before = (await shell.wire.js.stream_info(DEAD_LETTERS)).state.last_seq
    trace = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01", "Nats-Msg-Id": task_id}
    named = json.dumps({"task_description": "x", "task_id": task_id, "num_agents": 2}).encode()
    # Numbers that the stream will not reach here: a dead letter's own Msg-Id is made of them.
    await shell.dead_letter(named, seq=10**9 + 1, headers=trace)
    await shell.dead_letter(b'{"task_description": "x", "num_agents": 1}', seq=10**9 + 2)
    ran = await shell("replay", str(before + 1), str(before + 2))
    assert (ran.code, ran.err) == (OK, "")
    first, second = ran.out.splitlines()
    assert first.startswith(f"{before + 1}: back on deliberation.requested, as message ")
    ending = await local_service.ending_of(task_id)
    assert (ending["status"], ending["degraded"], len(ending["results"])) == ("completed", False, 2)
    (msg,) = await local_service.endings_of(task_id)
    assert (msg.headers or {})["traceparent"].startswith(f"00-{'1' * 32}-")
    new_name = f"d-{second.split()[-3]}"
    assert (await local_service.ending_of(new_name))["status"] == "completed"
    assert not {before + 1, before + 2} & set(await shell.left())
    # One that has had its ending gets no second one.
    await shell.dead_letter(named, seq=10**9 + 3)
    again = await shell("replay", str(before + 3))
    assert again.code == OK

    async def handled() -> bool:
        info = await shell.wire.js.consumer_info(INTAKE.stream, INTAKE.name)
        return not info.num_pending and not info.num_ack_pending

    await until(handled, "the repeated request was handled")
    assert len(await local_service.endings_of(task_id)) == 1


async def test_replaying_twice_stores_it_once_and_says_so(shell: DeadLetterShell) -> None:
    await shell.dead_letter()
    first = await shell("replay", "1", "--keep")
    assert first.out == "1: back on deliberation.requested, as message 1 of REQUESTS\n"
    assert await shell.left() == [1]
    second = await shell("replay", "1")
    assert second.code == OK
    assert second.out == "1: had been replayed before, as message 1 of REQUESTS; nothing was stored\n"
    third = await shell("replay", "1")
    assert third.code == FAILED
    assert "1: not in DEAD_LETTERS (any more)" in one_line(third)
    assert await shell.replayed() == 1


async def test_what_cannot_be_replayed_is_named_and_the_others_are(shell: DeadLetterShell) -> None:
    await shell.dead_letter(seq=1)
    await shell.wire.js.publish("deadletter.deliberation.timer.t-1", PROMPT)
    await shell.wire.js.publish("deadletter.$KV.deliberations.t-1", PROMPT)
    await shell.dead_letter(seq=4)
    ran = await shell("replay", "9", "2", "3", "1", "4")
    assert ran.code == FAILED
    assert len(ran.out.splitlines()) == 2
    missing, timer, bucket = ran.err.splitlines()
    assert missing.startswith("parley: 9: not in DEAD_LETTERS")
    assert timer.startswith("parley: 2: deliberation.timer.t-1 takes no replays")
    assert bucket.startswith("parley: 3: $KV.deliberations.t-1 takes no replays")
    assert await shell.left() == [2, 3]
    assert await shell.replayed() == 2


async def test_all_or_those_of_a_subject_are_replayed_the_oldest_first(shell: DeadLetterShell) -> None:
    for seq, body in enumerate([b"1", b"2", b"3"], 1):
        await shell.dead_letter(body, seq=seq)
    await shell.dead_letter(b"4", seq=4, subject=topology.CANCEL, durable=CANCELLER)
    some = await shell("replay", "--all", "--subject", "*.requested")
    assert some.code == OK
    assert [line.split(":")[0] for line in some.out.splitlines()] == ["1", "2", "3"]
    stored = [await shell.wire.get(topology.REQUESTS, seq) for seq in (1, 2, 3)]
    assert [message.data for message in stored if message is not None] == [b"1", b"2", b"3"]
    assert await shell.left() == [4]
    rest, none = await shell("replay", "--all"), await shell("replay", "--all")
    assert (rest.code, await shell.left()) == (OK, [])
    assert (none.code, none.out) == (OK, "no dead letters to replay\n")


async def test_a_message_that_is_dead_lettered_again_during_a_replay_is_not_replayed_again(
    tmp_path: Path, server: Accounts, model: ModelServer
) -> None:
    """A request that cannot be used is dead-lettered again, by the service that runs."""
    from parley.app import service
    from parley.settings import load

    url = server.fresh_url()
    nc = await connect(url, "test")
    try:
        await provision(nc.jetstream())  # as it is declared: a service runs on nothing else
        shell = DeadLetterShell(Shell(tmp_path, NATS_URL=url), JetStream(nc))
        for seq in (1, 2, 3):
            await shell.dead_letter(b"not JSON", seq=10**9 + seq)
        async with service(load(nats_url=url, vllm_url=model.url, http_port=0, home=tmp_path, pool="local")):
            ran = await shell("replay", "--all")
            assert (ran.code, len(ran.out.splitlines())) == (OK, 3)

            async def back() -> bool:
                return await shell.left() == [4, 5, 6]

            await until(back, "each came back as a new dead letter")
    finally:
        await close(nc)


# ── purge ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_one_or_several_are_purged_and_those_that_are_not_there_named(shell: DeadLetterShell) -> None:
    for seq in (1, 2, 3):
        await shell.dead_letter(seq=seq)
    ran = await shell("purge", "1", "9", "3", "--yes")
    assert (ran.code, ran.out) == (FAILED, "deleted dead letter 1\ndeleted dead letter 3\n")
    assert ran.err.startswith("parley: 9: not in DEAD_LETTERS")
    assert await shell.left() == [2]


async def test_purging_deletes_only_what_its_filters_select(shell: DeadLetterShell) -> None:
    for seq, subject in enumerate([topology.REQUESTED, topology.CANCEL, topology.REQUESTED], 1):
        await shell.dead_letter(b"x" * shell.wire.max_payload, seq=seq, subject=subject)
    young = await shell("purge", "--all", "--older-than", "7d", "--yes")
    assert (young.code, young.out) == (OK, "no dead letters to purge\n")
    some = await shell("purge", "--all", "--subject", "deliberation.cancel", "--yes")
    assert (some.code, some.out) == (OK, "deleted dead letter 2\n")
    assert await shell.left() == [1, 3]
    rest = await shell("purge", "--all", "--older-than", "0s", "--yes")
    assert rest.out == "deleted 2 dead letters\n"
    assert await shell.left() == []
    # The marks of what was deleted.
    assert (await shell.wire.js.stream_info(topology.RESULTS)).state.messages == 3


async def test_without_a_terminal_or_a_yes_nothing_is_purged(shell: DeadLetterShell) -> None:
    await shell.dead_letter()
    for ran in await asyncio.gather(shell("purge", "1"), shell("purge", "--all")):
        assert ran.code == USAGE
        assert "--yes" in one_line(ran)
    assert await shell.left() == [1]


@pytest.mark.parametrize(("answer", "code", "left"), [("y", OK, []), ("", FAILED, [1, 2])])
async def test_on_a_terminal_it_asks_first(
    shell: DeadLetterShell, answer: str, code: int, left: list[int]
) -> None:
    for seq in (1, 2):
        await shell.dead_letter(seq=seq)
    keyboard, terminal = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            *(PARLEY, "deadletters", "purge", "--all"), stdin=terminal, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE, env=shell.sh.environment,
        )  # fmt: skip
        os.write(keyboard, f"{answer}\n".encode())
        out, _ = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
    finally:
        os.close(keyboard)
        os.close(terminal)
    assert "Delete 2 dead letters for good?" in out.decode()
    assert process.returncode == code
    assert await shell.left() == left


# ── usage and absences ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["replay"], "--all"),
        (["replay", "1", "--all"], "--all"),
        (["replay", "1", "--subject", "agent.>"], "--subject"),
        (["purge", "--yes"], "--all"),
        (["purge", "1", "--all", "--yes"], "--all"),
        (["purge", "1", "--subject", "agent.>", "--yes"], "--subject"),
        (["purge", "1", "--older-than", "7d", "--yes"], "--older-than"),
        (["purge", "--all", "--older-than", "a week", "--yes"], "7d"),
        (["purge", "--all", "--older-than", "-1d", "--yes"], "7d"),
        (["purge", "--all", "--older-than", f"{'9' * 5_000}d", "--yes"], "7d"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else value,
)
def test_an_ambiguous_command_line_is_refused_at_once(arguments: list[str], named: str) -> None:
    ran = CliRunner().invoke(app, arguments)
    assert isinstance(ran.exception, SettingsError)  # exit code 2, as below
    assert named in str(ran.exception)


@pytest.mark.parametrize(
    "arguments",
    [["show", "0"], ["show", "x"], ["replay", str(2**64)], ["purge", "0"], ["list", "--limit", "0"]],
)
def test_a_number_that_cannot_be_one_is_refused(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, arguments).exit_code == USAGE


async def test_a_bad_filter_exits_with_2_and_one_line(shell: DeadLetterShell) -> None:
    await shell.dead_letter()
    for command in (("replay", "--all"), ("purge", "--all", "--yes")):
        ran = await shell(*command, "--subject", ">.a")
        assert ran.code == USAGE
        assert "subject" in one_line(ran)
    assert await shell.left() == [1]


async def test_showing_one_that_is_gone_exits_with_1(shell: DeadLetterShell) -> None:
    ran = await shell("show", "7")
    assert ran.code == FAILED
    assert "parley deadletters list" in one_line(ran)


async def test_without_a_service_each_exits_with_3(tmp_path: Path, empty_nats: EmbeddedNats) -> None:
    sh = Shell(tmp_path, NATS_URL=empty_nats.url)
    commands = [
        ("list",), ("show", "1"), ("replay", "--all"), ("replay", "1"), ("purge", "--all", "--yes"), ("purge", "1", "--yes"),
    ]  # fmt: skip
    for ran in await asyncio.gather(*(sh("deadletters", *command) for command in commands)):
        assert ran.code == NO_SERVICE
        assert "DEAD_LETTERS" in one_line(ran)
