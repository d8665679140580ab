"""A server that tests may harm: it needs a key, is full soon, and is started again on its port if it has died."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.rig.proc import free_port
from tests.rig.vllm.server import Install, Vllm, vllm

KEY = "key-of-the-live-tests"
# Running and queued requests. The server refuses the next one.
AT_WORK, QUEUED = 4, 4
# `--shutdown-timeout` is left at its default, 0.
ARGUMENTS = (
    "--api-key",
    KEY,
    "--max-num-seqs",
    str(AT_WORK),
    "--max-num-queued-reqs",
    str(QUEUED),
    "--enable-prefix-caching",
)


@dataclass(slots=True)
class Stage:
    """One address, with one server after the other."""

    install: Install
    folder: Path
    port: int = field(default_factory=free_port)
    _server: Vllm | None = None
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def up(self) -> Vllm:
        """The server. Starts it first if it does not run."""
        if self._server is None or self._server.process.returncode is not None:
            await self._stack.aclose()
            self._server = await self._stack.enter_async_context(
                vllm(self.install, self.folder, *ARGUMENTS, port=self.port)
            )
        return self._server

    async def close(self) -> None:
        await self._stack.aclose()


@asynccontextmanager
async def stage(install: Install, folder: Path) -> AsyncIterator[Stage]:
    made = Stage(install, folder)
    try:
        yield made
    finally:
        await made.close()
