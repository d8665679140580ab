"""Answers `deliberation.get`: checks where the answer would go, and bounds what is being answered.

What the answer says is `handlers.query`'s.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from cachetools import TTLCache
from nats.aio.msg import Msg

from parley.broker.core.errors import BrokerUnavailable
from parley.broker.core.messages import DeliberationStatus
from parley.broker.core.reply_subjects import DEFAULT_PREFIXES, may_answer
from parley.broker.core.states_and_moves import ENDED_STATUSES
from parley.broker.jetstream import topology
from parley.broker.jetstream.forgery_counts import Forgery
from parley.broker.jetstream.jetstream import JetStream

log = logging.getLogger("parley.handlers")

# A valid question is smaller than this; a larger one is answered without being read.
MAX_QUESTION_BYTES = 1_024
# Questions being answered at a time. Each may hold an ending as large as a message.
MAX_ANSWERING = 32
# Questions in all, waiting included. One more is not answered: its asker asks again.
MAX_QUESTIONS = 4_096
# A question that has waited for as long as askers wait is not answered any more.
STALE_SECONDS = 5.0
# Answers about ended deliberations are kept this long: many questions about one of them cost one read of its ending.
KEPT_SECONDS = 1.0
KEPT_BYTES = 16 * 1024 * 1024
# More than the headers of an answer.
HEADERS_BYTES = 512
_TOO_LARGE = "the results are larger than one message; read the ending at ending_seq"

Ask = Callable[[bytes], Awaitable[DeliberationStatus]]


class Answers:
    """`ask` answers a question's body. `prefixes`: the reply subjects that this deployment allows."""

    def __init__(self, jetstream: JetStream, ask: Ask, *, prefixes: Sequence[str] = DEFAULT_PREFIXES) -> None:
        self._jetstream = jetstream
        self._ask = ask
        self._prefixes = tuple(prefixes)
        self._answering = asyncio.Semaphore(MAX_ANSWERING)
        # A task for each question in hand.
        self._questions: set[asyncio.Task[None]] = set()
        # By the question's body.
        self._kept: TTLCache[bytes, bytes] = TTLCache(KEPT_BYTES, KEPT_SECONDS, getsizeof=len)

    async def __call__(self, question: Msg) -> None:
        """Begin to answer. Raises nothing."""
        if not may_answer(question.reply, self._prefixes):
            self._jetstream.nc.forgeries.note(Forgery.REPLY_SUBJECT, topology.GET)
            return
        if len(self._questions) >= MAX_QUESTIONS:
            return
        task = asyncio.create_task(self._answer(question, asyncio.get_running_loop().time()))
        self._questions.add(task)
        task.add_done_callback(self._questions.discard)

    async def _answer(self, question: Msg, came_at: float) -> None:
        async with self._answering:
            if asyncio.get_running_loop().time() - came_at > STALE_SECONDS:
                return
            try:
                await self._jetstream.broadcast(question.reply, await self._body(question.data))
            except BrokerUnavailable as error:
                log.debug("a question is not answered: %s", error)
            except Exception:
                log.exception("a question is not answered")

    async def _body(self, question: bytes) -> bytes:
        if len(question) > MAX_QUESTION_BYTES:
            return _refusal(f"the question is over {MAX_QUESTION_BYTES} bytes").encode()
        kept = self._kept.get(question)
        if kept is not None:
            return kept
        status = await self._ask(question)
        body = status.encode()
        if len(body) + HEADERS_BYTES > self._jetstream.max_payload:
            return status.model_copy(
                update={"results": (), "metadata": {}, "error_message": _TOO_LARGE}
            ).encode()
        if status.status in ENDED_STATUSES and len(body) <= KEPT_BYTES:
            self._kept[question] = body
        return body


def _refusal(problem: str) -> DeliberationStatus:
    return DeliberationStatus(task_id="", status="UNKNOWN", error_message=problem)
