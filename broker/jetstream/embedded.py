"""The nats-server that comes with the install, started for one machine: `parley up`, `make demo`, the tests.

It listens on loopback only, asks for a token unless told otherwise, keeps its streams in the folder it is given, and is
ended by the process id that was started here. Production runs its own NATS; this file is not for it.
"""

import asyncio
import fcntl
import json
import secrets
import shutil
import signal
import subprocess
import sysconfig
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from parley.broker.core.errors import BrokerUnavailable, StoreInUse
from parley.broker.host import child_setup

START_TIMEOUT_SECONDS = 15.0
STOP_TIMEOUT_SECONDS = 10.0
# From <linux/prctl.h>.


@dataclass(frozen=True, slots=True)
class EmbeddedNats:
    url: str
    pid: int


def executable() -> str:
    """Path of `nats-server`: this environment's own first, then the PATH."""
    here = Path(sysconfig.get_path("scripts")) / "nats-server"
    found = str(here) if here.exists() else shutil.which("nats-server")
    if found is None:
        raise BrokerUnavailable(
            "127.0.0.1", "no nats-server is installed here; run `uv sync`, or set NATS_URL"
        )
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
    """JSON's quoting is the server's too, but for `\\u`: letters beyond ASCII stand for themselves."""
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
    """Run a server with its state in `folder` until the block ends. Raises BrokerUnavailable if it does not come up."""
    token = _token(folder) if with_token else None
    process = _start(
        folder, config(folder, port=port, token=token, sync_always=sync_always, jetstream=jetstream)
    )
    try:
        address = await _address(folder, process)
        yield EmbeddedNats(url=f"nats://{token + '@' if token else ''}{address}", pid=process.pid)
    finally:
        await stop(process)


def _token(folder: Path) -> str:
    """The folder's token, the same at every start: a URL that was printed stays good."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / "token"
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(24))
    return path.read_text()


@contextmanager
def _alone(folder: Path) -> Iterator[int]:
    """Lock the folder; the descriptor. Whoever inherits it holds the lock for as long as it lives: the server itself.

    Two servers on one store would overwrite each other's streams, and neither would notice.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StoreInUse(str(folder), "locked") from None
        yield lock.fileno()


def _start(folder: Path, configuration: str) -> subprocess.Popen[bytes]:
    with _alone(folder) as lock:
        for stale in folder.glob("nats-server_*.ports"):
            stale.unlink()
        path = folder / "nats-server.conf"
        path.touch(mode=0o600)  # it holds the token
        path.write_text(configuration)
        return subprocess.Popen(
            [executable(), "-c", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(lock,),
            start_new_session=True,  # Ctrl-C is ours to handle: the service drains first, NATS goes last
            preexec_fn=child_setup,  # noqa: PLW1509  # two system calls, made before this process has threads of its own
        )


async def _address(folder: Path, process: subprocess.Popen[bytes]) -> str:
    ports = folder / f"nats-server_{process.pid}.ports"
    try:
        async with asyncio.timeout(START_TIMEOUT_SECONDS):
            while True:
                if process.poll() is not None:
                    raise BrokerUnavailable("127.0.0.1", _last_words(folder, process.returncode))
                listed = _read_ports(ports)
                if listed:
                    return listed.removeprefix("nats://")
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise BrokerUnavailable(
            "127.0.0.1", f"nats-server not ready in {START_TIMEOUT_SECONDS:g} s"
        ) from None


def _read_ports(path: Path) -> str | None:
    try:
        return str(json.loads(path.read_text())["nats"][0])
    except (FileNotFoundError, ValueError, KeyError, IndexError):
        return None  # not written yet, or only half


def _last_words(folder: Path, code: int | None) -> str:
    log = folder / "nats-server.log"
    tail = log.read_text(errors="replace").strip().splitlines()[-1:] if log.exists() else []
    return f"nats-server exited with code {code}: {''.join(tail) or 'no log'}"


async def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process we started: ask, wait, insist."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(process.wait, STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
