"""Our counts beside evalica's. Beside pref_voting's: `make deliberate`, where it is installed."""

import pytest

from benchmarks.choice import references
from benchmarks.choice.references import evalica_agrees, random_profiles
from parley.broker.core.ballots import count


@pytest.mark.parametrize("left_out", [0.0, 0.2, 0.8])
def test_win_rates_are_those_of_evalica(left_out: float) -> None:
    pytest.importorskip("evalica", reason="the group choice-references is not installed")
    agrees = evalica_agrees()
    assert all(agrees(profile) for profile in random_profiles(200, 1, left_out=left_out))


def test_a_difference_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("evalica", reason="the group choice-references is not installed")
    monkeypatch.setattr(references, "count", count_reversed)
    assert not evalica_agrees()(["ABCDE", "ABDCE", "BACDE"])


def count_reversed(ballots: list[str], candidates: str) -> object:
    return count([ballot[::-1] for ballot in ballots], candidates)


def test_a_library_that_is_absent_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "find_spec", lambda _: None)
    told: list[str] = []
    assert references.measure(10, 1, told.append) == []
    assert [line.split(":")[0] for line in told] == ["evalica", "pref_voting"]
