"""The answers that judges compare are read once, and their absence is told."""

import asyncio
import json

import pytest

from parley.broker.core.errors import RightMissing
from parley.broker.core.messages import AgentRequested, Candidate
from parley.broker.core.phase_plan import PhaseKind
from parley.broker.jetstream import topology
from parley.workers.candidate_reader import AnswersUnreadable, CandidateReader
from tests.mirror.workers import Counting, work
from tests.mirror.workers.test_judge_prompt import answer


async def stored(wire: Counting, number: int, **fields: str) -> int:
    body = {**json.loads(answer(number, f"words of {number}").encode()), **fields}
    return (await wire.publish(topology.AGENT_COMPLETED, json.dumps(body).encode())).seq


def judging(*seqs: int) -> AgentRequested:
    candidates = tuple(Candidate(label=label, seq=seq) for label, seq in zip("ABCDEFGH", seqs, strict=False))
    return work(1, task_id="t-1", phase=PhaseKind.JUDGE, candidates=candidates)


async def test_answers_come_in_the_order_of_the_candidates(wire: Counting) -> None:
    one, two = await stored(wire, 1), await stored(wire, 2)
    read = await CandidateReader(wire).read(judging(two, one))
    assert [found.proposal.content for found in read] == ["words of 2", "words of 1"]


async def test_judges_that_come_together_read_once(wire: Counting) -> None:
    one, two = await stored(wire, 1), await stored(wire, 2)
    reader = CandidateReader(wire)
    await asyncio.gather(*(reader.read(judging(*order)) for order in ((one, two), (two, one), (one, two))))
    assert wire.reads == 2


async def test_an_answer_of_this_worker_is_not_read_again(wire: Counting) -> None:
    one, two = await stored(wire, 1), await stored(wire, 2)
    reader = CandidateReader(wire)
    reader.keep(one, answer(1, "words of 1"), 500)
    reader.keep(two, answer(2, "words of 2"), 500)
    read = await reader.read(judging(two, one))
    assert [found.proposal.content for found in read] == ["words of 2", "words of 1"]
    assert wire.reads == 0


async def test_what_was_kept_of_a_store_that_is_gone_is_read_again(wire: Counting) -> None:
    one, two = await stored(wire, 1), await stored(wire, 2)
    reader = CandidateReader(wire)
    for seq in (one, two):
        reader.keep(seq, answer(seq, "of the old store").model_copy(update={"task_id": "t-0"}), 500)
    read = await reader.read(judging(one, two))
    assert [found.proposal.content for found in read] == ["words of 1", "words of 2"]


async def test_what_is_gone_is_named(wire: Counting) -> None:
    one = await stored(wire, 1)
    with pytest.raises(AnswersUnreadable, match="compared: B no longer in the stream AGENT_RESPONSES"):
        await CandidateReader(wire).read(judging(one, 99))


async def test_another_deliberations_answer_is_none_of_these(wire: Counting) -> None:
    one, other = await stored(wire, 1), await stored(wire, 2, task_id="t-2")
    with pytest.raises(AnswersUnreadable):
        await CandidateReader(wire).read(judging(one, other))


async def test_an_outcome_that_is_no_answer_is_none_of_these(wire: Counting) -> None:
    one = await stored(wire, 1)
    failed = (await wire.publish(topology.AGENT_FAILED, b"{}")).seq
    junk = (await wire.publish(topology.AGENT_COMPLETED, b"{}")).seq
    with pytest.raises(AnswersUnreadable, match="B, C no longer"):
        await CandidateReader(wire).read(judging(one, failed, junk))


async def test_a_right_that_lacks_is_named_at_once(wire: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(stream: str, seq: int) -> None:
        raise RightMissing("nats://here", "this NATS user has no right to publish to x")

    monkeypatch.setattr(wire, "get", refused)
    with pytest.raises(AnswersUnreadable, match="has no right to publish to x"):
        await CandidateReader(wire).read(judging(1))
