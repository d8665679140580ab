"""Answers to `deliberation.service`: one of each process, at inboxes only, at one look a second."""

import asyncio

import pytest
from nats.aio.msg import Msg

from parley.broker.core.messages import ServiceProcess
from parley.broker.jetstream import topology
from parley.broker.jetstream.forgery_counts import Forgery
from parley.handlers.service_responder import ServiceResponder
from parley.service_processes import running_processes
from tests.harness import until
from tests.mirror.handlers import Bench


class Process:
    """Says who it is, and how often it was looked at."""

    def __init__(self, name: str) -> None:
        self.answer = ServiceProcess(
            process=name, parts=("query",), version="1", started_at=f"2026-01-01T00:00:0{len(name)}Z"
        )
        self.looks = 0

    async def __call__(self) -> ServiceProcess:
        self.looks += 1
        return self.answer


async def serve(bench: Bench, *names: str) -> list[Process]:
    processes = [Process(name) for name in names]
    for process in processes:
        await bench.nc.subscribe(topology.SERVICE, cb=ServiceResponder(bench.wire, process).__call__)
    await bench.nc.flush()
    return processes


async def test_every_process_answers_and_the_oldest_is_first(bench: Bench) -> None:
    processes = await serve(bench, "bb", "a")
    assert list(await running_processes(bench.wire)) == [processes[1].answer, processes[0].answer]


async def test_without_a_process_the_answer_is_none_at_once(bench: Bench) -> None:
    async with asyncio.timeout(1.0):
        assert await running_processes(bench.wire) == ()


async def test_what_is_no_answer_of_a_process_is_passed_over(bench: Bench) -> None:
    async def lie(question: Msg) -> None:
        await question.respond(b"{}")

    await bench.nc.subscribe(topology.SERVICE, cb=lie)
    (process,) = await serve(bench, "a")
    assert await running_processes(bench.wire) == (process.answer,)


async def test_many_questions_cost_one_look(bench: Bench) -> None:
    (process,) = await serve(bench, "a")
    for _ in range(50):
        await bench.nc.request(topology.SERVICE, b"", timeout=5)
    assert process.looks < 10


@pytest.mark.parametrize(
    "reply", ["agent.cancel", "$KV.deliberations.t-1", "deliberation.completed", "_PARLEY.worker.x"]
)
async def test_no_question_makes_the_service_write_elsewhere(bench: Bench, reply: str) -> None:
    (process,) = await serve(bench, "a")
    counts = bench.nc.forgeries.counts
    before = counts[Forgery.REPLY_SUBJECT]
    await bench.nc.publish(topology.SERVICE, b"", reply=reply)
    await until(lambda: counts[Forgery.REPLY_SUBJECT] == before + 1, "it is noted")
    assert process.looks == 0
