"""One line says how sure a choice is, or why there is none."""

from parley.broker.core.messages import DegradedReason
from parley.choice_in_words import choice_line, no_choice_line
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
