"""Flat or growing: which samples count, and how a growth is told."""

import pytest

from benchmarks.growth import FEWEST_SAMPLES, Limit, Sample, header, judge, row


def samples(*values: float, name: str = "MiB", each: float = 10.0) -> list[Sample]:
    """One sample every ten seconds; ten deliberations ended between two."""
    return [Sample(each * place, int(each * place), {name: value}) for place, value in enumerate(values)]


def test_a_figure_that_goes_up_and_down_is_flat() -> None:
    growth = judge(Limit("MiB", tolerance=1.0), samples(*[100, 140, 100] * 4))
    assert (growth.rise, growth.flat) == (0.0, True)
    assert str(growth).split() == ["ok", "MiB:", "+0,", "allowed", "1"]


def test_a_figure_that_climbs_grows() -> None:
    growth = judge(Limit("MiB", tolerance=5.0), samples(*range(100, 112)))
    assert (growth.rise, growth.flat) == (8.0, False)
    assert str(growth).split()[0] == "GROWS"


def test_one_high_sample_at_the_end_decides_nothing() -> None:
    assert judge(Limit("MiB", tolerance=12.0), samples(*[100.0] * 11, 140.0)).flat


def test_a_figure_that_falls_is_flat() -> None:
    assert judge(Limit("MiB", tolerance=0.0), samples(*range(120, 100, -1))).flat


def test_a_warm_up_is_not_counted() -> None:
    found = samples(*range(10), *[50.0] * 9)
    assert not judge(Limit("MiB", tolerance=1.0), found).flat
    assert judge(Limit("MiB", tolerance=1.0, warm_up_seconds=100.0), found).rise == 0.0


def test_a_figure_that_grows_by_design_is_judged_by_deliberation() -> None:
    found = samples(*(3.0 * 10 * place for place in range(12)))
    assert judge(Limit("MiB", tolerance=3.0, per_deliberation=True), found).rise == pytest.approx(3.0)
    assert not judge(Limit("MiB", tolerance=2.9, per_deliberation=True), found).flat


def test_a_run_that_is_too_short_says_so_and_does_not_fail() -> None:
    growth = judge(Limit("MiB", tolerance=0.0), samples(*range(FEWEST_SAMPLES - 1)))
    assert (growth.rise, growth.flat) == (None, True)
    assert "too short" in str(growth)


def test_a_figure_that_was_never_sampled_is_not_judged() -> None:
    assert judge(Limit("files", tolerance=0.0), samples(*range(12))).rise is None


def test_a_row_has_a_cell_for_every_name() -> None:
    assert header(["MiB", "files"]) == "| min | ended | MiB | files |"
    assert row(Sample(90.0, 12, {"MiB": 99.6}), ["MiB", "files"]) == "| 1.5 | 12 | 100 |  |"
    assert row(Sample(0.0, 0, {"MiB": 1.25, "files": 0.0}), ["MiB", "files"]) == "| 0.0 | 0 | 1.2 | 0 |"
