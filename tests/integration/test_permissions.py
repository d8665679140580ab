"""The ready permission files (examples/nats) on a real nats-server: what each role may do works, and nothing else."""

import asyncio
import json
import logging
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import nats
import pytest
from nats.aio.client import Client as PlainClient
from nats.aio.msg import Msg

from parley.app import service as run_service
from parley.broker.core.errors import RightMissing
from parley.broker.core.messages import DeliberationCompleted
from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import connect
from parley.broker.jetstream.direct_reads import read_all
from parley.broker.jetstream.embedded import EmbeddedNats, config, executable
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.nats_client import NatsClient as Nats
from parley.broker.jetstream.provision import provision
from parley.client import connect as connect_client
from parley.doctor import examine
from parley.settings import load
from tests.harness import ACK_WAIT_SECONDS, ModelServer, Running, fresh, running, until
from tests.rig.service import served

ROLES = ("service", "worker", "provisioner", "operator", "client")
FILES = Path(__file__).parents[2] / "examples" / "nats"


@dataclass(frozen=True)
class Guarded:
    """A server with the permission files."""

    address: str

    def url(self, role: str) -> str:
        return f"nats://{role}:{role}-secret@{self.address}"

    @asynccontextmanager
    async def as_(self, role: str) -> AsyncIterator["Stranger"]:
        """A plain nats-py connection with a role's rights, and what the server refused it."""
        refused: list[str] = []

        async def note(error: Exception) -> None:
            refused.append(str(error))

        nc = await nats.connect(self.url(role), error_cb=note)
        try:
            yield Stranger(nc, refused)
        finally:
            await nc.close()


@dataclass(frozen=True)
class Stranger:
    nc: PlainClient
    refused: list[str]

    async def publish_each(self, subjects: Iterable[str]) -> None:
        """Publish to each, and wait until the server has refused each."""
        for subject in subjects:
            await self.nc.publish(subject, b"{}")
        await self._until_refused("publish", subjects)

    async def subscribe_each(self, subjects: Iterable[str]) -> None:
        for subject in subjects:
            await self.nc.subscribe(subject)
        await self._until_refused("subscription", subjects)

    async def _until_refused(self, verb: str, subjects: Iterable[str]) -> None:
        wanted = {f'nats: permissions violation for {verb} to "{subject.lower()}"' for subject in subjects}
        try:
            await until(lambda: wanted <= set(self.refused), "each is refused", 5.0)
        except AssertionError:
            raise AssertionError(f"not refused: {sorted(wanted - set(self.refused))}") from None


def relative(path: Path, folder: Path) -> str:
    """nats-server reads the path of an `include` from the folder of the file that has it."""
    return os.path.relpath(path, folder)


@pytest.fixture(scope="module")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    conf = folder / "server.conf"
    common = config(folder, port=-1, token=None, sync_always=False)
    conf.write_text(f'{common}include "{relative(FILES / "accounts.conf", folder)}"\n')
    passwords = {f"PARLEY_NATS_{role.upper()}_PASSWORD": f"{role}-secret" for role in ROLES}
    process = await asyncio.create_subprocess_exec(executable(), "-c", str(conf), env=passwords)
    ports = folder / f"nats-server_{process.pid}.ports"
    try:
        await until(lambda: ports.exists() and ports.read_text().endswith("}"), "nats-server is ready")
        server = Guarded(json.loads(ports.read_text())["nats"][0].removeprefix("nats://"))
        nc = await connect(server.url("provisioner"), "provision", "_PARLEY.service")
        made = await provision(nc.jetstream(), load(ack_wait_seconds=ACK_WAIT_SECONDS).wanted)
        await nc.close()
        assert f"stream {topology.REQUESTS}" in made
        yield server
    finally:
        process.terminate()
        await process.wait()


@pytest.fixture(scope="module")
async def service(
    guarded: Guarded, model_process: ModelServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Running]:
    """All parts as `service`, the worker as `worker`, the client as `client`."""
    async with AsyncExitStack() as stack:
        looking = await connect(guarded.url("operator"), "tests")
        stack.push_async_callback(looking.close)
        client = await stack.enter_async_context(connect_client(guarded.url("client")))
        started = await stack.enter_async_context(
            running(
                guarded.url("service"), model_process, tmp_path_factory.mktemp("home"), looking, pool="local",
                worker_nats_url=guarded.url("worker"),
            )
        )  # fmt: skip
        yield Running(started.service, started.settings, client, looking, model_process)


# ── what each may do works ────────────────────────────────────────────────────────────────────────────────────────


async def test_a_client_asks_watches_looks_lists_and_finds(
    service: Running, model: ModelServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        await model.behave(latency_ms=100)
        submitted = await service.client.submit("why?", agents=2, timeout_seconds=20)
        seen = [tally.state.value async for tally in service.client.watch(submitted.task_id)]
        ending = await service.client.ending(submitted)
        assert isinstance(ending, DeliberationCompleted)
        assert not ending.degraded
        assert seen[-1] == "completed"
        assert (await service.client.status(submitted.task_id)).status == "COMPLETED"
        assert (await service.client.find(submitted.task_id)) == ending
        assert len(await service.client.processes()) == 1
        assert submitted.task_id in [tally.task_id for tally in await service.client.tallies()]
        told = [event async for event in service.client.job(submitted.task_id).events()]
        assert [event.type for event in told] == ["phase", "answer", "answer", "ending"]
        words = {event.agent_id: event.result for event in told if event.type == "answer"}
        assert words == {result.agent_id: result for result in ending.results}
        assert await service.client.job(submitted.task_id).ending() == ending
    refused = [record.getMessage() for record in caplog.records if "permissions" in record.getMessage()]
    assert refused == []


async def test_a_client_hears_endings_and_stops_a_deliberation(
    guarded: Guarded, service: Running, model: ModelServer
) -> None:
    await model.behave(latency_ms=20_000)
    async with guarded.as_("client") as other:
        heard: list[Msg] = []

        async def hear(message: Msg) -> None:
            heard.append(message)

        await other.nc.subscribe(topology.FAILED, cb=hear)
        await other.nc.flush()
        submitted = await service.client.submit("why?", agents=2, timeout_seconds=20)
        await model.runs(2)
        await service.client.cancel(submitted.task_id, "enough")
        assert (await service.client.ending(submitted)).status == "cancelled"
        await until(lambda: heard, "the ending is heard")
        # The worker heard the broadcast.
        await model.idle()


async def test_a_worker_says_that_an_agent_has_begun(service: Running, model: ModelServer) -> None:
    await model.behave(latency_ms=20_000)
    submitted = await service.client.submit("why?", agents=2, timeout_seconds=20)

    async def in_progress() -> bool:
        return (await service.client.status(submitted.task_id)).status == "IN_PROGRESS"

    await until(in_progress, "an agent has begun")
    await service.client.cancel(submitted.task_id)
    await service.client.ending(submitted)
    await model.idle()


async def test_large_work_is_read_by_a_worker_from_its_request(service: Running, model: ModelServer) -> None:
    await model.behave()
    ending = await service.client.deliberate("why? " * 10_000, agents=4, timeout_seconds=20)
    assert isinstance(ending, DeliberationCompleted)
    assert not ending.degraded


async def test_a_client_reads_results_that_were_too_large_for_a_message(
    service: Running, model: ModelServer
) -> None:
    await model.behave(tokens=120_000)
    ending = await service.client.deliberate("why?", agents=4, timeout_seconds=30)
    assert ending.results_ref is not None
    assert len(ending.results) == 4
    await model.behave()


@pytest.mark.ray
async def test_actors_work_with_a_workers_rights(
    guarded: Guarded, service: Running, model: ModelServer, tmp_path: Path
) -> None:
    await model.behave()
    nats = EmbeddedNats(guarded.url("service"), 0)
    # In a process of its own: this one may have a Ray already. Both services take work.
    settings = {
        "PARLEY_POOL_ACTORS": "1", "PARLEY_POOL_SLOTS": "32", "PARLEY_RAY_ACTOR_CPUS": "0.1",
        "PARLEY_WORKER_NATS_URL": guarded.url("worker"), "PARLEY_ACK_WAIT_SECONDS": f"{ACK_WAIT_SECONDS:g}",
    }  # fmt: skip
    async with served(nats, [model.url], tmp_path, pool="ray", environment=settings) as on_ray:
        busiest = 0.0
        await model.behave(latency_ms=300)
        asked = asyncio.create_task(service.client.deliberate("why?", agents=64, timeout_seconds=30))
        while not asked.done():
            busiest = max(busiest, await busy(on_ray.http_url))
            await asyncio.sleep(0.02)
        ending = await asked
        assert ending.successful_responses == 64
        assert busiest > 0
        assert "ermissions violation" not in on_ray.log.read_text()


async def busy(http_url: str) -> float:
    """How many slots of the pool are busy."""
    async with aiohttp.ClientSession() as http, http.get(f"{http_url}/metrics") as page:
        lines = (await page.text()).splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("parley_pool_busy ")))


@pytest.mark.parametrize(
    ("role", "arguments", "code"),
    [
        ("client", ("ask", "why?", "--agents", "1", "--timeout", "20", "--json"), 0),
        ("client", ("ask", "why?", "--agents", "2", "--timeout", "20"), 0),
        ("client", ("ls", "--json"), 0),
        ("client", ("result", "nobody", "--json"), 5),
        ("client", ("result", "d-1", "--wait"), 0),
        ("client", ("ls", "--status", "completed"), 0),
        ("client", ("cancel", "nobody"), 1),
        ("operator", ("deadletters", "list", "--json"), 0),
        ("operator", ("ask", "why?", "--agents", "1", "--timeout", "20", "--json"), 0),
        ("operator", ("doctor",), 0),
        ("client", ("doctor",), 0),
        ("provisioner", ("provision", "--check"), 0),
        ("provisioner", ("provision", "--apply"), 0),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
async def test_a_command_needs_no_more_than_its_roles_rights(
    guarded: Guarded, service: Running, model: ModelServer, tmp_path: Path, role: str, arguments: tuple[str, ...],
    code: int,
) -> None:  # fmt: skip
    await model.behave()
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "NATS_URL": guarded.url(role),
        "PARLEY_ACK_WAIT_SECONDS": str(ACK_WAIT_SECONDS),
    }  # fmt: skip
    command = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "parley", *arguments, env=environment, stdout=PIPE, stderr=PIPE
    )
    out, err = await asyncio.wait_for(command.communicate(), 60)
    assert command.returncode == code, (out, err)
    assert b"no right" not in err
    # A client's doctor asks the service, and says that it may not look at NATS itself.
    assert b"no right" not in out or (role, *arguments) == ("client", "doctor")
    assert service.client is not None


async def test_an_operator_examines_the_service_and_its_dead_letters(
    guarded: Guarded, service: Running
) -> None:
    rejected = await service.publish({"task_description": ""})
    await until(lambda: service.endings_of(f"d-{rejected}"), "it is rejected")
    async with connect_client(guarded.url("operator")) as operator:

        async def letters() -> list[Any]:
            return await operator.deadletters.newest(10)

        letter = (await until(letters, "a dead letter"))[0]
        assert await operator.deadletters.erase(letter)
    settings = load(
        nats_url=guarded.url("operator"), vllm_url=service.model.url, ack_wait_seconds=ACK_WAIT_SECONDS
    )
    findings = [finding async for finding in examine(settings)]
    assert [finding.what for finding in findings if not finding.ok] == []


# ── what it may not is refused ────────────────────────────────────────────────────────────────────────────────────

STREAMS = (
    "REQUESTS",
    "DELIBERATIONS",
    "AGENT_REQUESTS",
    "AGENT_RESPONSES",
    "KV_deliberations",
    "KV_limits",
    "OBJ_results",
)
# Subjects that only Parley's own parts publish to.
INTERNAL = (
    "deliberation.completed", "deliberation.failed", "deliberation.timer.t-1", "deliberation.deadline.t-1",
    "agent.requested", "agent.cancel", "agent.running", "suspect.a.b.c", "deadletter.x", "$KV.deliberations.t-1", "$O.results.C.x", "_PARLEY.service.x",
    "_PARLEY.worker.x", "_INBOX.x", "$JS.ACK.REQUESTS.intake.1.1.1.1.0", "$SRV.PING",
    *(f"$JS.API.STREAM.{verb}.{stream}" for verb in ("PURGE", "DELETE", "UPDATE") for stream in STREAMS),
    *(f"$JS.API.CONSUMER.CREATE.{stream}" for stream in STREAMS), "$JS.API.CONSUMER.MSG.NEXT.REQUESTS.intake",
    "$JS.API.CONSUMER.DELETE.REQUESTS.intake", "$JS.API.STREAM.MSG.DELETE.DELIBERATIONS", "$JS.API.STREAM.CREATE.X",
)  # fmt: skip
REFUSED = {
    "client": (*INTERNAL, "agent.response.completed", "agent.response.failed"),
    "worker": (
        *(subject for subject in INTERNAL if not subject.startswith("_PARLEY.service")), "deliberation.requested",
        "deliberation.cancel", "deliberation.get", "deliberation.service",
    ),
    "service": (
        "deliberation.requested", "deliberation.cancel", "agent.response.completed", "_PARLEY.service.x",
        *(f"$JS.API.STREAM.{verb}.{stream}" for verb in ("DELETE", "UPDATE", "CREATE") for stream in STREAMS),
        "$JS.API.STREAM.PURGE.DELIBERATIONS",
    ),
    "provisioner": ("deliberation.completed", "agent.requested", "$KV.deliberations.t-1", "_INBOX.x", "agent.cancel"),
    "operator": (
        "deliberation.completed", "deliberation.timer.t-1", "$KV.deliberations.t-1", "agent.cancel", "_PARLEY.service.x",
        "$JS.API.STREAM.DELETE.DELIBERATIONS", "$JS.API.STREAM.PURGE.DELIBERATIONS",
    ),
}  # fmt: skip
UNHEARD = {
    "client": (
        ">", "_PARLEY.>", "deliberation.*", "deliberation.requested", "agent.requested", "agent.>", "$KV.>", "$JS.>",
    ),
    "worker": (">", "_PARLEY.service.>", "_INBOX.>", "deliberation.>", "agent.requested", "$KV.>"),
    "service": (">", "_PARLEY.worker.>", "_INBOX.>", "agent.response.completed"),
    "provisioner": (">", "_INBOX.>", "deliberation.>"),
    "operator": (">", "_PARLEY.worker.>", "agent.>"),
}  # fmt: skip


# What is needed too seldom for the tests above to meet it.
SELDOM = {
    "service": (
        "suspect.a.b.c", "agent.running", "_R_.x.y", "$JS.API.CONSUMER.DELETE.DELIBERATIONS.intake",
        *(f"$JS.API.STREAM.PURGE.{stream}" for stream in ("REQUESTS", "AGENT_RESPONSES", "DEAD_LETTERS", "OBJ_results")),
    ),
    "worker": (
        "_PARLEY.service.x", "$JS.API.STREAM.MSG.GET.KV_deliberations", "$JS.API.DIRECT.GET.REQUESTS",
        "$JS.API.DIRECT.GET.AGENT_RESPONSES", "$KV.limits.x", "$JS.API.STREAM.MSG.GET.KV_limits",
    ),
    "operator": ("$JS.API.STREAM.PURGE.DEAD_LETTERS", "$JS.API.STREAM.MSG.DELETE.DEAD_LETTERS"),
}  # fmt: skip


@pytest.mark.parametrize("role", SELDOM)
async def test_what_a_role_needs_seldom_is_allowed(guarded: Guarded, role: str) -> None:
    async with guarded.as_(role) as stranger:
        for subject in SELDOM[role]:
            await stranger.nc.publish(subject, b"nothing that JetStream could do")
        await stranger.publish_each(["forbidden"])
        assert len(stranger.refused) == 1


@pytest.mark.parametrize("role", ROLES)
async def test_what_a_role_may_not_is_refused(guarded: Guarded, role: str) -> None:
    async with guarded.as_(role) as stranger:
        await stranger.publish_each(REFUSED[role])
        await stranger.subscribe_each(UNHEARD[role])


async def test_a_refused_right_is_named_and_is_no_timeout(guarded: Guarded) -> None:
    nc = await connect(guarded.url("client"), "test")
    try:
        started = asyncio.get_running_loop().time()
        with pytest.raises(RightMissing, match=r"no right to publish to agent\.requested"):
            await JetStream(nc).publish(topology.AGENT_REQUESTED, b"{}")
        assert asyncio.get_running_loop().time() - started < 3
    finally:
        await nc.close()
    async with connect_client(guarded.url("worker")) as asker:
        with pytest.raises(RightMissing, match=r"^NATS at .*no right to "):
            await asker.status("t-1")


# ── with a client's rights alone, nothing does harm (HOSTILE.md 2, 3 and 10; A.7) ─────────────────────────────────

LATER = "@at 2030-01-01T00:00:00Z"
HEADERS: list[dict[str, str]] = [
    {"Nats-Schedule": LATER, "Nats-Schedule-Target": "deliberation.completed"},
    {"Nats-Schedule": LATER, "Nats-Schedule-Target": "deliberation.cancel"},
    {"Nats-Schedule": "@every 1s", "Nats-Schedule-Target": "deliberation.cancel"},
    {"Nats-Schedule": "* * * * * *", "Nats-Schedule-Target": "deliberation.requested"},
    {"Nats-Rollup": "all"},
    {"Nats-Rollup": "sub"},
    {"Nats-Schedule-Next": "purge", "Nats-Scheduler": "deliberation.timer.VICTIM"},
    {"Nats-TTL": "1s"},
    {"Nats-Incr": "1"},
    {"Nats-Trace-Dest": "$KV.deliberations.VICTIM"},
    {"Nats-Batch-Id": "x", "Nats-Batch-Sequence": "1", "Nats-Batch-Commit": "1"},
    {"Parley-Reply-To": "$KV.deliberations.VICTIM"},
    {"Parley-Reply-To": "_PARLEY.service.x"},
    {"Parley-Reply-To": "deliberation.timer.VICTIM"},
]
# Not `deliberation.cancel`, which a client may publish to anyway.
REPLIES = [
    "agent.cancel", "$KV.deliberations.VICTIM", "deliberation.timer.VICTIM",
    "deliberation.completed", "deadletter.x", "agent.requested", "agent.response.completed", "_PARLEY.service.x",
    "$JS.API.STREAM.PURGE.KV_deliberations", "deliberation.deadline.VICTIM",
]  # fmt: skip


async def test_no_message_of_a_client_harms_a_deliberation_beside(
    guarded: Guarded, service: Running, model: ModelServer
) -> None:
    """Every header and every reply subject, on all that a client may publish to, while one deliberation waits for its
    deadline and others run. The first ends by its timer and in time, and the others are complete."""
    await model.behave(latency_ms=60_000)
    victim = fresh("victim")
    loop = asyncio.get_running_loop()
    waiting = await service.client.submit("why?", agents=2, timeout_seconds=6, task_id=victim)
    asked = loop.time()
    await model.runs(2)
    await model.behave(latency_ms=20)

    forged = json.dumps({"task_id": victim, "status": "completed", "x": "FORGED"}).encode()
    before = await stored(service.nats)
    acked: list[dict[str, str]] = []
    async with guarded.as_("client") as stranger:
        for headers in HEADERS:
            sent = {key: value.replace("VICTIM", victim) for key, value in headers.items()}
            try:
                await stranger.nc.jetstream(timeout=1).publish(topology.REQUESTED, forged, headers=sent)
                acked.append(headers)
            except (nats.errors.Error, nats.js.errors.Error, TimeoutError):
                pass  # refused
        questions = {
            topology.REQUESTED: forged,
            topology.SERVICE: b"{}",
            topology.GET: json.dumps({"task_id": victim}).encode(),
            "$JS.API.DIRECT.GET.DELIBERATIONS": b'{"seq":1}',
            "$JS.API.DIRECT.GET.KV_deliberations": b'{"seq":1,"next_by_subj":"$KV.>","batch":5}',
            f"$JS.API.DIRECT.GET.KV_deliberations.$KV.deliberations.{victim}": b"",
            "$JS.API.DIRECT.GET.OBJ_results": b'{"seq":1}',
        }
        for reply in REPLIES:
            for subject, body in questions.items():
                await stranger.nc.publish(subject, body, reply=reply.replace("VICTIM", victim))
            await stranger.nc.publish(
                topology.CANCEL, b'{"task_id":"nobody"}', reply=reply.replace("VICTIM", victim)
            )
        await stranger.nc.flush()
    # What JetStream took has no control header, or one that it does not know on this stream.
    assert [header for headers in acked for header in headers if header.startswith("Nats-")] == []

    beside = await asyncio.gather(
        *(service.client.deliberate("why?", agents=2, timeout_seconds=20) for _ in range(5))
    )
    assert [ending.status for ending in beside] == ["completed"] * 5
    ending = await service.client.ending(waiting)
    assert ending.status == "timeout"
    assert loop.time() - asked < 8.5
    endings = await service.endings_of(victim)
    assert len(endings) == 1
    assert b"FORGED" not in endings[0].data
    status = await service.client.status(victim)
    assert status.status == "TIMEOUT"
    after = await stored(service.nats)
    # Nothing of the stranger's is among the work, and no stream has lost a message to it.
    assert after["DELIBERATIONS"]["first"] >= before["DELIBERATIONS"]["first"]
    assert after["REQUESTS"]["messages"] > before["REQUESTS"]["messages"]
    for stream in (
        topology.AGENT_REQUESTS,
        topology.AGENT_RESPONSES,
        topology.TALLIES,
        topology.DELIBERATIONS,
    ):
        found = [message async for message in read_all(service.wire, stream, ">")]
        acknowledgements = [message for message in found if message.data.startswith(b'{"stream"')]
        assert acknowledgements == []


async def test_a_client_cannot_reach_an_inbox_of_the_services(guarded: Guarded, service: Running) -> None:
    """Finding 10: forged PubAcks, deliveries and statuses need a right that clients do not have."""
    assert service.service.wire.nc.new_inbox().startswith("_PARLEY.service.")
    async with guarded.as_("client") as stranger:
        heard: list[Msg] = []

        async def hear(message: Msg) -> None:
            heard.append(message)

        await stranger.nc.subscribe(topology.COMPLETED, cb=hear)
        await stranger.nc.flush()
        await service.client.deliberate("why?", agents=1, timeout_seconds=20)
        await until(lambda: heard, "an ending is heard")
        # The service's PubAck inbox is told to whoever hears endings, and is of no use.
        assert heard[0].reply == "" or heard[0].reply.startswith("_PARLEY.service.")
        await stranger.publish_each([heard[0].reply or "_PARLEY.service.x"])


async def stored(nc: Nats) -> dict[str, dict[str, int]]:
    states = {name: (await nc.jetstream().stream_info(name)).state for name in STREAMS}
    return {name: {"messages": state.messages, "first": state.first_seq} for name, state in states.items()}


# ── a right that lacks is known, named and turns readiness ────────────────────────────────────────────────────────

# A line of a role's file, and the right that its user then lacks.
LACKING = {
    ("service", "agent.requested"): "publish to agent.requested",
    ("service", "$JS.API.CONSUMER.MSG.NEXT.*.*"): "publish to $JS.API.CONSUMER.MSG.NEXT.REQUESTS.intake",
    ("service", "$JS.ACK.>"): "publish to $JS.ACK.REQUESTS.intake.>",
    ("service", "deliberation.completed"): "publish to deliberation.completed",
    ("service", "deliberation.timer.*"): "publish to deliberation.timer.*",
    ("service", "$KV.deliberations.>"): "publish to $KV.deliberations.*",
    ("service", "$O.results.>"): "publish to $O.results.C.*",
    ("service", "deadletter.>"): "publish to deadletter.deliberation.requested",
    ("service", "_INBOX.>"): "publish to _INBOX.*",
    ("service", "deliberation.get"): "subscribe to deliberation.get",
    ("service", "agent.cancel"): "publish to agent.cancel",
    ("service", "deliberation.service"): "subscribe to deliberation.service",
    ("service", "$JS.API.STREAM.MSG.GET.*"): "publish to $JS.API.STREAM.MSG.GET.KV_deliberations",
    ("service", "$JS.API.DIRECT.GET.>"): "publish to $JS.API.DIRECT.GET.DELIBERATIONS",
    ("worker", "agent.response.completed"): "publish to agent.response.completed",
    ("worker", "agent.cancel"): "subscribe to agent.cancel",
    ("worker", "agent.running"): "subscribe to agent.running",
    ("worker", "$JS.ACK.AGENT_REQUESTS.dispatch.>"): "publish to $JS.ACK.AGENT_REQUESTS.dispatch.>",
    ("worker", "$JS.API.DIRECT.GET.REQUESTS"): "publish to $JS.API.DIRECT.GET.REQUESTS",
    (
        "worker",
        "$JS.API.STREAM.MSG.GET.KV_deliberations",
    ): "publish to $JS.API.STREAM.MSG.GET.KV_deliberations",
}


def reduced(role: str, line: str, *, told: bool) -> str:
    """A role's permissions without one line. `told`: the user may ask for its rights."""
    kept = (FILES / "permissions" / f"{role}.conf").read_text().replace(f'"{line}"', "")
    return kept if told else kept.replace('"$SYS.REQ.USER.INFO"', "")


@asynccontextmanager
async def lacking(folder: Path, role: str, line: str, *, told: bool) -> AsyncIterator[Guarded]:
    """A server on which `role` lacks a line of its file. The others have all."""
    users = []
    for each in ("service", "worker", "provisioner", "client"):
        text = (FILES / "permissions" / f"{each}.conf").read_text()
        text = reduced(role, line, told=told) if each == role else text
        if each == "client":  # in one account here: where answers go is a client's inbox
            text = text.replace("_R_.", "_INBOX.")
        (folder / f"{each}.conf").write_text(text)
        users.append(f'{{ user: {each}, password: {each}-secret, permissions: {{ include "{each}.conf" }} }}')
    conf = folder / "server.conf"
    common = config(folder, port=-1, token=None, sync_always=False)
    conf.write_text(f"{common}accounts {{ A {{ jetstream: enabled, users: [{chr(10).join(users)}] }} }}\n")
    process = await asyncio.create_subprocess_exec(executable(), "-c", str(conf))
    ports = folder / f"nats-server_{process.pid}.ports"
    try:
        await until(lambda: ports.exists() and ports.read_text().endswith("}"), "nats-server is ready")
        server = Guarded(json.loads(ports.read_text())["nats"][0].removeprefix("nats://"))
        nc = await connect(server.url("provisioner"), "provision", "_PARLEY.service")
        await provision(nc.jetstream(), load(ack_wait_seconds=ACK_WAIT_SECONDS).wanted)
        await nc.close()
        yield server
    finally:
        process.terminate()
        await process.wait()


# Where the server does not tell: what is tried at once, and what a service needs as it starts.
KNOWN_UNTOLD = {
    "agent.requested",
    "$JS.API.CONSUMER.MSG.NEXT.*.*",
    "agent.response.completed",
    "deliberation.get",
}


@pytest.mark.parametrize(
    ("role", "line", "told"),
    [(role, line, told) for role, line in LACKING for told in (True, False) if told or line in KNOWN_UNTOLD],
)
async def test_readiness_names_a_right_that_lacks_before_it_is_needed(
    role: str, line: str, told: bool, model: ModelServer, tmp_path: Path
) -> None:
    await model.behave()
    async with lacking(tmp_path, role, line, told=told) as server, AsyncExitStack() as stack:
        settings = load(
            nats_url=server.url("service"), worker_nats_url=server.url("worker"), vllm_url=model.url, http_port=0,
            home=tmp_path / "home", pool="local", ack_wait_seconds=ACK_WAIT_SECONDS, drain_seconds=1.0,
        )  # fmt: skip
        running_service = await stack.enter_async_context(run_service(settings))

        async def named() -> str:
            problem = str((await readiness(running_service.http_url))["problems"].get("rights", ""))
            return problem if LACKING[role, line] in problem else ""  # it may name another of the line first

        problem = await until(named, "readiness names it", 10.0)
        assert (
            f"the NATS user of the {'workers' if role == 'worker' else 'service'} has no right to" in problem
        )


async def readiness(http_url: str) -> dict[str, Any]:
    async with aiohttp.ClientSession() as http, http.get(f"{http_url}/readyz") as page:
        found: dict[str, Any] = await page.json()
        return found
