"""The nats-server that comes with the install, started for one machine: `parley up`, `make demo`, the tests.

It listens on loopback only, asks for a token by default, and keeps its streams in the folder it is given. Production
runs its own NATS and does not use this file.
"""

import asyncio
import fcntl
import json
import secrets
import shutil
import sysconfig
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from parley.broker import child_process
from parley.broker.core.errors import BrokerUnavailable, StoreInUse


@dataclass(frozen=True, slots=True)
class EmbeddedNats:
    url: str
    pid: int


def executable() -> str:
    """Path of `nats-server`: this environment's own first, then the PATH."""
    here = Path(sysconfig.get_path("scripts")) / "nats-server"
    found = str(here) if here.exists() else shutil.which("nats-server")
    if found is None:
        remedy = "run `uv sync`, or set NATS_URL"
        raise BrokerUnavailable("127.0.0.1", f"no nats-server is installed here; {remedy}")
    return found


def config(folder: Path, *, port: int, token: str | None, sync_always: bool, jetstream: bool = True) -> str:
    """The server's configuration. `port` -1 takes a free one. `sync_always`: fsync before every PubAck."""
    sync = "always" if sync_always else '"1s"'
    lines = [
        "host: 127.0.0.1",
        f"port: {port}",
        f"ports_file_dir: {_quoted(folder)}",
        f"log_file: {_quoted(folder / 'nats-server.log')}",
    ]
    if jetstream:
        lines.append(f"jetstream {{ store_dir: {_quoted(folder / 'jetstream')}, sync_interval: {sync} }}")
    if token is not None:
        lines.append(f"authorization {{ token: {_quoted(token)} }}")
    return "\n".join(lines) + "\n"


def _quoted(value: Path | str) -> str:
    """Quoted as the server reads it: as JSON, but letters beyond ASCII stay as they are."""
    return json.dumps(str(value), ensure_ascii=False)


@asynccontextmanager
async def embedded_nats(
    folder: Path,
    *,
    port: int = -1,
    with_token: bool = True,
    sync_always: bool = False,
    jetstream: bool = True,
) -> AsyncIterator[EmbeddedNats]:
    """Run a server with its state in `folder` until the block ends. Raises BrokerUnavailable when it does not start."""
    token = _token(folder) if with_token else None
    async with AsyncExitStack() as stack:
        # The server inherits the lock: it holds for as long as the server runs.
        with _locked(folder) as lock:
            written = config(folder, port=port, token=token, sync_always=sync_always, jetstream=jetstream)
            command = (executable(), "-c", _prepared(folder, written))
            try:
                started = child_process.child(
                    command, lambda process: _address(folder, process), pass_fds=(lock,)
                )
                process, address = await stack.enter_async_context(started)
            except TimeoutError:
                reason = f"nats-server not ready in {child_process.START_TIMEOUT_SECONDS:g} s"
                raise BrokerUnavailable("127.0.0.1", reason) from None
        yield EmbeddedNats(url=f"nats://{token + '@' if token else ''}{address}", pid=process.pid)


def _token(folder: Path) -> str:
    """The folder's token. It stays the same at every start, so a printed URL stays valid."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / "token"
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(24))
    return path.read_text()


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """Lock the folder; yields the descriptor. The server inherits it, so the lock holds for as long as the server runs.

    Two servers on one store would overwrite each other's streams, and neither would notice.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StoreInUse(str(folder), "locked") from None
        yield lock.fileno()


def check_unused(folder: Path) -> None:
    """Raises StoreInUse if a server of ours runs with its state in `folder`."""
    if (folder / "lock").exists():
        with _locked(folder):
            pass


def _prepared(folder: Path, configuration: str) -> str:
    """Write the configuration and remove what an earlier server left. Returns the configuration's path."""
    for stale in folder.glob("nats-server_*.ports"):
        stale.unlink()
    path = folder / "nats-server.conf"
    path.touch(mode=0o600)  # it holds the token
    path.write_text(configuration)
    return str(path)


async def _address(folder: Path, process: Process) -> str:
    """`host:port`, once the server has written it into its ports file."""
    ports = folder / f"nats-server_{process.pid}.ports"
    while (listed := _read_ports(ports)) is None:
        if process.returncode is not None:
            raise BrokerUnavailable("127.0.0.1", _last_words(folder, process.returncode))
        await asyncio.sleep(0.01)
    return listed.removeprefix("nats://")


def _read_ports(path: Path) -> str | None:
    try:
        return str(json.loads(path.read_text())["nats"][0])
    except (FileNotFoundError, ValueError, KeyError, IndexError):
        return None  # not written yet, or only half of it


def _last_words(folder: Path, code: int | None) -> str:
    log = folder / "nats-server.log"
    tail = log.read_text(errors="replace").strip().splitlines()[-1:] if log.exists() else []
    return f"nats-server exited with code {code}: {''.join(tail) or 'no log'}"
