"""One line says how sure a choice is, or why there is none."""

from parley.broker.core.messages import DegradedReason
from parley.choice_in_words import choice_line, no_choice_line, revision_lines
from tests.mirror.parley.test_display import chosen


def test_a_tie_is_said_first_and_what_named_the_winner() -> None:
    tie = chosen(status="tied", tied=("agent-dev-001", "agent-dev-002"), tie_break="worst_places")
    assert choice_line(tie).startswith(
        "agent-dev-002: tied with agent-dev-001, shown first for its better worst places; won 11/12"
    )


def test_nothing_is_said_of_a_choice_that_was_made_or_not_asked_for() -> None:
    assert no_choice_line(chosen()) == ""
    assert no_choice_line(chosen(winner_id=None, selection=None)) == ""


def test_without_a_reason_that_is_known_nobody_compared_them() -> None:
    below = DegradedReason(phase="judge", what="below_quorum")
    line = no_choice_line(chosen(winner_id=None, status="no_ballots", degraded_reasons=(below,)))
    assert line == "Nothing was chosen: nobody compared the answers"
    unread = below.model_copy(
        update={"phase": "answer", "why": "of too few answers a final answer could be read"}
    )
    line = no_choice_line(
        chosen(winner_id=None, status="no_ballots", method="vote", degraded_reasons=(unread,))
    )
    assert line == "Nothing was chosen: answer: of too few answers a final answer could be read"


def test_what_a_round_of_revision_lacks_is_a_line_for_each_kind() -> None:
    late = [DegradedReason(phase="revise", round=2, what="missing", who=f"agent-dev-00{n}") for n in (1, 2)]
    failed = DegradedReason(phase="revise", round=2, what="failed", who="agent-dev-003", why="server_error")
    why = "it would have made 11 calls, more than max_calls, 10"
    left_out = DegradedReason(phase="revise", round=3, what="left_out", why=why)
    of_judges = DegradedReason(phase="judge", round=2, what="missing", who="judge-001")
    assert revision_lines(chosen(degraded_reasons=(*late, failed, left_out, of_judges))) == [
        "Round 2: not heard from: agent-dev-001, agent-dev-002",
        "Round 2: failed (server_error): agent-dev-003",
        "Round 3: left out: it would have made 11 calls, more than --max-calls, 10",
    ]
