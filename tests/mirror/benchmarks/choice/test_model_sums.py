"""What follows from sums that a model has answered."""

import pytest

from benchmarks.choice.model_sums import Sum, judge


def test_the_gain_of_a_vote_is_over_the_mean_of_its_answers() -> None:
    found = [
        Sum((True, True, False), vote_right=True, tied=False),
        Sum((False, False, True), vote_right=False, tied=False),
        Sum((False, True, True), vote_right=True, tied=False),
    ]
    result = judge(found, "m", 1)
    (target,) = result.targets
    assert target.value == pytest.approx(100 * (2 / 3 - 5 / 9))
    assert result.met
    assert result.figures["right only by vote"] == 1
    assert result.figures["right only by the first agent"] == 0
