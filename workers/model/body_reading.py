"""Reads the body of a model server's response: whole, or line by line, never more than an answer may have."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import aiohttp
import httpx

from parley.broker.core.messages import ErrorType
from parley.workers.model import responses
from parley.workers.model.call_errors import web_page
from parley.workers.model.large_answers_at_once import wait_turn
from parley.workers.model.model_error import ModelError
from parley.workers.model.responses import Completion
from parley.workers.model.stream_events import StreamAssembler
from parley.workers.model.web_page import is_web_page

# Of a chunk that the transport had to cut: it reads 16 KiB at most. A token's event is smaller.
FULL_CHUNK_BYTES = 8 * 1024
# Of a header, in an error.
MAX_SHOWN_CHARACTERS = 80
# How long a refusal's text is awaited: its status says enough.
REFUSAL_SECONDS = 2.0
# Of it, what is read and searched for secrets, which takes 0.1 s. Some servers quote the whole prompt.
MAX_REFUSAL_BYTES = 256 * 1024
# Of answers that come event by event.
_STREAMS = ("text/event-stream", "application/x-ndjson", "application/jsonl")
# After its finish_reason, an answer's figures and `[DONE]` come at once, or never.
AFTER_ANSWER_SECONDS = 1.0


async def _chunks(response: httpx.Response) -> AsyncGenerator[bytes]:
    """The body as it comes, never unpacked: a few KiB of gzip within gzip may be GiB.

    Raises ModelError for a body that is encoded: none was asked for.
    """
    encodings = header(response, b"content-encoding")
    if encodings and encodings.strip().lower() != "identity":
        raise ModelError(
            ErrorType.MALFORMED_ANSWER,
            f"the answer has content-encoding {encodings[:MAX_SHOWN_CHARACTERS]!r}; only identity was asked for",
        )
    content_type, at_start = header(response, b"content-type"), response.is_success
    assert isinstance(response.stream, httpx.AsyncByteStream)
    # As `aiter_raw`, which costs as much again.
    async for chunk in response.stream:
        if at_start and is_web_page(chunk, content_type):
            raise web_page(response, chunk)
        at_start = False
        yield chunk
        if len(chunk) >= FULL_CHUNK_BYTES:
            # More is here already, so reading it awaits nothing, and other calls would get no turn.
            await asyncio.sleep(0)


async def read_body(response: httpx.Response) -> bytes:
    """The whole body. Raises ModelError if it is too large, or a web page under a status of success."""
    chunks, size = [], 0
    async for chunk in _chunks(response):
        chunks.append(chunk)
        size += len(chunk)
        responses.check_size(size)
        await wait_turn(size)
    return b"".join(chunks)


async def read_refusal(response: httpx.Response) -> bytes:
    """What can be read of a refusal's body. Its status counts, be the body encoded, cut off, too large or endless."""
    chunks, size = [], 0
    try:
        async with asyncio.timeout(REFUSAL_SECONDS), aclosing(_chunks(response)) as body:
            async for chunk in body:
                chunks.append(chunk)
                size += len(chunk)
                if size >= MAX_REFUSAL_BYTES:
                    break
    except (TimeoutError, ModelError, httpx.HTTPError, aiohttp.ClientError):
        pass
    return b"".join(chunks)[:MAX_REFUSAL_BYTES]


def is_stream(response: httpx.Response) -> bool:
    """Whether the server streams, also where nobody asked for it."""
    return header(response, b"content-type").strip().lower().startswith(_STREAMS)


def header(response: httpx.Response, name: bytes) -> str:
    """The value of a header, "" without. `name` in small letters. httpx's own look-up guesses at an encoding first."""
    return next((value.decode("latin-1") for key, value in response.headers.raw if key.lower() == name), "")


async def read_stream(response: httpx.Response, model: str) -> Completion:
    """The answer of a stream. `model`: as requested. Raises ModelError."""
    answer = StreamAssembler(model)
    async with aclosing(_lines(response)) as lines:
        while (line := await _next_line(lines, answer.finished)) is not None:
            if answer.add(line):
                break
            await wait_turn(answer.size)
    return answer.completion()


async def _next_line(lines: AsyncGenerator[bytes], finished: bool) -> bytes | None:
    """The next line; None after the last. Some servers leave the connection open after the answer."""
    if not finished:
        return await anext(lines, None)
    try:
        async with asyncio.timeout(AFTER_ANSWER_SECONDS):
            return await anext(lines, None)
    except TimeoutError:
        return None


async def _lines(response: httpx.Response) -> AsyncGenerator[bytes]:
    """Like httpx's `aiter_lines`, but the length of a line is bounded."""
    # The pieces of a line that is not complete.
    pieces: list[bytes] = []
    size = 0
    async for chunk in _chunks(response):
        first, *others = chunk.split(b"\n")
        pieces.append(first)
        size += len(first)
        if others:
            yield b"".join(pieces)
            for line in others[:-1]:
                yield line
            pieces, size = [others[-1]], len(others[-1])
        if size > (limit := responses.MAX_ANSWER_BYTES):
            raise ModelError(ErrorType.MALFORMED_ANSWER, f"a line is over {limit} bytes")
    yield b"".join(pieces)
