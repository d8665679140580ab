"""A second round, in a service that runs: what reaches the model server, and what comes of it. The model here gives
numbers, and ranks the highest first; asked to revise, one member writes a higher one, and the others keep one."""

from pathlib import Path
from typing import Any

import pytest

from parley import Client, DeliberationCompleted
from parley.broker.core.errors import InvalidMessage
from parley.broker.jetstream.embedded import EmbeddedNats
from tests import present
from tests.integration.test_many_answers import SHOWN, Numbers, prompt_of
from tests.integration.test_model_servers import served
from tests.rig.habit_server import Heard, Reply, answer, habit_server

REVISING = "the best answer to the task that you can give now"


class Revising(Numbers):
    """The first that is asked to revise writes `better`; the others keep what they are shown first."""

    def __init__(self, better: int = 500) -> None:
        super().__init__()
        self._better = better
        self.revised: list[str] = []
        # Those of the first answers, and those of later ones.
        self.seeds: tuple[set[int], set[int]] = set(), set()

    def __call__(self, heard: Heard) -> Reply:
        prompt = prompt_of(heard)
        if "seed" in heard.fields and not SHOWN.search(prompt):
            self.seeds[0].add(heard.fields["seed"])
        if REVISING not in prompt:
            return super().__call__(heard)
        self.seeds[1].add(heard.fields.get("seed", 0))
        self.revised.append(prompt)
        return answer("KEEP A" if self.revised[1:] else f"better {self._better}")


async def asked(client: Client, **asking: Any) -> DeliberationCompleted:
    ending = await client.deliberate("Which number?", agents=4, rounds=2, **asking)
    assert isinstance(ending, DeliberationCompleted), ending
    return ending


@pytest.mark.parametrize(("better", "wins"), [(500, True), (0, False)])
async def test_a_revised_answer_stands_beside_the_first_ones_and_the_judges_decide(
    empty_nats: EmbeddedNats, tmp_path: Path, better: int, wins: bool
) -> None:
    numbers = Revising(better)
    async with (
        habit_server(numbers) as server,
        served(empty_nats, tmp_path, vllm_url=server.url) as (client, _),
    ):
        ending = await asked(client, select="judge", seed=3)
        status = await client.status(ending.task_id)
    assert ending.answer == (f"better {better}" if wins else "answer 4")
    (revised,) = [result for result in ending.results if result.round == 2]
    assert revised.agent_id == f"{revised.proposal.author_id}/2"
    assert [result.round for result in ending.results] == [1, 1, 1, 1, 2]
    assert ending.winner_id == (revised.agent_id if wins else present(ending.winner).agent_id)
    assert status.winner_id == ending.winner_id
    assert ending.successful_responses == 4
    # Three answers each, without names.
    assert [len(SHOWN.findall(prompt)) for prompt in numbers.revised] == [3] * 4
    assert not any("agent-dev" in prompt for prompt in numbers.revised)
    first, later = numbers.seeds
    assert (len(first), len(later)) == (4, 4)
    assert first.isdisjoint(later)
    # All that there is to compare, in one panel.
    assert {len(SHOWN.findall(prompt)) for prompt in numbers.judged} == {5}
    told = [(phase.phase, phase.round, phase.asked) for phase in ending.phases]
    assert told == [("answer", 1, 4), ("revise", 2, 4), ("judge", 2, 3)]
    revision = ending.phases[1]
    assert revision.kept + revision.adopted == 3
    assert (present(ending.cost).calls, ending.degraded) == (11, False)


async def test_without_a_choice_all_answers_come_back(empty_nats: EmbeddedNats, tmp_path: Path) -> None:
    numbers = Revising()
    async with (
        habit_server(numbers) as server,
        served(empty_nats, tmp_path, vllm_url=server.url) as (client, _),
    ):
        ending = await asked(client)
    assert [result.proposal.content for result in ending.results][-1] == "better 500"
    assert (len(ending.results), ending.winner_id, ending.selection, ending.degraded) == (
        5,
        None,
        None,
        False,
    )
    assert [phase.phase for phase in ending.phases] == ["answer", "revise"]


@pytest.mark.parametrize(("select", "more"), [("vote", {"answer_key": {"last": "line"}}), ("rank", {})])
async def test_where_another_round_does_harm_it_is_refused(
    empty_nats: EmbeddedNats, tmp_path: Path, select: str, more: dict[str, Any]
) -> None:
    async with (
        habit_server() as server,
        served(empty_nats, tmp_path, vllm_url=server.url) as (client, _),
    ):
        with pytest.raises(InvalidMessage, match=rf"rounds is 2; select {select} has one round"):
            await asked(client, select=select, **more)
