"""Three nats-servers as one cluster, on loopback. A test can kill, freeze and cut off each.

Every route between two servers goes through a relay of its own, which can be cut: a partition, as the servers see it.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.embedded import executable
from parley.broker.jetstream.jetstream import JetStream
from tests.faults.processes import Process
from tests.rig.child import listens
from tests.rig.proc import free_port
from tests.rig.waiting import until

SERVERS = (0, 1, 2)
TOKEN = "cluster"
READY_SECONDS = 60.0


class Relay:
    """Carries one server's connections to another. While cut, it carries nothing: neither side hears why."""

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self._target = target
        # Set while bytes pass.
        self._passes = asyncio.Event()
        self._passes.set()
        # One for each open connection.
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        try:
            yield
        finally:
            server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        self._passes.clear()

    def mend(self) -> None:
        self._passes.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with closing(writer), suppress(OSError, asyncio.CancelledError):
            await self._passes.wait()
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
            with closing(back):
                await asyncio.gather(self._carry(reader, back), self._carry(there, writer))

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65_536):
            await self._passes.wait()
            sink.write(data)
            await sink.drain()
        sink.close()


@dataclass(slots=True)
class Cluster:
    """`relays`: by (from, to)."""

    ports: tuple[int, ...]
    servers: list[Process]
    relays: dict[tuple[int, int], Relay] = field(default_factory=dict)

    def url(self, *numbers: int) -> str:
        return ",".join(f"nats://{TOKEN}@127.0.0.1:{self.ports[number]}" for number in numbers or SERVERS)

    async def leader(self, stream: str) -> int:
        """The number of the server that leads `stream`."""

        async def asked() -> int | None:
            nc = await connect(self.url(), "cluster-test")
            try:
                info = await nc.request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout=2.0)
            except Exception:  # no leader yet
                return None
            finally:
                await close(nc)
            name = json.loads(info.data).get("cluster", {}).get("leader", "")
            return int(name[1:]) + 1 if name.startswith("n") else None

        return (await until(asked, f"{stream} has a leader", READY_SECONDS) or 0) - 1

    def cut_off(self, number: int) -> None:
        """Part one server from the two others. Its clients stay connected."""
        for (source, target), relay in self.relays.items():
            if number in (source, target):
                relay.cut()

    def mend(self) -> None:
        for relay in self.relays.values():
            relay.mend()

    async def ready(self) -> None:
        """Wait until the cluster has a leader and takes stream requests."""
        await asyncio.gather(*(server.ready() for server in self.servers))

        async def answers() -> bool:
            nc = await connect(self.url(), "cluster-test")
            try:
                await JetStream(nc).js.account_info()
            except Exception:
                return False
            finally:
                await close(nc)
            return True

        await until(answers, "the cluster has a leader", READY_SECONDS)


@asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[Cluster]:
    """Three servers, ready, until the block ends."""
    ports, routes = tuple(free_port() for _ in SERVERS), tuple(free_port() for _ in SERVERS)
    pairs = [(a, b) for a in SERVERS for b in SERVERS if a != b]
    relays = {(a, b): Relay(routes[b]) for a, b in pairs}
    async with AsyncExitStack() as stack:
        for relay in relays.values():
            await stack.enter_async_context(relay.running())
        servers = []
        for number in SERVERS:
            explicit = [relays[number, other].port for other in SERVERS if other != number]
            server = _server(folder, number, ports[number], routes[number], explicit)
            await server.start()
            stack.push_async_callback(server.stop)
            servers.append(server)
        whole = Cluster(ports, servers, relays)
        await whole.ready()
        yield whole


def _server(folder: Path, number: int, port: int, route_port: int, explicit: list[int]) -> Process:
    home = folder / f"n{number}"
    home.mkdir()
    routes = ", ".join(f'"nats-route://127.0.0.1:{other}"' for other in explicit)
    configuration = home / "nats-server.conf"
    # `advertise` names a port where nobody listens: servers that hear of each other must not go past the relays.
    configuration.write_text(
        f'server_name: n{number}\nhost: 127.0.0.1\nport: {port}\nlog_file: "{home}/nats-server.log"\n'
        f'jetstream {{ store_dir: "{home}/jetstream", sync_interval: always }}\n'
        f"authorization {{ token: {TOKEN} }}\n"
        f"cluster {{ name: parley, host: 127.0.0.1, port: {route_port}, no_advertise: true,"
        f' advertise: "127.0.0.1:1", routes: [{routes}] }}\n'
    )

    async def ready() -> bool:
        return await listens(port)

    return Process(
        f"n{number}", (executable(), "-c", str(configuration)), folder=folder, environment={}, ready=ready
    )
