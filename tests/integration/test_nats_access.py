"""The whole service on a NATS that is set up as others run it: service, workers, command and client alike."""

import asyncio
import os
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import nkeys
import pytest

import parley
from parley.app import service
from parley.broker.core.errors import ServiceSilent, Unavailable
from parley.broker.jetstream.embedded import EmbeddedNats
from parley.client import connect
from parley.settings import load
from tests.harness import ModelServer, until
from tests.rig.nats_servers import KeyPair, Operator, nats_server, private_file
from tests.rig.own_authority import OwnAuthority
from tests.rig.service import served

PASSWORD = "p/w#o?r@d"
# Exit codes of the command.
COMPLETED, NO_SERVICE = 0, 3
TWO_ACCOUNTS = "accounts { A { %susers: [{ user: a, password: a }] } }\n"


def set_up(kind: str, folder: Path) -> tuple[str, str, dict[str, str]]:
    """Configuration of a server, what stands before its address, and the settings that fit."""
    own = OwnAuthority(folder)
    files = f'cert_file: "{own.certificate_file}", key_file: "{own.key_file}", ca_file: "{own.ca_file}"'
    operator, nkey = Operator(), KeyPair(nkeys.PREFIX_BYTE_USER)
    tls = {"PARLEY_NATS_CA_FILE": str(own.ca_file)}
    certificate = {
        "PARLEY_NATS_CERT_FILE": str(own.certificate_file),
        "PARLEY_NATS_KEY_FILE": str(own.key_file),
    }
    user = f'authorization {{ user: me, password: "{PASSWORD}" }}'
    creds = private_file(folder / "a.creds", operator.credentials())
    worker = private_file(folder / "worker.creds", operator.credentials())
    seed = private_file(folder / "a.nk", nkey.seed)
    return {
        "password in the URL": (user, f"nats://me:{PASSWORD}@", {}),
        "password apart": (user, "nats://", {"PARLEY_NATS_USER": "me", "PARLEY_NATS_PASSWORD": PASSWORD}),
        "credentials": (
            operator.configuration,
            "nats://",
            {"PARLEY_NATS_CREDS_FILE": str(creds), "PARLEY_WORKER_NATS_CREDS_FILE": str(worker)},
        ),
        "nkey": (
            f"authorization {{ users: [{{ nkey: {nkey.public} }}] }}",
            "nats://",
            {"PARLEY_NATS_NKEY_FILE": str(seed)},
        ),
        "certificates": (f"tls {{ {files}, verify: true }}", "tls://", {**tls, **certificate}),
        "tls first": (
            f"tls {{ {files}, handshake_first: true }}",
            "nats://",
            {**tls, "PARLEY_NATS_TLS_FIRST": "true"},
        ),
    }[kind]


@asynccontextmanager
async def serving(
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    model: ModelServer,
    home: Path,
    variables: Mapping[str, str],
    pool: str = "local",
) -> AsyncIterator[None]:
    for name, value in {"NATS_URL": url, **variables}.items():
        monkeypatch.setenv(name, value)
    if pool == "ray":  # a process of its own: this one may have another Ray
        few = {"PARLEY_POOL_ACTORS": "1", "PARLEY_RAY_ACTOR_CPUS": "0.1", "PARLEY_DRAIN_SECONDS": "1"}
        async with served(EmbeddedNats(url, 0), [model.url], home.parent, environment={**variables, **few}):
            yield
        return
    async with service(load(vllm_url=model.url, http_port=0, home=home, pool=pool, drain_seconds=1.0)):
        yield


async def command(*arguments: str) -> tuple[int | None, str]:
    """The exit code of a command in this environment, and what it wrote."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "parley", *arguments, env=dict(os.environ), stdout=PIPE, stderr=PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, (out + err).decode()


KINDS = ("password in the URL", "password apart", "credentials", "nkey", "certificates", "tls first")


@pytest.mark.parametrize(
    ("kind", "pool"),
    [
        *((kind, "local") for kind in KINDS),
        *(pytest.param(kind, "ray", marks=pytest.mark.ray) for kind in ("credentials", "certificates")),
    ],
)
async def test_everything_works_with_what_fits(
    kind: str, pool: str, model: ModelServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    configuration, before, variables = set_up(kind, tmp_path)
    await model.behave()
    async with nats_server(tmp_path / "nats", configuration) as address:
        url = f"{before}localhost:{address.rpartition(':')[2]}"
        async with serving(monkeypatch, url, model, tmp_path / "home", variables, pool):
            async with parley.connect() as client:
                ending = await client.deliberate("x", agents=2, timeout_seconds=20)
                assert (ending.status, len(ending.results)) == ("completed", 2)
            code, said = await command("ask", "x", "--agents", "1", "--timeout", "20")
            assert code == COMPLETED, said
            assert (await command("ls"))[0] == COMPLETED
            code, said = await command("doctor")
            assert code == COMPLETED, said


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        (
            {"PARLEY_NATS_USER": "me", "PARLEY_NATS_PASSWORD": "s3cret"},
            "does not accept this user and password",
        ),
        ({}, "wants credentials, and none were given"),
    ],
)
async def test_a_wrong_login_is_told_to_service_client_and_command(
    variables: dict[str, str], said: str, model: ModelServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    configuration, _, _ = set_up("password apart", tmp_path)
    async with nats_server(tmp_path / "nats", configuration) as address:
        started = time.monotonic()
        with pytest.raises(Unavailable, match=said):
            async with serving(monkeypatch, f"nats://{address}", model, tmp_path / "home", variables):
                raise AssertionError("it has started")
        with pytest.raises(Unavailable, match=said):
            async with parley.connect():
                raise AssertionError("it is connected")
        assert time.monotonic() - started < 4
        code, told = await command("ask", "x")
    assert (code, said in " ".join(told.split())) == (NO_SERVICE, True), told
    assert "s3cret" not in told


@asynccontextmanager
async def hub_and_leaf(folder: Path, *, leaf_has_jetstream: bool) -> AsyncIterator[tuple[str, str]]:
    """The addresses of a hub whose JetStream has the domain `hub`, and of a leaf node."""
    enabled = TWO_ACCOUNTS % "jetstream: enabled, "
    async with AsyncExitStack() as stack:
        for port in range(17422, 17522):  # nats-server does not tell the port of its leaf nodes
            hub = f'jetstream {{ store_dir: "{folder}/hub-store", domain: hub }}\n{enabled}'
            listening = f'{hub}leafnodes {{ listen: "127.0.0.1:{port}" }}'
            try:
                address = await stack.enter_async_context(
                    nats_server(folder / "hub", listening, jetstream=False)
                )
                break
            except Unavailable:
                continue
        store = f'jetstream {{ store_dir: "{folder}/leaf-store", domain: leaf }}\n{enabled}'
        leaf = store if leaf_has_jetstream else TWO_ACCOUNTS % ""
        remote = f'leafnodes {{ remotes: [{{ url: "nats://a:a@127.0.0.1:{port}", account: A }}] }}'
        leaf_address = await stack.enter_async_context(
            nats_server(folder / "leaf", leaf + remote, jetstream=False)
        )
        log = folder / "leaf" / "nats-server.log"
        await until(lambda: "Leafnode connection created" in log.read_text(), "the leaf is connected")
        yield address, leaf_address


@pytest.mark.parametrize(("place", "leaf_has_jetstream"), [("hub", False), ("leaf", False), ("leaf", True)])
async def test_everything_works_with_the_jetstream_of_a_domain(
    place: str, leaf_has_jetstream: bool, model: ModelServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await model.behave()
    domain = {"PARLEY_NATS_JETSTREAM_DOMAIN": "hub"}
    async with hub_and_leaf(tmp_path, leaf_has_jetstream=leaf_has_jetstream) as (hub, leaf):
        url = f"nats://a:a@{hub if place == 'hub' else leaf}"
        async with serving(monkeypatch, url, model, tmp_path / "home", domain):
            async with parley.connect() as client:
                ending = await client.deliberate("x", agents=2, timeout_seconds=20)
                assert (ending.status, len(ending.results)) == ("completed", 2)
                assert [tally.state async for tally in client.watch(ending.task_id)][-1] == "completed"
            code, said = await command("doctor")
            assert code == COMPLETED, said
            assert (await command("ls"))[0] == COMPLETED


async def test_a_prefix_of_inboxes_works_where_the_service_allows_it_and_is_named_where_not(
    model: ModelServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await model.behave()
    async with nats_server(tmp_path / "nats") as address:
        url, allowed = f"nats://{address}", {"PARLEY_REPLY_PREFIXES": "_INBOX.,APP."}
        async with serving(monkeypatch, url, model, tmp_path / "home", allowed):
            async with connect(url, inbox_prefix="APP") as client:
                assert (await client.deliberate("x", agents=1, timeout_seconds=20)).status == "completed"
                assert (await client.status("nobody")).status == "UNKNOWN"
            async with connect(url, inbox_prefix="OTHER") as client:
                with pytest.raises(ServiceSilent, match=r"OTHER\. is not among its PARLEY_REPLY_PREFIXES"):
                    await client.status("nobody")
            monkeypatch.setenv("PARLEY_NATS_INBOX_PREFIX", "APP")
            code, said = await command("ask", "x", "--agents", "1", "--timeout", "20")
            assert code == COMPLETED, said
