"""What a filling stream may lose: nothing that an open deliberation or a consumer still needs."""

import pytest

from parley.broker.core.states_and_moves import State
from parley.broker.core.tally import Outcome, Phase, Tally
from parley.broker.jetstream.trim_rules import Floor, Needed, first_unsettled, is_filling


@pytest.mark.parametrize(
    ("floors", "first"),
    [
        ([Floor(7, idle=False)], 8),
        ([Floor(7, idle=True)], 21),
        ([Floor(12, idle=False), Floor(0, idle=True)], 13),
        ([Floor(12, idle=False), Floor(3, idle=False)], 4),
        ([], 1),
    ],
)
def test_what_a_consumer_may_still_deliver_is_kept(floors: list[Floor], first: int) -> None:
    assert first_unsettled(floors, last_seq=20) == first


@pytest.mark.parametrize(
    ("outcomes", "request_seq", "kept"),
    [({}, 5, (5, 30)), ({"a": 12, "b": 9}, 50, (20, 9)), ({"a": 40}, 50, (20, 30))],
)
def test_what_an_open_deliberation_names_is_kept(
    outcomes: dict[str, int], request_seq: int, kept: tuple[int, int]
) -> None:
    reported = {agent: Outcome(succeeded=True, seq=seq) for agent, seq in outcomes.items()}
    phase = Phase(number=1, agents=("a", "b", "c"), outcomes=reported)
    needed = Needed(20, 30)
    needed.add(
        Tally(
            task_id="t", state=State.IN_PROGRESS, request_seq=request_seq, accepted_at=0, deadline=1, phases=(phase,)
        )
    )  # fmt: skip
    assert (needed.first_request, needed.first_outcome) == kept


@pytest.mark.parametrize(
    ("stored", "limit", "filling"),
    [(51, 100, True), (50, 100, False), (10**12, -1, False), (10, None, False), (10, 0, False)],
)
def test_a_stream_fills_over_half_of_its_limit(stored: int, limit: int | None, filling: bool) -> None:
    assert is_filling(stored, limit) is filling
