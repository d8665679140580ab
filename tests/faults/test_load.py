"""How lateness is judged: a pause of the server's own is not held against whoever had to wait for it, and nothing else is forgiven."""

import pytest

from tests.faults.load import Asked, lateness, still


def test_a_pause_is_a_time_in_which_nothing_was_stored() -> None:
    assert still([0.0, 0.05, 0.1, 1.3, 1.35, 1.4]) == [(0.1, 1.3)]
    assert still([2.0, 0.0, 1.0, 0.5, 1.5]) == [(0.0, 0.5), (0.5, 1.0), (1.0, 1.5), (1.5, 2.0)]
    assert still([]) == []


@pytest.mark.parametrize(
    ("ended", "pauses", "late"),
    [
        (10.4, [], 0.4),
        (11.5, [], 1.5),
        (11.5, [(10.2, 11.4)], 0.3),
        (11.5, [(8.0, 10.5)], 1.0),
        (11.5, [(11.0, 14.0)], 1.0),
        (11.5, [(2.0, 9.0), (12.0, 15.0)], 1.5),
    ],
)
def test_only_a_pause_between_deadline_and_ending_counts(
    ended: float, pauses: list[tuple[float, float]], late: float
) -> None:
    assert lateness(Asked("t", at=0.0, ended=ended), 10.0, pauses) == pytest.approx(late)
