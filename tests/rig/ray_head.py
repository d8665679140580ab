"""A Ray head of another hand, as `ray start --head` makes it, on loopback and free ports, ended by its process ids."""

import os
import shutil
import sysconfig
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.rig.child import Child, child, listens
from tests.rig.proc import free_port
from tests.rig.service import plain_environment

READY_SECONDS = 90.0
STOP_SECONDS = 2.0
# Else Ray takes the machine's outside address for 127.0.0.1.
ON_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
OBJECT_STORE_BYTES = 80 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class RayHead:
    """`folder`: Ray's own (`--temp-dir`), with the file `ray_current_cluster` in it."""

    address: str
    folder: Path
    process: Child


@asynccontextmanager
async def ray_head(
    *,
    cpus: int = 2,
    port: int | None = None,
    environment: Mapping[str, str] | None = None,
    command: Sequence[str] = (f"{sysconfig.get_path('scripts')}/ray",),
) -> AsyncIterator[RayHead]:
    """A head that listens, until the block ends. `command`: another Python's `ray`."""
    # Paths of Unix sockets below it must be shorter than 108 characters, which rules out pytest's folders.
    folder = Path(tempfile.mkdtemp(prefix="rayhead-", dir="/tmp"))
    port = port or free_port()
    arguments = (
        *(
            "start",
            "--head",
            "--block",
            f"--port={port}",
            "--node-ip-address=127.0.0.1",
            f"--num-cpus={cpus}",
        ),
        *(
            "--include-dashboard=false",
            "--disable-usage-stats",
            f"--object-store-memory={OBJECT_STORE_BYTES}",
        ),
        f"--temp-dir={folder}",
    )
    settings = plain_environment(**{"RAY_AUTH_MODE": "disabled", **ON_LOOPBACK, **(environment or {})})
    try:
        async with child(
            [*command, *arguments], folder / "head.log", settings, stop_seconds=STOP_SECONDS
        ) as process:
            await process.ready(lambda: listens(port), READY_SECONDS)
            yield RayHead(f"127.0.0.1:{port}", folder, process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def token(text: str) -> dict[str, str]:
    """The variables by which a head asks for this token, and a client brings it."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": text}


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
