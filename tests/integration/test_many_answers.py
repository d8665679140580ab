"""Heats, members that rank each other, and an editor, in a service that runs: what reaches the model server, and what comes
of it. The model here gives numbers, ranks the highest first, and as an editor writes a still higher one."""

import itertools
import json
import re
from pathlib import Path

import pytest

from parley import Client, DeliberationCompleted
from parley.broker.jetstream.embedded import EmbeddedNats
from tests import present
from tests.integration.test_model_servers import served
from tests.rig.habit_server import Heard, Reply, answer, habit_server

SHOWN = re.compile(r'<answer id="([A-H])" of="[0-9a-f]+">\n\D*(\d+)')
EDITING = "Write the best answer to the task"


def prompt_of(heard: Heard) -> str:
    """The last message of a call; "" of a question for the models."""
    return str(heard.fields["messages"][-1]["content"]) if heard.method != "GET" else ""


class Numbers:
    """`written`: the number that the editor writes. Prompts of each kind are kept."""

    def __init__(self, written: int = 999) -> None:
        self._next = itertools.count(1)
        self._written = written
        self.asked: list[str] = []
        self.judged: list[str] = []
        self.edited: list[str] = []

    def __call__(self, heard: Heard) -> Reply:
        if heard.method == "GET":
            return 200, {"data": [{"id": "m"}]}, {}
        prompt = prompt_of(heard)
        shown = {label: int(number) for label, number in SHOWN.findall(prompt)}
        if EDITING in prompt:
            self.edited.append(prompt)
            return answer(f"written {self._written}")
        if not shown:
            self.asked.append(prompt)
            return answer(f"answer {next(self._next)}" if prompt != "ping" else "pong")
        self.judged.append(prompt)
        ranking = sorted(shown, key=lambda label: -shown[label])
        return answer(json.dumps({"notes": "by number", "ranking": "".join(ranking)}))


async def asked(client: Client, **asking: object) -> DeliberationCompleted:
    ending = await client.deliberate("Which number?", **asking)  # type: ignore[arg-type]  # any of its arguments
    assert isinstance(ending, DeliberationCompleted), ending
    return ending


async def test_of_64_answers_the_best_is_chosen_and_no_prompt_holds_more_than_eight(
    empty_nats: EmbeddedNats, tmp_path: Path
) -> None:
    numbers = Numbers()
    async with (
        habit_server(numbers) as server,
        served(empty_nats, tmp_path, vllm_url=server.url) as (client, _),
    ):
        ending = await asked(client, agents=64, select="judge")
    best = max(int(result.proposal.content.split()[1]) for result in ending.results)
    assert ending.answer == f"answer {best}"
    assert len(numbers.judged) == 11
    assert max(len(SHOWN.findall(prompt)) for prompt in numbers.judged) <= 8
    selection = present(ending.selection)
    assert (len(selection.heats), len(selection.ballots), selection.status) == (8, 3, "decided")
    assert [(phase.phase, phase.asked) for phase in ending.phases] == [
        ("answer", 64),
        ("heat", 8),
        ("judge", 3),
    ]
    assert (present(ending.cost).calls, ending.degraded) == (75, False)


async def test_members_rank_the_answers_of_the_others(empty_nats: EmbeddedNats, tmp_path: Path) -> None:
    numbers = Numbers()
    async with (
        habit_server(numbers) as server,
        served(empty_nats, tmp_path, vllm_url=server.url) as (client, _),
    ):
        panel = [{"persona": "a sceptic", "temperature": 1.5}, {}, {}, {}, {}]
        ending = await asked(client, panel=panel, select="rank")
    assert ending.answer == "answer 5"
    assert len(numbers.judged) == 5
    assert [len(SHOWN.findall(prompt)) for prompt in numbers.judged] == [4] * 5
    selection = present(ending.selection)
    assert (selection.method, selection.valid) == ("rank", 5)
    assert all(ballot.judge not in ballot.shown for ballot in selection.ballots)
    assert [phase.phase for phase in ending.phases] == ["answer", "rank"]


@pytest.mark.parametrize(("written", "accepted"), [(999, True), (0, False)])
async def test_what_an_editor_writes_is_the_answer_if_the_judges_prefer_it(
    empty_nats: EmbeddedNats, tmp_path: Path, written: int, accepted: bool
) -> None:
    numbers = Numbers(written)
    async with (
        habit_server(numbers) as server,
        served(empty_nats, tmp_path, vllm_url=server.url) as (client, _),
    ):
        ending = await asked(client, agents=7, select="judge", synthesize=True, requirements=["a number"])
        status = await client.status(ending.task_id)
    (prompt,) = numbers.edited
    assert len(SHOWN.findall(prompt)) == 5
    assert "with each requirement met" in prompt
    assert "agent-dev" not in prompt
    told = present(ending.synthesis)
    assert (told.content, len(told.sources)) == (f"written {written}", 5)
    assert ending.winner is not None
    assert ending.winner.proposal.content == "answer 7"
    assert ending.answer == (f"written {written}" if accepted else "answer 7")
    assert ending.answer_from == ("synthesis" if accepted else "winner")
    assert (told.status, told.support) == (("accepted", "4/4") if accepted else ("refused", "0/4"))
    assert [phase.phase for phase in ending.phases] == ["answer", "judge", "edit", "confirm"]
    assert not ending.degraded
    assert (status.winner_id, status.answer_from) == (ending.winner_id, ending.answer_from)


async def test_a_vote_may_be_written_too_and_the_editor_keeps_to_its_form(
    empty_nats: EmbeddedNats, tmp_path: Path
) -> None:
    numbers = Numbers()
    async with (
        habit_server(numbers) as server,
        served(empty_nats, tmp_path, vllm_url=server.url) as (client, _),
    ):
        key = {"after": "answer"}
        ending = await asked(client, agents=3, select="vote", answer_key=key, synthesize=True, judges=1)
    assert "End with one line: answer and then the final answer." in numbers.edited[0]
    assert ending.answer_from == "synthesis"
    assert [phase.asked for phase in ending.phases] == [3, 1, 2]
