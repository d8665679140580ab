"""Starts: the later of ready and said so, and their median."""

from benchmarks.startup import MOST_SECONDS, judge


def test_the_median_of_the_later_moments_decides() -> None:
    found = judge([(5.0, 6.0), (30.0, 6.0), (7.0, 6.9)])
    (target,) = found.targets
    assert (target.value, target.bound, target.met) == (7.0, MOST_SECONDS, True)
    assert not judge([(MOST_SECONDS + 1, 0.0)]).met
