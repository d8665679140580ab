"""A copy with other values is what pydantic's own copy is."""

import pytest
from pydantic import BaseModel, ValidationError

from parley.broker.core.frozen_models import changed, with_shared_names
from parley.broker.core.states_and_moves import State
from parley.broker.core.tally import Phase, Tally

TALLY = Tally(
    task_id="t",
    state=State.PENDING,
    request_seq=1,
    accepted_at=1.0,
    deadline=2.0,
    phases=(Phase(number=1, agents=("a",)),),
)


def test_a_changed_copy_is_pydantics_and_the_first_one_stays() -> None:
    copy, theirs = changed(TALLY, state=State.FAILED), TALLY.model_copy(update={"state": State.FAILED})
    assert copy == theirs
    assert copy.model_fields_set == theirs.model_fields_set
    assert copy.model_dump_json(exclude_defaults=True) == theirs.model_dump_json(exclude_defaults=True)
    assert TALLY.state is State.PENDING
    assert copy.phases is TALLY.phases


class Member(BaseModel):
    model: str
    self: int


def test_a_field_may_have_the_name_of_a_parameter() -> None:
    assert changed(Member(model="one", self=1), model="two", self=2) == Member(model="two", self=2)


def test_a_changed_copy_is_frozen_too_and_can_be_changed_again() -> None:
    copy = changed(changed(TALLY, finish_early=True), deadline=3.0)
    assert (copy.finish_early, copy.deadline) == (True, 3.0)
    assert "finish_early" in copy.model_fields_set
    with pytest.raises(ValidationError, match="frozen"):
        copy.deadline = 4.0  # type: ignore[misc]


def test_models_whose_fields_were_all_given_share_their_names_and_stay_what_they_were() -> None:
    whole = [Phase.model_validate_json(Phase(number=1, agents=("a",)).model_dump_json()) for _ in range(2)]
    one, other = map(with_shared_names, whole)
    assert one.model_fields_set is other.model_fields_set
    assert one.model_fields_set == set(Phase.model_fields)
    assert one == other == Phase(number=1, agents=("a",))
    assert one.model_dump_json() == one.model_copy().model_dump_json()
    named = with_shared_names(Phase(number=1, agents=("a",)))
    assert named.model_fields_set == {"number", "agents"}
