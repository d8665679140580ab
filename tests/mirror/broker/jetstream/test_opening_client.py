"""Connections to real servers set up as people have them: each opens with what fits, and a wrong one is told why, soon."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nkeys
import pytest

from parley.broker.core.errors import AccessRefused, BrokerUnavailable, BrokerUnsuitable
from parley.broker.jetstream import connection
from parley.broker.jetstream.connection import check_server, close, connect
from parley.broker.jetstream.nats_access import load_access
from parley.broker.jetstream.nats_client import NatsClient
from tests.rig.nats_servers import KeyPair, Operator, nats_server, private_file
from tests.rig.own_authority import OwnAuthority

# nats-py's way to open a WebSocket.
pytestmark = pytest.mark.filterwarnings("ignore:parameter 'timeout' of type:DeprecationWarning")

PASSWORD = "p/w#o?r@d:%2"
ENCODED = "p%2Fw%23o%3Fr%40d%3A%252"
# To a refusal by a server that answers at once. An honest one takes 0.1 s; this machine may be busy.
SOON_SECONDS = 4.0


@dataclass
class Setup:
    """Files of every kind, made once, and the servers that run."""

    folder: Path
    own: OwnAuthority
    other: OwnAuthority
    operator: Operator = field(default_factory=Operator)
    nkey: KeyPair = field(default_factory=lambda: KeyPair(nkeys.PREFIX_BYTE_USER))

    def __post_init__(self) -> None:
        for name, text in {
            "good.creds": self.operator.credentials(),
            "old.creds": self.operator.credentials(expires=time.time() - 60),
            "foreign.creds": Operator().credentials(),
            "good.nk": self.nkey.seed,
            "other.nk": KeyPair(nkeys.PREFIX_BYTE_USER).seed,
            "token": "t/o#k\n",
        }.items():
            private_file(self.folder / name, text)

    def tls(self, more: str = "") -> str:
        own = self.own
        files = f'cert_file: "{own.certificate_file}", key_file: "{own.key_file}", ca_file: "{own.ca_file}"'
        return f"tls {{ {files}{more} }}\n"

    def configuration(self, kind: str) -> str:
        return {
            "plain": "",
            "user": f'authorization {{ user: "us@er", password: "{PASSWORD}" }}',
            "token": 'authorization { token: "t/o#k" }',
            "operator": self.operator.configuration,
            "nkey": f"authorization {{ users: [{{ nkey: {self.nkey.public} }}] }}",
            "tls": self.tls(),
            "optional tls": self.tls() + "allow_non_tls: true",
            "mtls": self.tls(", verify: true"),
            "tls first": self.tls(", handshake_first: true"),
            "mtls first": self.tls(", verify: true, handshake_first: true"),
            "accounts": "accounts { A { users: [{ user: a, password: a }], jetstream: enabled }, "
            "B { users: [{ user: b, password: b }] } }",
        }[kind]

    def options(self, given: str) -> dict[str, Any]:
        """`creds_file=good.creds cert` and the like."""
        found: dict[str, Any] = {}
        short: dict[str, dict[str, Any]] = {
            "ca": {"ca_file": self.own.ca_file},
            "other-ca": {"ca_file": self.other.ca_file},
            "cert": {"cert_file": self.own.certificate_file, "key_file": self.own.key_file},
            "other-cert": {"cert_file": self.other.certificate_file, "key_file": self.other.key_file},
            "first": {"tls_first": True},
        }
        for word in given.split():
            name, equals, value = word.partition("=")
            found.update(
                short[name] if not equals else {name: str(self.folder / value) if "_file" in name else value}
            )
        return found


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    folder = tmp_path_factory.mktemp("nats")
    for name in ("own", "other"):
        (folder / name).mkdir()
    return Setup(folder, OwnAuthority(folder / "own"), OwnAuthority(folder / "other"))


@asynccontextmanager
async def server(setup: Setup, tmp_path: Path, kind: str) -> AsyncIterator[str]:
    """The port of a server of that kind, on `localhost`."""
    async with nats_server(tmp_path / "server", setup.configuration(kind)) as address:
        yield address.rpartition(":")[2]


@pytest.mark.parametrize(
    ("kind", "url", "given"),
    [
        ("user", f"nats://us@er:{PASSWORD}@localhost", ""),
        ("user", f"nats://us%40er:{ENCODED}@localhost", ""),
        ("user", "nats://localhost", f"user=us@er password={PASSWORD}"),
        ("user", "nats://us@er@localhost", f"password={PASSWORD}"),
        ("token", "nats://t/o#k@localhost", ""),
        ("token", "nats://t%2Fo%23k@localhost", ""),
        ("token", "nats://localhost", "token=t/o#k"),
        ("token", "nats://localhost", "token_file=token"),
        ("operator", "nats://localhost", "creds_file=good.creds"),
        ("nkey", "nats://localhost", "nkey_file=good.nk"),
        ("tls", "nats://localhost", "ca"),
        ("tls", "tls://localhost", "ca"),
        ("optional tls", "nats://localhost", ""),
        ("optional tls", "tls://localhost", "ca"),
        ("mtls", "tls://localhost", "ca cert"),
        ("tls first", "nats://localhost", "ca first"),
        ("mtls first", "tls://localhost", "ca cert first"),
        ("accounts", "nats://a:a@localhost", ""),
    ],
)
async def test_what_fits_opens(setup: Setup, tmp_path: Path, kind: str, url: str, given: str) -> None:
    async with server(setup, tmp_path, kind) as port:
        whole = f"{url}:{port}"
        nc = await connect(whole, "test", access=load_access(setup.options(given)))
        try:
            assert (await check_server(nc, whole)).startswith("2.")
        finally:
            await close(nc)


@pytest.mark.parametrize(
    ("kind", "url", "given", "said"),
    [
        ("user", "nats://us@er:s3cret@localhost", "", "does not accept this user and password"),
        ("user", "nats://localhost", "", "wants credentials, and none were given"),
        ("user", "nats://s3cret@localhost", "", "does not accept this token; or it wants a user"),
        ("user", "nats://localhost", "creds_file=good.creds", "takes no credentials file and no nkey"),
        ("token", "nats://localhost", "token=s3cret", "does not accept this token"),
        ("operator", "nats://localhost", "", "wants credentials, and none were given"),
        ("operator", "nats://localhost", "creds_file=old.creds", "old.creds expired at 20"),
        ("operator", "nats://localhost", "creds_file=foreign.creds", "its user or account is unknown here"),
        ("operator", "nats://u:s3cret@localhost", "", "does not accept this user and password"),
        ("nkey", "nats://localhost", "nkey_file=other.nk", "it has no user with the nkey of "),
        ("tls", "nats://localhost", "", "not trusted here (unable to get local issuer certificate); set PARLEY_NATS_CA_FILE"),
        ("tls", "tls://localhost", "other-ca", "PARLEY_NATS_CA_FILE has another authority"),
        ("tls", "tls://127.0.0.1", "ca", "certificate is for another name than 127.0.0.1"),
        ("tls", "tls://localhost", "ca first", "does not begin with TLS; unset PARLEY_NATS_TLS_FIRST"),
        ("plain", "tls://s3cret@localhost", "", "it speaks no TLS, and nothing is sent to it without"),
        ("plain", "nats://localhost", "ca", "it speaks no TLS, and nothing is sent to it without"),
        ("plain", "ws://localhost", "", "takes no WebSocket connection on this port"),
        ("plain", "wss://localhost", "", "it speaks no TLS, or is no NATS server"),
        ("mtls", "tls://localhost", "ca", "wants a client certificate; set PARLEY_NATS_CERT_FILE"),
        ("mtls", "tls://localhost", "ca other-cert", "does not accept this client certificate"),
        ("mtls first", "tls://localhost", "ca first", "set PARLEY_NATS_CERT_FILE and PARLEY_NATS_KEY_FILE"),
        ("mtls first", "tls://localhost", "ca first other-cert", "does not accept this client certificate"),
    ],
)  # fmt: skip
async def test_what_does_not_fit_is_told_why_at_once(
    setup: Setup, tmp_path: Path, kind: str, url: str, given: str, said: str
) -> None:
    async with server(setup, tmp_path, kind) as port:
        access = load_access(setup.options(given))
        started = time.monotonic()
        with pytest.raises(AccessRefused) as caught:
            await connect(f"{url}:{port}", "test", access=access)
        assert time.monotonic() - started < SOON_SECONDS
    assert said in caught.value.reason
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("habit", "said"),
    [
        ("talk", "does not greet as NATS does"),
        ("leave", "does not greet as NATS does"),
        ("listen", "it is silent: a NATS server greets at once"),
    ],
)
async def test_what_is_no_nats_server_is_told_from_one(
    monkeypatch: pytest.MonkeyPatch, habit: str, said: str
) -> None:
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT_SECONDS", 0.5)
    over = asyncio.Event()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if habit == "talk":
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        elif habit == "listen":
            await over.wait()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as other:
        url = f"nats://127.0.0.1:{other.sockets[0].getsockname()[1]}"
        with pytest.raises(AccessRefused) as caught:
            await connect(url, "test")
        over.set()
    assert said in caught.value.reason
    assert "PARLEY_NATS_TLS_FIRST" in caught.value.reason


async def test_a_login_that_is_not_answered_is_told_from_a_server_that_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT_SECONDS", 0.3)
    over = asyncio.Event()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b'INFO {"version":"2.12.0","max_payload":1048576,"auth_required":true,"headers":true}\r\n'
        )
        await over.wait()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as slow:
        with pytest.raises(AccessRefused, match=r"did not answer the login within 0\.3 s: .*auth callout"):
            await connect(f"nats://u:s3cret@127.0.0.1:{slow.sockets[0].getsockname()[1]}", "test")
        over.set()


async def test_each_user_of_a_list_of_urls_has_the_password_that_is_set_apart(tmp_path: Path) -> None:
    users = 'authorization { users: [{ user: a, password: "p" }, { user: b, password: "p" }] }'
    async with nats_server(tmp_path / "server", users) as address:
        port = address.rpartition(":")[2]
        nc = await connect(
            f"nats://a@127.0.0.1:{port},nats://b@localhost:{port}",
            "test",
            access=load_access({"password": "p"}),
        )
        await close(nc)


@pytest.mark.parametrize("renewed", [True, False])
async def test_a_jwt_that_ends_is_followed_by_the_one_in_its_file(
    setup: Setup, tmp_path: Path, caplog: pytest.LogCaptureFixture, renewed: bool
) -> None:
    path = private_file(tmp_path / "short.creds", setup.operator.credentials(expires=time.time() + 2))
    async with nats_server(tmp_path / "server", setup.operator.configuration) as address:
        nc = await connect(f"nats://{address}", "test", access=load_access({"creds_file": path}))
        if renewed:
            path.write_text(setup.operator.credentials())
        async with asyncio.timeout(20):
            await (nc.wait_reconnected(0) if renewed else nc.wait_closed())
        assert nc.is_connected is renewed
        await close(nc)
    assert [message for message in caplog.messages if "NATS" in message] == [
        "the connection to NATS is lost; trying to reconnect", "the connection to NATS is back"
    ] * renewed  # fmt: skip


async def test_a_server_that_wants_tls_first_is_told_by_a_hint(setup: Setup, tmp_path: Path) -> None:
    async with server(setup, tmp_path, "tls first") as port:
        with pytest.raises(AccessRefused, match="If it wants TLS first, set PARLEY_NATS_TLS_FIRST=true"):
            await connect(f"tls://localhost:{port}", "test", access=load_access(setup.options("ca")))


@pytest.mark.parametrize(
    ("url", "domain", "said"),
    [
        ("nats://b:b@localhost", None, "has no JetStream for this account; start it with -js"),
        (
            "nats://a:a@localhost",
            "nope",
            "has no JetStream in the domain nope: PARLEY_NATS_JETSTREAM_DOMAIN is wrong",
        ),
    ],
)
async def test_jetstream_that_is_not_there_is_said(
    setup: Setup, tmp_path: Path, url: str, domain: str | None, said: str
) -> None:
    async with server(setup, tmp_path, "accounts") as port:
        nc = await connect(f"{url}:{port}", "test", access=load_access({"jetstream_domain": domain}))
        try:
            with pytest.raises(BrokerUnsuitable) as caught:
                await check_server(nc, url)
        finally:
            await close(nc)
    assert said in str(caught.value)


async def test_one_server_that_refuses_is_no_end_where_another_takes_it(setup: Setup, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        refusing = [
            await stack.enter_async_context(nats_server(tmp_path / kind, setup.configuration(kind)))
            for kind in ("token", "tls")
        ]
        good = await stack.enter_async_context(nats_server(tmp_path / "good"))
        nc = await connect(",".join(f"nats://{address}" for address in (*refusing, good)), "test")
        assert nc.is_connected
        await close(nc)


async def test_a_refusal_is_said_although_another_server_is_away(
    monkeypatch: pytest.MonkeyPatch, setup: Setup, tmp_path: Path
) -> None:
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT_SECONDS", 0.2)
    async with server(setup, tmp_path, "token") as port:
        with pytest.raises(AccessRefused, match="wants credentials"):
            await connect(f"nats://127.0.0.1:1,nats://localhost:{port}", "test")
    with pytest.raises(BrokerUnavailable, match="Connect call failed"):
        await connect("nats://127.0.0.1:1", "test")


@pytest.mark.parametrize(
    ("subject", "there"),
    [
        ("$JS.API.INFO", "$JS.hub.API.INFO"),
        ("$KV.deliberations.t-1", "$JS.hub.API.$KV.deliberations.t-1"),
        ("$JS.hub.API.INFO", "$JS.hub.API.INFO"),
        ("$JS.ACK.S.c.1.1.1.1.0", "$JS.ACK.S.c.1.1.1.1.0"),
        ("$O.results.C.x", "$O.results.C.x"),
        ("deliberation.requested", "deliberation.requested"),
    ],
)
def test_subjects_of_jetstream_are_others_in_a_domain(subject: str, there: str) -> None:
    assert NatsClient(load_access({"jetstream_domain": "hub"})).in_domain(subject) == there
    assert NatsClient().in_domain(subject) == subject
