"""How lateness is measured: a pause of nats-server is subtracted, and nothing else is."""

import pytest

from tests.faults.load import Asked, lateness, still


def test_a_pause_is_a_period_without_a_stored_message() -> None:
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
