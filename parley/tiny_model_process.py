"""The tiny model in a process of its own, as `parley up --model tiny` and the demo start it."""

import asyncio
import os
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import IO

from parley.broker.child_process import child
from parley.broker.core.errors import Unavailable
from parley.workers.tiny_model.installation import missing_part

LOG_NAME = "tiny-model.log"
# For 100 MB from a slow disk that are read for the first time.
START_TIMEOUT_SECONDS = 60.0


@asynccontextmanager
async def tiny_model(folder: Path) -> AsyncIterator[str]:
    """Serve the tiny model on a free port of loopback until the block ends. Yields its URL once the model is loaded.

    Its log is the file LOG_NAME in `folder`, written anew at each start. Raises Unavailable, in one line, where the
    extra `tiny` is missing, or where its engine does not start within START_TIMEOUT_SECONDS.
    """
    missing = missing_part()
    if missing is not None:
        raise Unavailable(f"{missing} is not installed")
    # -P: the child finds modules in the installation only, not in the working directory.
    command = (sys.executable, "-P", "-m", "parley.workers.tiny_model", "--port", "0")
    async with AsyncExitStack() as stack:
        with _log(folder) as log:
            started = child(
                command,
                _address,
                stdout=asyncio.subprocess.PIPE,
                stderr=log.fileno(),
                start_timeout_seconds=START_TIMEOUT_SECONDS,
            )
            try:
                _, url = await stack.enter_async_context(started)
            except TimeoutError:
                raise Unavailable(f"it was not ready within {START_TIMEOUT_SECONDS:g} s") from None
        yield url


async def _address(process: Process) -> str:
    """What the process prints once it serves."""
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        # Negative: the signal that ended it, such as 4 where the processor lacks an instruction.
        raise Unavailable(f"it ended with code {await process.wait()}")
    return line.decode().strip()


def _log(folder: Path) -> IO[bytes]:
    """The emptied log file. Like the folder it is for its owner only."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    return os.fdopen(os.open(folder / LOG_NAME, flags, 0o600), "wb")
