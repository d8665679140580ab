"""Targets, and the table that shows them."""

import pytest

from benchmarks.report import Result, Target, table


@pytest.mark.parametrize(
    ("value", "at_least", "met"),
    [(9.9, False, True), (10.0, False, True), (10.1, False, False), (9.9, True, False), (10.0, True, True)],
)
def test_a_target_is_met_on_its_side_of_the_bound(value: float, at_least: bool, met: bool) -> None:
    assert Target("figure", value, 10.0, at_least=at_least).met is met


def test_one_missed_target_misses_the_scenario() -> None:
    fine, missed = Target("fine", 1, 2), Target("missed", 3, 2, "s")
    assert Result("all", "how", [fine]).met
    found = Result("some", "how", [fine, missed])
    assert not found.met
    data = found.as_dict()
    assert (data["met"], [target["met"] for target in data["targets"]]) == (False, [True, False])


def test_the_table_shows_each_target_and_the_further_figures() -> None:
    targets = [Target("memory", 2100.5, 2048, "MiB"), Target("share", 0.98765, 0.98, at_least=True)]
    lines = table([Result("flight", "three agents", targets, {"idle MiB": 12.0})]).splitlines()
    assert lines[0].split() == ["scenario", "figure", "measured", "target"]
    assert lines[1].split() == ["flight", "memory", "2,100", "MiB", "≤", "2,048", "MiB", "MISSED"]
    assert lines[2].split() == ["flight", "share", "0.9877", "≥", "0.98", "ok"]
    assert lines[3:] == ["", "flight: three agents", "  idle MiB: 12"]


def test_the_uncertainty_has_a_column_where_there_is_one() -> None:
    sure = Target("found", 58.0, 57.0, "%", at_least=True, uncertainty="± 0.35 SE")
    lines = table([Result("planted", "seed 1", [sure])]).splitlines()
    assert "uncertainty" in lines[0]
    assert lines[1].split() == ["planted", "found", "58", "%", "±", "0.35", "SE", "≥", "57", "%", "ok"]
