"""What follows from ballots and panels of a real model."""

from fractions import Fraction

from benchmarks.choice.model_ballots import Panel, judge_panels
from benchmarks.choice.model_calls import shown_orders
from parley.broker.core.messages import agent_id
from parley.broker.core.tally import Choice, ChoiceStatus

ORDER = ("x", "y", "z")


def panel(winner: str, *tied: str, margin: str = "0/6") -> Panel:
    status = ChoiceStatus.TIED if tied else ChoiceStatus.DECIDED
    return Panel(ORDER, Choice(status=status, winner=winner, tied=tied, margin=margin))


def test_who_is_tied_shares_the_win() -> None:
    assert panel("x", "x", "z").wins == {0: Fraction(1, 2), 2: Fraction(1, 2)}
    assert panel("y").wins == {1: 1}


def test_the_place_that_wins_most_is_judged_and_the_margin() -> None:
    result = judge_panels([panel("x", margin="3/6"), panel("y", "x", "y")], [panel("x")] * 2, "m", 1)
    wins, margin = result.targets
    assert (wins.value, margin.value) == (1.5, 0.25)
    assert not margin.met
    assert result.figures["one order for all: most wins by one place"] == 2


def test_each_judge_is_shown_another_order() -> None:
    keys = {agent_id("TEACHER", number): str(number) for number in (1, 2, 3)}
    orders = shown_orders("t", keys, judges=3)
    assert list(orders) == ["judge-001", "judge-002", "judge-003"]
    assert len(set(orders.values())) == 3
    assert all(set(order) == set(keys) for order in orders.values())
