"""What choices add to the metrics: who is put first at which place, and how sure the winners are."""

from collections.abc import Sequence
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from parley.broker.core.messages import (
    AgentResult,
    CastBallot,
    DeliberationCompleted,
    PhaseReport,
    Proposal,
    Selection,
)
from parley.monitoring.choice_metrics import ChoiceMetrics

AT = "2026-11-27T08:00:0{}.000Z"


def counted(*endings: DeliberationCompleted) -> CollectorRegistry:
    registry = CollectorRegistry()
    metrics = ChoiceMetrics(registry)
    for ending in endings:
        metrics.ended(ending)
    return registry


def value(registry: CollectorRegistry, name: str, **labels: str) -> float:
    found = registry.get_sample_value(name, labels)
    assert found is not None, (name, labels)
    return found


def result(agent: str, words: str) -> AgentResult:
    proposal = Proposal(
        content=words, author_id=agent, author_role="DEV", model="m", temperature=None, tokens=1
    )
    return AgentResult(agent_id=agent, role="DEV", proposal=proposal, duration_ms=1, timestamp=AT.format(0))


def ending(
    ballots: Sequence[CastBallot] = (),
    margin: str | None = "1/4",
    results: Sequence[AgentResult] = (),
    **fields: Any,
) -> DeliberationCompleted:
    valid = sum(ballot.ranking is not None for ballot in ballots)
    selection = Selection(
        method="judge", aggregate="win-rate-1", status="decided", scores={}, margin=margin, seed=1,
        asked=len(ballots), valid=valid, invalid=len(ballots) - valid, ballots=tuple(ballots),
    )  # fmt: skip
    given = {"selection": selection, **fields}
    return DeliberationCompleted(
        task_id="t", degraded=False, missing_agents=(), failed_agents=(), results=tuple(results), total_agents=2,
        successful_responses=2, failed_responses=0, duration_ms=1, completed_at=AT.format(9), **given,
    )  # fmt: skip


def ballot(judge: str, shown: str, ranking: str | None, **fields: Any) -> CastBallot:
    return CastBallot(
        judge=judge, shown=tuple(shown), ranking=None if ranking is None else tuple(ranking), **fields
    )


def test_ballots_are_counted_by_what_came_of_them() -> None:
    registry = counted(
        ending([ballot("1", "pq", "qp"), ballot("2", "qp", "qp", repaired=True), ballot("3", "pq", None)])
    )
    found = [
        value(registry, "parley_ballots_total", result=kind) for kind in ("valid", "repaired", "invalid")
    ]
    assert found == [1, 1, 1]
    assert value(registry, "parley_selections_total", method="judge", status="decided") == 1
    assert value(registry, "parley_winner_margin_sum") == 0.25


def test_the_place_that_comes_first_is_the_one_that_this_judge_saw() -> None:
    registry = counted(ending([ballot("1", "pq", "qp"), ballot("2", "qp", "qp")]))
    assert value(registry, "parley_first_place_total", place="A") == 1
    assert value(registry, "parley_first_place_total", place="B") == 1


@pytest.mark.parametrize(("words", "longest"), [("a long answer", "true"), ("no", "false")])
def test_whether_the_longest_answer_comes_first(words: str, longest: str) -> None:
    answers = [result("p", "so so"), result("q", words)]
    registry = counted(ending([ballot("1", "pq", "qp")], results=answers))
    assert value(registry, "parley_longest_first_total", longest=longest) == 1


def test_without_the_answers_their_lengths_are_not_guessed() -> None:
    registry = counted(ending([ballot("1", "pq", "qp")]))
    assert value(registry, "parley_longest_first_total", longest="true") == 0
    assert value(registry, "parley_longest_first_total", longest="false") == 0


def test_how_long_a_phase_was_open() -> None:
    phase = PhaseReport(
        phase="judge", asked=3, completed=3, failed=0, missing=0, opened_at=AT.format(1), limit=AT.format(9),
        closed_at=AT.format(4), closed_by="all",
    )  # fmt: skip
    registry = counted(ending(phases=(phase,)))
    assert value(registry, "parley_phase_seconds_sum", phase="judge", closed_by="all") == 3.0


def test_what_chose_nothing_counts_nothing() -> None:
    registry = counted(ending(selection=None))
    assert value(registry, "parley_selections_total", method="judge", status="decided") == 0
