"""One test file a source file. What they share: a server on which each test has an account, and so all streams, of
its own."""

import asyncio
import itertools
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from nats.js import JetStreamContext

from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.embedded import config, executable
from parley.broker.jetstream.nats_client import NatsClient as Nats
from parley.broker.jetstream.provision import provision
from tests.harness import until

# More than any one file has tests.
ACCOUNTS = 200


@dataclass(frozen=True)
class Accounts:
    """Each account has its own streams. Deleting them between tests is not enough: nats-server (2.15.1) now and then
    finds messages of a deleted stream in the one made in its place."""

    address: str
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def fresh_url(self) -> str:
        return f"nats://t{next(self._numbers)}:secret@{self.address}"


@asynccontextmanager
async def accounts(folder: Path) -> AsyncIterator[Accounts]:
    """One server: a test's own share of it is there in a fifth of the time that a server of its own takes."""
    each = (
        f"T{n} {{ jetstream: enabled, users: [{{ user: t{n}, password: secret }}] }}" for n in range(ACCOUNTS)
    )
    conf = folder / "nats-server.conf"
    # Each account's streams have limits, and so reserve storage: more in all than this machine may have.
    server = config(folder, port=-1, token=None, sync_always=False)
    server = server.replace("jetstream {", "jetstream { max_file_store: 1000TB,")
    conf.write_text(server + f"accounts {{ {', '.join(each)} }}\n")
    process = await asyncio.to_thread(_start, conf)
    ports = folder / f"nats-server_{process.pid}.ports"
    try:
        await until(lambda: ports.exists() and ports.read_text().endswith("}"), "nats-server is ready")
        yield Accounts(json.loads(ports.read_text())["nats"][0].removeprefix("nats://"))
    finally:
        process.kill()  # these streams are not read again, and closing hundreds of them takes seconds
        process.wait()


def _start(conf: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [executable(), "-c", str(conf)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


@asynccontextmanager
async def provisioned(url: str) -> AsyncIterator[Nats]:
    """A connection to an account with our streams in it, all new."""
    nc = await connect(url, "test")
    await provision(nc.jetstream())
    for durable in topology.DURABLES:
        # A test that holds a delivery on a busy machine must not meet its redelivery, unless that is what it is about.
        client = topology.consumer(durable).evolve(ack_wait=topology.ACK_WAIT_SECONDS)
        await nc.jetstream().add_consumer(durable.stream, client)
    try:
        yield nc
    finally:
        await close(nc)


@asynccontextmanager
async def small_server(folder: Path, *, max_payload: int) -> AsyncIterator[Nats]:
    """A connection to a server of its own with our streams, which takes messages of `max_payload` bytes at most."""
    conf = folder / "nats-server.conf"
    conf.write_text(config(folder, port=-1, token=None, sync_always=False) + f"max_payload: {max_payload}\n")
    process = await asyncio.to_thread(_start, conf)
    ports = folder / f"nats-server_{process.pid}.ports"
    try:
        await until(lambda: ports.exists() and ports.read_text().endswith("}"), "nats-server is ready")
        async with provisioned(json.loads(ports.read_text())["nats"][0]) as nc:
            yield nc
    finally:
        process.kill()
        process.wait()


@asynccontextmanager
async def limited_nats(folder: Path, max_file_store: str) -> AsyncIterator[JetStreamContext]:
    async with limited_server(folder, max_file_store) as url:
        nc = await connect(url, "test")
        yield nc.jetstream()
        await close(nc)


@asynccontextmanager
async def limited_server(folder: Path, max_file_store: str, more: str = "") -> AsyncIterator[str]:
    """The URL of a server of its own that promises so much storage, as nats-server writes it. `more`: more of its
    configuration."""
    conf = folder / "limited.conf"
    server = config(folder, port=-1, token=None, sync_always=False)
    conf.write_text(server.replace("jetstream {", f"jetstream {{ max_file_store: {max_file_store},") + more)
    process = await asyncio.to_thread(_start, conf)
    ports = folder / f"nats-server_{process.pid}.ports"
    try:
        await until(lambda: ports.exists() and ports.read_text().endswith("}"), "nats-server is ready")
        yield str(json.loads(ports.read_text())["nats"][0])
    finally:
        process.kill()
        process.wait()


async def send_raw(url: str, protocol: bytes) -> None:
    """Send bytes that no client library would send."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    hello = {"verbose": False, "headers": True, "user": parts.username, "pass": parts.password}
    writer.write(f"CONNECT {json.dumps(hello)}\r\n".encode() + protocol + b"PING\r\n")
    assert (await reader.readline()).startswith(b"INFO")
    assert await reader.readline() == b"PONG\r\n"
    writer.close()
    await writer.wait_closed()
