"""The orders of a panel are even: judges that look at nothing but places elect nobody."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.broker.core.ballots import count
from parley.broker.core.judging_orders import (
    EVEN,
    LABELS,
    MAX_JUDGES,
    MAX_SHOWN,
    choice_seed,
    orders,
    read_labels,
    shuffled,
)

SEED = choice_seed("t-1", 7)


def candidates(number: int) -> tuple[str, ...]:
    return tuple(f"agent-{place}" for place in range(1, number + 1))


@pytest.mark.parametrize("judges", range(2, MAX_JUDGES + 1))
@pytest.mark.parametrize("answers", range(2, MAX_SHOWN + 1))
def test_every_answer_stands_equally_far_up(judges: int, answers: int) -> None:
    rows = EVEN[judges, answers]
    assert len(rows) == judges
    assert {"".join(sorted(row)) for row in rows} == {"01234567"[:answers]}
    sums = [sum(int(row[answer]) for row in rows) for answer in range(answers)]
    spread = max(sums) - min(sums)
    assert spread == (judges * (answers - 1)) % 2  # where it can't be equal, by one


@pytest.mark.parametrize("judges", range(2, MAX_JUDGES + 1))
@pytest.mark.parametrize("answers", range(3, MAX_SHOWN + 1))
@pytest.mark.parametrize("turned", [False, True], ids=["the first first", "the last first"])
def test_judges_that_look_at_places_only_tie(judges: int, answers: int, turned: bool) -> None:
    names = candidates(answers)
    shown = orders(judges, names, SEED)
    result = count([order[::-1] if turned else order for order in shown], shuffled(names, SEED))
    assert result is not None
    assert result.margin == 0
    if judges * (answers - 1) % 2 == 0:
        assert set(result.tied) == set(names)


@given(st.permutations(candidates(5)))
def test_the_order_of_the_answers_decides_nothing(names: list[str]) -> None:
    assert orders(3, tuple(names), SEED) == orders(3, candidates(5), SEED)


def test_no_agent_is_always_the_first() -> None:
    firsts = {orders(3, candidates(5), choice_seed(f"t-{number}", 1))[0][0] for number in range(60)}
    assert firsts == set(candidates(5))


def test_a_seed_is_exact_in_any_reader_of_json() -> None:
    assert 0 <= SEED < 2**48
    assert choice_seed("t-1", 7) == SEED != choice_seed("t-1", 8)


@pytest.mark.parametrize(
    ("labels", "read"),
    [
        ("CAB", ("z", "x", "y")),
        ("AB", None),
        ("ABB", None),
        ("ABD", None),
        ("ABCA", None),
        ("abc", None),
        ("", None),
    ],
)
def test_labels_are_places(labels: str, read: tuple[str, ...] | None) -> None:
    assert read_labels(labels, ("x", "y", "z")) == read


@pytest.mark.parametrize("number", range(1, MAX_SHOWN + 1))
def test_one_judge_is_shown_everything(number: int) -> None:
    shown = orders(1, candidates(number), SEED)[0]
    assert tuple(sorted(shown)) == candidates(number)
    assert read_labels(LABELS[:number], shown) == shown
