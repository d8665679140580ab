"""The tenths of a drained queue."""

import pytest

from benchmarks.backlog import SHARE, TENTHS, judge, tenths


def test_a_steady_drain_has_the_same_throughput_in_each_tenth_in_whatever_order_it_is_told() -> None:
    moments = [place / 50 for place in range(1_000)]
    assert tenths(moments[::-1]) == pytest.approx([50.0] * TENTHS)


def test_a_drain_that_slows_down_is_seen_in_its_last_tenth() -> None:
    moments = [place / 100 for place in range(900)]
    moments += [moments[-1] + (place + 1) / 50 for place in range(100)]
    rates = tenths(moments)
    assert rates == pytest.approx([100.0] * 9 + [50.0])
    found = judge(1_000, moments, 100.0)
    assert [target.met for target in found.targets] == [True, False]
    assert found.targets[1].value == pytest.approx(0.5)
    assert found.targets[1].bound == SHARE


def test_a_lost_ending_misses() -> None:
    found = judge(101, [float(place) for place in range(100)], 100.0)
    assert [target.met for target in found.targets] == [False, True]


def test_fewer_endings_than_tenths_are_no_crash() -> None:
    assert len(tenths([1.0, 2.0, 3.0])) == TENTHS
