"""Answers to `deliberation.get`: to inboxes only, and bounded."""

import asyncio

import pytest
from nats.aio.msg import Msg

from parley.broker.core.messages import DeliberationGet, DeliberationStatus, decode
from parley.broker.jetstream import topology
from parley.broker.jetstream.forgery_counts import Forgery
from parley.handlers import query_responder as answering
from parley.handlers.query_responder import Answers
from tests.harness import until
from tests.mirror.handlers import Bench

QUESTION = DeliberationGet(task_id="t-1").encode()


class Asked:
    """Answers each question when it may, and notes how many it had at a time."""

    def __init__(self, status: DeliberationStatus) -> None:
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.status = status
        self.questions = self.now = self.most = 0

    async def __call__(self, body: bytes) -> DeliberationStatus:
        self.questions += 1
        self.now += 1
        self.most = max(self.most, self.now)
        await self.may_answer.wait()
        self.now -= 1
        return self.status


@pytest.fixture
def asked() -> Asked:
    return Asked(DeliberationStatus(task_id="t-1", status="PENDING"))


@pytest.fixture
async def answers(bench: Bench, asked: Asked) -> Answers:
    made = Answers(bench.wire, asked)
    await bench.nc.subscribe(topology.GET, cb=made.__call__)
    await bench.nc.flush()
    return made


async def stored(bench: Bench) -> dict[str, int]:
    names = [stream.name or "" for stream in topology.streams()]
    return {name: (await bench.js.stream_info(name)).state.last_seq for name in names}


@pytest.mark.usefixtures("answers")
async def test_a_question_is_answered_in_json(bench: Bench, asked: Asked) -> None:
    answer = await bench.nc.request(topology.GET, QUESTION, timeout=5)
    assert decode(DeliberationStatus, answer.data) == asked.status
    assert (answer.headers or {})["content-type"] == "application/json"


@pytest.mark.parametrize(
    "reply",
    [
        "deliberation.cancel", "agent.cancel", "$KV.deliberations.t-1", "deliberation.timer.t-1",
        "deliberation.completed", "deadletter.x", "agent.requested", "agent.response.completed", "_PARLEY.service.x",
    ],
)  # fmt: skip
@pytest.mark.usefixtures("answers")
async def test_no_question_makes_the_service_write_elsewhere(bench: Bench, asked: Asked, reply: str) -> None:
    heard: list[Msg] = []

    async def hear(message: Msg) -> None:
        heard.append(message)

    before = await stored(bench)
    await bench.nc.subscribe(reply, cb=hear)
    await bench.nc.publish(topology.GET, QUESTION, reply=reply)
    await bench.nc.request(topology.GET, QUESTION, timeout=5)  # the next one is answered
    assert (heard, asked.questions) == ([], 1)
    assert await stored(bench) == before
    assert bench.nc.forgeries.counts[Forgery.REPLY_SUBJECT] == 1


@pytest.mark.usefixtures("answers")
async def test_only_so_many_are_answered_at_a_time(bench: Bench, asked: Asked) -> None:
    asked.may_answer.clear()
    questions = [
        asyncio.create_task(bench.nc.request(topology.GET, QUESTION, timeout=10))
        for _ in range(3 * answering.MAX_ANSWERING)
    ]
    await until(lambda: asked.now == answering.MAX_ANSWERING, "as many as may be are being answered")
    asked.may_answer.set()
    assert len(await asyncio.gather(*questions)) == len(questions)
    assert asked.most == answering.MAX_ANSWERING


@pytest.mark.usefixtures("answers")
async def test_many_questions_about_one_ended_deliberation_read_it_once(bench: Bench, asked: Asked) -> None:
    asked.status = DeliberationStatus(task_id="t-1", status="COMPLETED")
    await bench.nc.request(topology.GET, QUESTION, timeout=5)
    for _ in range(50):
        await bench.nc.request(topology.GET, QUESTION, timeout=5)
    assert asked.questions == 1


@pytest.mark.usefixtures("answers")
async def test_a_question_that_waited_too_long_is_not_answered(
    bench: Bench, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "STALE_SECONDS", -1.0)
    await bench.nc.publish(topology.GET, QUESTION, reply=bench.nc.new_inbox())
    await bench.nc.flush()
    monkeypatch.setattr(answering, "STALE_SECONDS", 5.0)
    await bench.nc.request(topology.GET, QUESTION, timeout=5)
    assert asked.questions <= 2


@pytest.mark.usefixtures("answers")
async def test_a_large_question_is_refused_unread(bench: Bench, asked: Asked) -> None:
    answer = await bench.nc.request(topology.GET, b"x" * (answering.MAX_QUESTION_BYTES + 1), timeout=5)
    assert decode(DeliberationStatus, answer.data).error_message.startswith("the question is over")
    assert asked.questions == 0


@pytest.mark.usefixtures("answers")
async def test_an_answer_larger_than_a_message_says_so(bench: Bench, asked: Asked) -> None:
    large = {"x": "y" * bench.nc.max_payload}
    asked.status = DeliberationStatus(task_id="t-1", status="COMPLETED", metadata=large, ending_seq=7)
    answer = await bench.nc.request(topology.GET, QUESTION, timeout=5)
    status = decode(DeliberationStatus, answer.data)
    assert (status.status, status.ending_seq) == ("COMPLETED", 7)
    assert "larger than one message" in status.error_message


async def test_questions_beyond_the_bound_are_left(
    bench: Bench, asked: Asked, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "MAX_QUESTIONS", 2)
    asked.may_answer.clear()
    heard: list[bytes] = []

    async def hear(message: Msg) -> None:
        heard.append(message.data)

    for _ in range(5):
        inbox = bench.nc.new_inbox()
        await bench.nc.subscribe(inbox, cb=hear)
        await bench.nc.publish(topology.GET, QUESTION, reply=inbox)
    await until(lambda: asked.now == 2, "two are being answered")
    await bench.nc.flush()
    asked.may_answer.set()
    await until(lambda: len(heard) == 2, "two answers")
    assert asked.questions == 2
