"""A command on a pseudo-terminal: what a person would see, and what the terminal was told to do."""

import asyncio
import fcntl
import os
import pty
import re
import struct
import termios
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

# Cursor movements, colours, and titles.
_ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07|[()][A-Z])")


class PseudoTerminal:
    """A running command, and all that it has written to its terminal."""

    def __init__(self, process: asyncio.subprocess.Process, master: int) -> None:
        self.process = process
        self._master = master
        # As it came, escape sequences included.
        self._written = bytearray()
        self._is_closed = False

    def close(self) -> None:
        """As when a window is closed: the kernel sends SIGHUP to what has it as its controlling terminal."""
        if not self._is_closed:
            self._is_closed = True
            os.close(self._master)

    @property
    def raw(self) -> str:
        return self._written.decode(errors="replace")

    @property
    def text(self) -> str:
        return _ESCAPES.sub("", self.raw).replace("\r", "")

    async def read_until(self, words: str, seconds: float = 30) -> None:
        """Read until the terminal has shown `words`. Raises AssertionError otherwise."""
        try:
            async with asyncio.timeout(seconds):
                while words not in self.text:
                    if not await self._read():
                        break
        except TimeoutError:
            pass
        assert words in self.text, f"never shown: {words!r}; shown: {self.text}"

    async def end(self, seconds: float = 30) -> int:
        """Read to the end. Returns the exit code."""
        async with asyncio.timeout(seconds):
            while await self._read():
                pass
            return await self.process.wait()

    async def _read(self) -> bytes:
        with suppress(OSError):  # Linux's way to say that the command has closed it
            read = await asyncio.to_thread(os.read, self._master, 65_536)
            self._written += read
            return read
        return b""


@asynccontextmanager
async def pseudo_terminal(
    *command: str, environment: Mapping[str, str], columns: int = 100, lines: int = 40
) -> AsyncIterator[PseudoTerminal]:
    """The command, with a terminal of this size as its stdin, stdout and stderr. It is killed at the end."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=slave, stdout=slave, stderr=slave, env=dict(environment), start_new_session=True
        )
    finally:
        os.close(slave)
    terminal = PseudoTerminal(process, master)
    try:
        yield terminal
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        terminal.close()
