"""The winner of a panel: exact, the same whoever judges first and whatever answers are called."""

import random
import time
from fractions import Fraction
from itertools import permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.broker.core.ballots import (
    TieBreak,
    agreement,
    count,
    denominator,
    dissent,
    support,
    told,
    win_rates,
)

NAMES = "pqrst"


def ballots(text: str) -> list[str]:
    return text.split()


# ── examples that one can recompute ───────────────────────────────────────────────────────────────────────────────


def test_the_score_is_the_mean_share_of_comparisons_won() -> None:
    result = count(ballots("pqr prq qpr"), "pqr")
    assert result is not None
    assert result.scores == {"p": Fraction(5, 6), "q": Fraction(1, 2), "r": Fraction(1, 6)}
    assert (result.winner, result.tied, result.tie_break) == ("p", (), None)
    assert (result.runner_up, result.margin) == ("q", Fraction(1, 3))


@pytest.mark.parametrize(
    ("given_ballots", "winner", "rule"),
    [
        ("pqr pqr qrp", "q", TieBreak.WORST_PLACES),
        ("pqr qrp prq qpr", "p", TieBreak.SEED),
        ("pqr qpr", "p", TieBreak.SEED),
        ("pqr qrp rpq", "p", TieBreak.SEED),
    ],
)
def test_ties(given_ballots: str, winner: str, rule: TieBreak) -> None:
    result = count(ballots(given_ballots), "pqr")
    assert result is not None
    assert (result.winner, result.tie_break, result.margin) == (winner, rule, Fraction())


def test_nobody_wins_without_a_comparison() -> None:
    assert count([], "pq") is None
    assert count(["p"], "pq") is None


def test_a_candidate_that_nobody_compared_has_no_score() -> None:
    result = count(["pq"], "pqr")
    assert result is not None
    assert result.scores["r"] is None
    assert result.runner_up == "q"


def test_who_saw_it_otherwise() -> None:
    given_ballots = {"one": "pqr", "two": "qpr", "three": "prq", "four": "qrp"}
    assert dissent(given_ballots, "p") == {"q": ("two", "four")}
    assert support(given_ballots.values(), "p", "q") == (2, 4)
    assert support(["p"], "p", "q") == (0, 0)


def test_agreement_is_the_share_of_pairs_ordered_alike() -> None:
    assert agreement(["pqr", "pqr"]) == 1
    assert agreement(["pqr", "rqp"]) == 0
    assert agreement(["pqr", "prq"]) == Fraction(2, 3)
    assert agreement(["pqr"]) is None
    assert agreement(["p", "q"]) is None


def test_scores_are_told_in_comparisons() -> None:
    given_ballots = ballots("pqrst qprst psrqt")
    scores = win_rates(given_ballots, NAMES)
    parts = denominator(scores.values(), len(given_ballots), len(NAMES))
    assert [told(score or Fraction(), parts) for score in scores.values()] == [
        "11/12",
        "8/12",
        "6/12",
        "5/12",
        "0/12",
    ]


# ── whatever the ballots are ──────────────────────────────────────────────────────────────────────────────────────

ranking = st.lists(st.sampled_from(NAMES), unique=True, max_size=5).map("".join)
whole = st.permutations(NAMES).map("".join)
panel = st.lists(ranking, max_size=6)


@given(panel, st.randoms())
def test_the_order_of_judges_changes_nothing(given_ballots: list[str], rng: random.Random) -> None:
    shuffled = rng.sample(given_ballots, len(given_ballots))
    assert count(given_ballots, NAMES) == count(shuffled, NAMES)


@given(panel, whole)
def test_other_names_change_nothing(given_ballots: list[str], others: str) -> None:
    renamed = str.maketrans(NAMES, others)
    result = count(given_ballots, NAMES)
    again = count([ballot.translate(renamed) for ballot in given_ballots], others)
    assert (result and result.winner.translate(renamed)) == (again and again.winner)


@given(st.lists(whole, max_size=6))
def test_one_more_ballot_for_the_winner_keeps_it(given_ballots: list[str]) -> None:
    result = count(given_ballots, NAMES)
    if result is not None:
        best = result.winner + "".join(name for name in NAMES if name != result.winner)
        again = count([*given_ballots, best], NAMES)
        assert again is not None
        assert again.winner == result.winner


@given(st.lists(whole, min_size=1, max_size=5))
def test_a_first_place_on_all_ballots_wins_them_all(given_ballots: list[str]) -> None:
    unanimous = ["p" + ballot.replace("p", "") for ballot in given_ballots]
    result = count(unanimous, NAMES)
    assert result is not None
    assert (result.winner, result.scores["p"]) == ("p", Fraction(1))


@given(st.lists(whole, min_size=1, max_size=4))
def test_each_ballot_and_its_reverse_tie_everybody(given_ballots: list[str]) -> None:
    result = count([*given_ballots, *(ballot[::-1] for ballot in given_ballots)], NAMES)
    assert result is not None
    assert result.tied == tuple(NAMES)


@given(st.lists(whole, min_size=1, max_size=6))
def test_on_whole_ballots_it_is_bordas_count(given_ballots: list[str]) -> None:
    borda = {name: sum(4 - ballot.index(name) for ballot in given_ballots) for name in NAMES}
    assert win_rates(given_ballots, NAMES) == {
        name: Fraction(points, 4 * len(given_ballots)) for name, points in borda.items()
    }


def test_every_rule_of_a_tie_is_needed() -> None:
    """Each is the one that decides some panel."""
    panels = [list(map("".join, three)) for three in product(permutations("pqr"), repeat=3)]
    incomplete = [[*panel, "pq"] for panel in panels] + [[*panel, "q"] for panel in panels]
    found = {
        result.tie_break for panel in [*panels, *incomplete] if (result := count(panel, "pqr")) is not None
    }
    assert found == {None, *TieBreak}


def test_heats_of_the_most_answers_are_counted_in_no_time() -> None:
    """No panel had a ballot, so 64 heats of eight decide among 512 answers: an event loop waits for it."""
    names = [f"a{number}" for number in range(512)]
    began = time.process_time()
    result = count([names[group::64] for group in range(64)], names)
    assert time.process_time() - began < 0.2
    assert result is not None
    assert result.tied == tuple(names[:64])
