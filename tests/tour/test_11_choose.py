"""A deliberation that chooses: judges who did not answer rank the answers, each in another order; the winner comes first.

Votes are read off the answers, with no calls at all.
"""

import pytest

from parley.broker.core.errors import InvalidMessage
from parley.broker.core.messages import DeliberationCompleted
from tests.harness import ModelServer, Running


async def test_judges_choose_one_of_the_answers(on: Running) -> None:
    ending = await on.client.deliberate("Which migration is safer?", agents=3, select="judge")
    assert isinstance(ending, DeliberationCompleted)
    assert (ending.degraded, ending.degraded_reasons) == (False, ())
    selection = ending.selection
    assert selection is not None
    assert (selection.asked, selection.valid) == (3, 3)
    assert ending.winner is not None
    assert ending.answer == ending.winner.proposal.content
    assert ending.winner_id in selection.scores
    # Each judge saw all answers, each in another order.
    orders = [ballot.shown for ballot in selection.ballots]
    assert len({tuple(sorted(order)) for order in orders}) == 1
    assert len(set(orders)) == 3
    assert [(phase.phase, phase.asked, phase.closed_by) for phase in ending.phases] == [
        ("answer", 3, "all"), ("judge", 3, "all")
    ]  # fmt: skip
    assert ending.cost is not None
    assert (ending.cost.calls, ending.cost.attempts) == (6, 6)


async def test_a_judge_that_gives_no_ballot_is_told(on: Running, model: ModelServer) -> None:
    await model.behave(script=["ok", "ok", "400"])
    ending = await on.client.deliberate("x", agents=2, select="judge", judges=2)
    assert isinstance(ending, DeliberationCompleted)
    assert ending.degraded
    assert ending.selection is not None
    assert ending.selection.status == "indicated"
    assert [(reason.phase, reason.what, reason.why) for reason in ending.degraded_reasons] == [
        ("judge", "failed", "bad_request"), ("judge", "below_quorum", "")
    ]  # fmt: skip
    assert ending.winner is not None


async def test_a_vote_is_read_off_the_answers(on: Running) -> None:
    key = {"last": "line"}
    # At temperature 0 the simulated agents say the same.
    ending = await on.client.deliberate(
        "x", agents=3, select="vote", answer_key=key, temperature=0.0, agree=2
    )
    assert isinstance(ending, DeliberationCompleted)
    assert ending.selection is not None
    assert ending.selection.status == "decided"
    assert ending.selection.ballots == ()
    assert len(ending.results) + len(ending.stopped_agents) == 3


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"select": "vote"}, "select vote needs answer_key"),
        ({"select": "rank", "agents": 3}, "agents is 3; select rank needs 4 to 9"),
        ({"judges": 2}, "judges needs select judge; select is none"),
        ({"select": "vote", "answer_key": {"last": "line"}, "agree": 4}, "agree is 4"),
        ({"select": "judge", "max_calls": 2}, "max_calls is 2"),
    ],
)
async def test_what_cannot_be_chosen_is_refused_by_name(
    on: Running, asked: dict[str, object], error: str
) -> None:
    with pytest.raises(InvalidMessage, match=error):
        await on.client.deliberate("x", **asked)  # type: ignore[arg-type]  # as a caller may
