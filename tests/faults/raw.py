"""NATS's protocol over a bare socket, with many messages in flight: it sends what no client library would.

Subjects, headers and bodies go out as the bytes they are. Each message has a reply subject of its own, so its PubAck,
its answer or the server's refusal finds its way back to it.
"""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

# Prefix of this file's reply subjects. No other inbox begins like this.
_INBOX = b"_INBOX.hostile"


class Raw:
    """An open connection. `errors`: errors from the server that belong to no message."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count(1)
        self._replies: dict[bytes, asyncio.Future[bytes]] = {}
        self.errors: list[str] = []

    async def ask(self, subject: bytes, body: bytes, headers: bytes | None = None) -> bytes:
        """Publish with a reply subject and wait for the reply."""
        reply = b"%s.%d" % (_INBOX, next(self._numbers))
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._replies[reply] = future
        await self.tell(subject, body, headers, reply)
        return await future

    async def tell(
        self, subject: bytes, body: bytes, headers: bytes | None = None, reply: bytes = b""
    ) -> None:
        """Publish. `headers`: the whole header block, from `NATS/1.0` to the empty line."""
        words = [subject, reply] if reply else [subject]
        if headers is None:
            line = b" ".join([b"PUB", *words, b"%d" % len(body)])
        else:
            line = b" ".join([b"HPUB", *words, b"%d" % len(headers), b"%d" % (len(headers) + len(body))])
        self._writer.write(line + b"\r\n" + (headers or b"") + body + b"\r\n")
        await self._writer.drain()

    async def hear(self) -> None:
        """Read until the connection ends, and hand each reply to its waiting request."""
        while line := await self._reader.readline():
            match line.split(b" ", 1)[0].strip():
                case b"PING":
                    self._writer.write(b"PONG\r\n")
                case b"MSG" | b"HMSG" as kind:
                    words = line.split()
                    body = (await self._reader.readexactly(int(words[-1]) + 2))[:-2]
                    head = int(words[-2]) if kind == b"HMSG" else 0
                    future = self._replies.pop(words[1], None)
                    if future is not None and not future.done():  # the request may have timed out
                        # A reply without a body is a status of the server in the headers, mostly "no responders".
                        future.set_result(body[head:] or body)
                case b"-ERR":
                    self.errors.append(line.decode(errors="replace").strip())
        for future in self._replies.values():
            if not future.done():
                future.set_exception(ConnectionResetError(*self.errors))


@asynccontextmanager
async def raw_connection(url: str) -> AsyncIterator[Raw]:
    parts = urlsplit(url)
    # A header block may have 64 KiB in one line.
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=2**20)
    options = {
        "verbose": False, "pedantic": False, "headers": True, "no_responders": True,
        "auth_token": parts.username,
    }  # fmt: skip
    writer.write(b"CONNECT " + json.dumps(options).encode() + b"\r\nSUB " + _INBOX + b".* 1\r\n")
    raw = Raw(reader, writer)
    hearing = asyncio.create_task(raw.hear())
    try:
        yield raw
    finally:
        writer.close()
        await asyncio.wait([hearing])
