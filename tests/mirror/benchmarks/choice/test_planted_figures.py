"""Two figures of `make deliberate` with few trials, and what they are when a rule is broken."""

from collections import Counter
from collections.abc import Iterator

import pytest

from benchmarks.choice import planted_figures
from benchmarks.choice.planted_figures import BIASED, BIASED_LEAST, biased, percent, place_only
from benchmarks.choice.trials import Experiment, summed
from parley.broker.core import judging_orders

SEED = 1
TRIALS = 400
# Three standard errors.
LOOSE = 7.5


def sums(experiment: Experiment) -> Counter[str]:
    return summed((experiment, SEED, 0, TRIALS))


@pytest.mark.slow
def test_panels_find_the_best_answer_whatever_places_their_judges_favour() -> None:
    found = {each.name: sums(each) for row in BIASED.values() for each in row}
    least = biased(found, SEED).targets
    for target, bound in zip(least, BIASED_LEAST.values(), strict=True):
        assert target.value >= bound - LOOSE, f"{target}, seed {SEED}"


def test_with_one_order_for_all_judges_they_would_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging_orders, "EVEN", {})
    first = next(each for each in BIASED[5] if each.name == "first-5")
    assert percent(sums(first), "best") < BIASED_LEAST[5] - 3


def test_a_panel_that_looks_at_places_only_ends_in_an_exact_tie() -> None:
    assert [target.value for target in place_only(5, SEED).targets] == [0, 0]


@pytest.fixture
def one_order_for_all(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    judging_orders.orders.cache_clear()
    monkeypatch.setattr(judging_orders, "EVEN", {})
    yield
    judging_orders.orders.cache_clear()


@pytest.mark.usefixtures("one_order_for_all")
def test_with_one_order_for_all_judges_a_place_would_win() -> None:
    untied, _ = place_only(1, SEED).targets
    assert untied.value == 6 * 4 * 2


def test_a_figure_is_judged_with_its_standard_error() -> None:
    target = planted_figures.share("found", {"trials": 100, "best": 50}, "best", 57.0)
    assert (target.value, target.met, target.uncertainty) == (50.0, False, "± 5.00 SE")
