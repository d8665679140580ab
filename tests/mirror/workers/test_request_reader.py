"""A job that names its request says the same as one that carries it, and the request is read once."""

import asyncio
import json
from typing import Any

import pytest

from parley.broker.core.messages import AgentRequested, DeliberationRequested, decode
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream
from parley.workers import prompts
from parley.workers.request_reader import LEFT_OUT, RequestGone, RequestReader
from tests.mirror.workers import Counting, work

REQUEST: dict[str, Any] = {
    "task_id": "t-1", "task_description": "Write a factorial function.\n" * 9, "num_agents": 3, "diversity": True,
    "constraints": {"rubric": {"b": [1, 2.5], "a": "ü"}, "requirements": ["r"], "metadata": {"z": None, "y": {"x": 1}}},
    "model": "m", "temperature": 0.3, "max_tokens": 9, "seed": 7, "stop": ["."], "metadata": {"ticket": "P-1"},
}  # fmt: skip


async def stored(wire: JetStream, **fields: Any) -> int:
    return (await wire.publish(topology.REQUESTED, json.dumps({**REQUEST, **fields}).encode())).seq


def by_reference(seq: int, number: int = 1, task_id: str = "t-1") -> AgentRequested:
    """As a worker gets it."""
    bare = {
        name: AgentRequested.model_fields[name].get_default(call_default_factory=True) for name in LEFT_OUT
    }
    return decode(AgentRequested, work(number, task_id=task_id, **{**bare, "request_seq": seq}).encode())


async def test_the_prompts_are_those_of_work_that_carries_its_request(wire: Counting) -> None:
    seq, request = await stored(wire), decode(DeliberationRequested, json.dumps(REQUEST).encode())
    reader = RequestReader(wire)
    for number in (1, 2, 3):
        named = by_reference(seq, number)
        carried = named.model_copy(
            update={"request_seq": None, **{name: getattr(request, name) for name in LEFT_OUT}}
        )
        completed = await reader.complete(named)
        carried = decode(AgentRequested, carried.encode())
        assert prompts.compose(completed) == prompts.compose(carried)
        assert completed.model_copy(update={"request_seq": None}) == carried
    assert wire.reads == 1


async def test_the_agents_of_a_task_share_one_read(wire: Counting) -> None:
    seq, reader = await stored(wire), RequestReader(wire)
    found = await asyncio.gather(*(reader.complete(by_reference(seq, number)) for number in range(1, 101)))
    assert {one.task_description for one in found} == {REQUEST["task_description"]}
    assert wire.reads == 1


async def test_a_job_that_is_cancelled_while_it_reads_leaves_the_read_to_the_others(wire: Counting) -> None:
    seq, reader = await stored(wire), RequestReader(wire)
    first, second = (asyncio.create_task(reader.complete(by_reference(seq, n))) for n in (1, 2))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).model == "m"
    assert wire.reads == 1


async def test_work_that_carries_its_request_is_not_completed(wire: Counting) -> None:
    request = work()
    assert await RequestReader(wire).complete(request) is request
    assert wire.reads == 0


@pytest.mark.parametrize("case", ["gone", "another's", "a cancel", "unreadable", "by its place"])
async def test_only_its_own_request_completes_work(wire: Counting, case: str) -> None:
    seq = await stored(wire)
    match case:
        case "gone":
            await wire.js.delete_msg(topology.REQUESTS, seq)
        case "another's":
            seq = await stored(wire, task_id="t-2")
        case "a cancel":
            seq = (await wire.publish(topology.CANCEL, json.dumps(REQUEST).encode())).seq
        case "unreadable":
            seq = (await wire.publish(topology.REQUESTED, b"nope")).seq
        case _:
            seq = await stored(wire, task_id=None)
            assert (await RequestReader(wire).complete(by_reference(seq, task_id=f"d-{seq}"))).model == "m"
    with pytest.raises(
        RequestGone, match=f"the request of t-1, message {seq} of REQUESTS, is not stored any more"
    ):
        await RequestReader(wire).complete(by_reference(seq))


def test_work_that_leaves_its_request_out_cannot_be_mistaken_for_an_empty_question() -> None:
    sent = json.loads(by_reference(5).encode())
    assert "task_description" not in sent  # version 0.1.0 requires it, and so refuses this work by name
    assert sent["request_seq"] == 5
