"""Judges on a real vLLM: ballots by its grammar, what they share with the agents from its cache, and the end of a
phase's calls at its limit."""

import asyncio
import json
import time
from collections.abc import AsyncIterator

import pytest

from parley.broker.core.messages import DeliberationCompleted
from parley.broker.core.phase_plan import PhaseKind
from tests.harness import fresh, until
from tests.live.conftest import ARGUMENTS
from tests.live.service import Front, front
from tests.live.test_prefix_cache import role
from tests.live.test_stopping import ABORT_SECONDS, LONG
from tests.rig.vllm.model import written
from tests.rig.vllm.server import Install, Vllm, vllm

PANELS = 4
# An answer's tokens. The front that agents and judges share has about 1,400.
ANSWER_TOKENS = 200
FRONT = "weigh what speaks for the plainest design that holds, and say what it costs to run it. " * 60
JUDGES = 2
# Seconds: a fast machine ends all answers within the first of them, a slow one none within the last.
DEADLINES = (11.0, 9.0, 7.5, 6.5)
CACHED = 0.45
LIST = {"type": "array", "items": {"enum": ["red", "blue"]}, "minItems": 2, "maxItems": 2}
FORM = {"type": "json_schema", "json_schema": {"name": "colours", "schema": LIST}}


@pytest.fixture(scope="module")
async def judging(install: Install, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Vllm]:
    """A server whose model can end an answer."""
    model = written(install.python, tmp_path_factory.mktemp("ends"), ends=True)
    async with vllm(model, tmp_path_factory.mktemp("judging"), *ARGUMENTS) as server:
        yield server


@pytest.fixture(scope="module")
async def on(judging: Vllm, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Front]:
    async with front(tmp_path_factory.mktemp("judges"), [judging.url]) as started:
        yield started


async def chosen(on: Front, agents: int) -> DeliberationCompleted:
    ending = await on.client.deliberate(
        f"{fresh()}: {FRONT}",
        role=role(),
        agents=agents,
        select="judge",
        max_tokens=ANSWER_TOKENS,
        timeout_seconds=120,
    )
    assert isinstance(ending, DeliberationCompleted), ending
    return ending


async def test_words_at_random_have_the_form_that_an_answer_is_to_have(on: Front) -> None:
    ending = await on.client.deliberate("Name two", agents=3, response_format=FORM, max_tokens=200)
    assert isinstance(ending, DeliberationCompleted), ending
    for result in ending.results:
        answer = json.loads(result.proposal.content)
        assert len(answer) == 2
        assert set(answer) <= {"red", "blue"}


async def test_words_at_random_are_whole_rankings_by_the_grammar(on: Front) -> None:
    endings = await asyncio.gather(*(chosen(on, 3) for _ in range(PANELS)))
    selections = [ending.selection for ending in endings if ending.selection is not None]
    ballots = [ballot for selection in selections for ballot in selection.ballots]
    valid = [ballot for ballot in ballots if ballot.ranking is not None]
    print(f"\n{len(valid)} of {len(ballots)} ballots valid; {[selection.status for selection in selections]}")
    assert len(ballots) == 3 * PANELS
    assert len(valid) == len(ballots), [ballot.why for ballot in ballots]
    assert not any(ballot.repaired for ballot in ballots)


async def test_much_of_what_judges_read_is_in_the_cache(on: Front) -> None:
    ending = await chosen(on, 5)
    answers, judges = (phase.cost for phase in ending.phases)
    shares = {}
    for name, cost in (("agents", answers), ("judges", judges)):
        assert cost.cached_tokens is not None
        shares[name] = cost.cached_tokens / cost.prompt_tokens
    print("\ncached: " + ", ".join(f"{share:.3f} of what {name} read" for name, share in shares.items()))
    assert shares["judges"] >= CACHED


async def test_the_limit_of_a_phase_stops_its_calls_inside_the_engine(on: Front, judging: Vllm) -> None:
    """An answer ends after some 2,000 tokens, at random: at one of the limits some have ended and some have not."""
    for seconds in DEADLINES:
        took, ending = await _until_judges(on, judging, seconds)
        answers = ending.phases[0]
        print(
            f"\n{answers.completed} of 8 answered by the limit; the others' calls had ended {took:.3f} s later"
        )
        if answers.closed_by == "limit" and answers.missing:
            break
    assert (answers.closed_by, answers.missing > 0) == ("limit", True)
    assert took < ABORT_SECONDS


async def _until_judges(on: Front, judging: Vllm, seconds: float) -> tuple[float, DeliberationCompleted]:
    """Seconds from the panel's opening until the engine runs no more than its calls, and the ending."""
    client = on.client
    submitted = await client.submit(
        "Go on and on", agents=8, max_tokens=LONG, select="judge", judges=JUDGES, timeout_seconds=seconds
    )

    async def judges_are_asked() -> bool:
        tally = await client.tally(submitted.task_id)
        return tally is not None and (tally.phase.kind is PhaseKind.JUDGE or tally.ended)

    await until(judges_are_asked, "the answers' limit comes", 13.0)
    closed = time.monotonic()

    async def only_judges_run() -> bool:
        return await judging.figure("num_requests_running") <= JUDGES

    await until(only_judges_run, "the engine has dropped the other answers", 12.0)
    took = time.monotonic() - closed
    ending = await client.ending(submitted)
    assert isinstance(ending, DeliberationCompleted), ending
    return took, ending
