"""A plan tells what will be asked, by the rules by which it is asked."""

from typing import Any

import pytest

from parley.broker.core.phase_plan import LEAST_SECONDS
from parley.request_arguments import compose
from parley.request_plan import PlannedPhase, phases_of


def planned(**asking: Any) -> list[PlannedPhase]:
    return phases_of(compose("x", **asking))


@pytest.mark.parametrize("select", ["none", "vote"])
def test_without_judges_there_is_one_phase(select: str) -> None:
    key = {"answer_key": {"last": "line"}} if select == "vote" else {}
    assert planned(agents=4, select=select, **key) == [PlannedPhase("answer", 4, 1.0)]


def test_shares_add_up_to_all_the_time() -> None:
    answers, judges = planned(agents=5, select="judge", judges=2)
    assert (answers.calls, judges.calls) == (5, 2)
    assert (answers.share or 0) + (judges.share or 0) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("seconds", "has_share"), [(5.0, False), (3 * LEAST_SECONDS + 1, True), (60.0, True)]
)
def test_of_a_short_time_judges_have_what_is_left(seconds: float, has_share: bool) -> None:
    judges = planned(agents=3, select="judge", timeout_seconds=seconds)[1]
    assert (judges.share is not None, judges.left_out) == (has_share, "")


@pytest.mark.parametrize("asking", [{"agents": 3, "max_calls": 5}, {"agents": 1}])
def test_what_is_left_out_asks_nobody(asking: dict[str, Any]) -> None:
    answers, judges = planned(select="judge", **asking)
    assert (answers.share, judges.calls, bool(judges.left_out)) == (1.0, 0, True)


def test_what_the_calls_do_not_pay_for_is_left_out_and_the_rest_is_not() -> None:
    phases = planned(agents=5, select="judge", synthesize=True, max_calls=8)
    assert [(phase.phase, phase.calls) for phase in phases] == [
        ("answer", 5),
        ("judge", 3),
        ("edit", 0),
        ("confirm", 0),
    ]
    assert phases[2].left_out == "13 calls would be more than max_calls, 8"
    assert sum(phase.share or 0 for phase in phases) == pytest.approx(1.0)
    assert [phase.calls for phase in planned(agents=16, select="judge", max_calls=18)] == [16, 0, 0]
