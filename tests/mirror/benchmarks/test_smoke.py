"""Which ratio is a step back."""

import pytest

from benchmarks.scenarios.smoke import PAIRS, STEP_BACK, judge


@pytest.mark.parametrize(("ours", "kept"), [(10.0, True), (12.9, True), (13.1, False), (40.0, False)])
def test_a_step_back_is_a_third_more_than_it_was(ours: float, kept: bool) -> None:
    found = [(ours, 1.0)] * 9
    assert judge(found, 10.0)[0] is kept


def test_it_is_the_median_of_the_rounds_ratios_so_one_disturbed_round_decides_nothing() -> None:
    quiet = [(2.0, 0.2), (3.0, 0.3), (4.0, 0.4)]
    kept, line = judge([*quiet, (9.0, 0.1)], 10.0)
    assert kept
    assert "costs 10.00 pairs" in line


def test_the_line_says_what_it_was_and_what_is_allowed() -> None:
    assert f"was {PAIRS:g}, allowed {STEP_BACK * PAIRS:.2f}" in judge([(1.0, 1.0)], PAIRS)[1]
