"""Flat or not: what is judged, from when on, and what a verdict says."""

import pytest

from benchmarks.steady import FEWEST_SAMPLES, Figure, Sample, header, judge, row


def samples(*values: float, name: str = "MiB", each: float = 10.0) -> list[Sample]:
    """One sample every ten seconds; ten deliberations ended between two."""
    return [Sample(each * place, int(each * place), {name: value}) for place, value in enumerate(values)]


def test_what_goes_up_and_down_is_flat() -> None:
    verdict = judge(Figure("MiB", tolerance=1.0), samples(*[100, 140, 100] * 4))
    assert (verdict.rise, verdict.flat) == (0.0, True)
    assert str(verdict).split() == ["ok", "MiB:", "+0,", "allowed", "1"]


def test_what_climbs_grows() -> None:
    verdict = judge(Figure("MiB", tolerance=5.0), samples(*range(100, 112)))
    assert (verdict.rise, verdict.flat) == (8.0, False)
    assert str(verdict).split()[0] == "GROWS"


def test_one_high_sample_in_the_end_decides_nothing() -> None:
    assert judge(Figure("MiB", tolerance=12.0), samples(*[100.0] * 11, 140.0)).flat


def test_what_falls_is_flat() -> None:
    assert judge(Figure("MiB", tolerance=0.0), samples(*range(120, 100, -1))).flat


def test_a_warm_up_is_not_counted() -> None:
    found = samples(*range(10), *[50.0] * 9)
    assert not judge(Figure("MiB", tolerance=1.0), found).flat
    assert judge(Figure("MiB", tolerance=1.0, warm_up_seconds=100.0), found).rise == 0.0


def test_what_grows_by_design_is_judged_by_the_deliberation() -> None:
    found = samples(*(3.0 * 10 * place for place in range(12)))
    assert judge(Figure("MiB", tolerance=3.0, per_deliberation=True), found).rise == pytest.approx(3.0)
    assert not judge(Figure("MiB", tolerance=2.9, per_deliberation=True), found).flat


def test_too_short_a_run_is_said_to_be_and_is_no_failure() -> None:
    verdict = judge(Figure("MiB", tolerance=0.0), samples(*range(FEWEST_SAMPLES - 1)))
    assert (verdict.rise, verdict.flat) == (None, True)
    assert "too short" in str(verdict)


def test_a_figure_that_was_never_sampled_is_not_judged() -> None:
    assert judge(Figure("files", tolerance=0.0), samples(*range(12))).rise is None


def test_a_row_has_a_cell_for_every_name() -> None:
    assert header(["MiB", "files"]) == "| min | ended | MiB | files |"
    assert row(Sample(90.0, 12, {"MiB": 99.6}), ["MiB", "files"]) == "| 1.5 | 12 | 100 |  |"
    assert row(Sample(0.0, 0, {"MiB": 1.25, "files": 0.0}), ["MiB", "files"]) == "| 0.0 | 0 | 1.2 | 0 |"
