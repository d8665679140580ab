"""The table of legal moves, written out a second time, and what happens to every move that is not in it."""

import itertools

import pytest

from parley.broker.core.states_and_moves import ENDINGS, MOVES, Cause, IllegalMove, State, move

# The whole table as docs/architecture.md draws it. A change to the code alone fails here; that is the point.
LEGAL = {
    (None, Cause.REQUESTED, State.PENDING),
    (None, Cause.REQUESTED, State.TIMEOUT),
    (None, Cause.REFUSED, State.REJECTED),
    (None, Cause.ABANDONED, State.FAILED),
    (State.PENDING, Cause.REPORTED, State.IN_PROGRESS),
    (State.PENDING, Cause.REPORTED, State.COMPLETED),
    (State.PENDING, Cause.REPORTED, State.FAILED),
    (State.PENDING, Cause.DEADLINE, State.TIMEOUT),
    (State.PENDING, Cause.CANCEL, State.CANCELLED),
    (State.PENDING, Cause.ABANDONED, State.FAILED),
    (State.IN_PROGRESS, Cause.REPORTED, State.IN_PROGRESS),
    (State.IN_PROGRESS, Cause.REPORTED, State.COMPLETED),
    (State.IN_PROGRESS, Cause.REPORTED, State.FAILED),
    (State.IN_PROGRESS, Cause.LIMIT, State.IN_PROGRESS),
    (State.IN_PROGRESS, Cause.LIMIT, State.COMPLETED),
    (State.IN_PROGRESS, Cause.DEADLINE, State.COMPLETED),
    (State.IN_PROGRESS, Cause.DEADLINE, State.TIMEOUT),
    (State.IN_PROGRESS, Cause.CANCEL, State.CANCELLED),
    (State.IN_PROGRESS, Cause.ABANDONED, State.FAILED),
}
EVERY_MOVE = list(itertools.product((None, *State), Cause, State))


def test_the_states_have_the_names_that_travel() -> None:
    names = {"pending", "in_progress", "completed", "failed", "timeout", "cancelled", "rejected"}
    assert {str(state) for state in State} == names
    assert {str(state) for state in ENDINGS} == names - {"pending", "in_progress"}


def test_the_table_is_the_one_written_here() -> None:
    assert {(state, cause, to) for (state, cause), leads_to in MOVES.items() for to in leads_to} == LEGAL


@pytest.mark.parametrize(("state", "cause", "to"), sorted(LEGAL, key=str))
def test_a_legal_move_leads_where_it_says(state: State | None, cause: Cause, to: State) -> None:
    assert move(state, cause, to) is to


def test_every_other_move_is_refused_and_says_which_it_was() -> None:
    illegal = [triple for triple in EVERY_MOVE if triple not in LEGAL]
    assert len(illegal) == len(EVERY_MOVE) - len(LEGAL)
    for state, cause, to in illegal:
        with pytest.raises(IllegalMove, match=rf"^{state} may not become {to} because of {cause}$"):
            move(state, cause, to)


def test_endings_absorb() -> None:
    assert not [state for state, _ in MOVES if state in ENDINGS]


def test_every_state_can_be_reached_and_every_running_one_can_end() -> None:
    assert {to for _, _, to in LEGAL} == set(State)
    for running in set(State) - ENDINGS:
        assert {to for state, _, to in LEGAL if state is running} & ENDINGS


def test_a_running_deliberation_can_be_ended_by_its_deadline_or_a_cancel_from_wherever_it_is() -> None:
    for running in set(State) - ENDINGS:
        assert {Cause.DEADLINE, Cause.CANCEL, Cause.ABANDONED} <= {
            cause for state, cause, _ in LEGAL if state is running
        }
