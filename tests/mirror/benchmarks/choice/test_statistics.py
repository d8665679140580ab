"""Standard errors, exact intervals, McNemar's test: against figures of textbooks."""

import pytest

from benchmarks.choice.statistics import exact_interval, mcnemar, mean_and_error, standard_error


def test_the_standard_error_of_a_share() -> None:
    assert standard_error(10_000, 20_000) == pytest.approx(0.00354, abs=1e-5)


def test_a_mean_and_its_standard_error() -> None:
    assert mean_and_error(sum_=6.0, sum_of_squares=14.0, count=3) == pytest.approx((2.0, 0.57735))


def test_a_single_value_has_no_spread() -> None:
    assert mean_and_error(2.0, 4.0, 1) == (2.0, 0.0)


@pytest.mark.parametrize(
    ("found", "trials", "interval"),
    [(0, 10, (0.0, 0.3085)), (10, 10, (0.6915, 1.0)), (5, 10, (0.1871, 0.8129)), (60, 60, (0.9404, 1.0))],
)
def test_the_interval_of_clopper_and_pearson(found: int, trials: int, interval: tuple[float, float]) -> None:
    assert exact_interval(found, trials) == pytest.approx(interval, abs=1e-4)


@pytest.mark.parametrize(
    ("one", "other", "chance"), [(0, 0, 1.0), (5, 5, 1.0), (0, 5, 0.0625), (10, 2, 0.0386), (2, 10, 0.0386)]
)
def test_mcnemars_exact_test(one: int, other: int, chance: float) -> None:
    assert mcnemar(one, other) == pytest.approx(chance, abs=1e-4)
