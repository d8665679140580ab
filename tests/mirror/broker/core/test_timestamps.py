"""Instants on the wire."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.broker.core.timestamps import format_timestamp, parse_timestamp


def test_an_instant_is_written_in_utc_with_a_z_to_the_millisecond() -> None:
    assert format_timestamp(0) == "1970-01-01T00:00:00.000Z"
    assert format_timestamp(1763800000.5) == "2025-11-22T08:26:40.500Z"
    assert format_timestamp(1763800000.1234) == "2025-11-22T08:26:40.123Z"


def test_a_leap_day_and_the_turn_of_a_year_are_themselves() -> None:
    assert format_timestamp(1709164800) == "2024-02-29T00:00:00.000Z"
    assert format_timestamp(1735689599.999) == "2024-12-31T23:59:59.999Z"


@pytest.mark.parametrize(
    ("written", "instant"),
    [
        ("2025-11-22T08:26:40.500Z", 1763800000.5),
        ("2025-11-22T08:26:40Z", 1763800000.0),
        ("2025-11-22T09:26:40+01:00", 1763800000.0),
        ("2025-11-22T08:26:40.123456Z", 1763800000.123456),
    ],
)
def test_a_timestamp_is_read_in_any_zone(written: str, instant: float) -> None:
    assert parse_timestamp(written) == instant


@pytest.mark.parametrize(
    "written", ["", "yesterday", "2025-11-22T08:26:40", "2025-11-22", "2025-13-01T00:00:00Z", "1763800000"]
)
def test_what_names_no_instant_is_refused(written: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # ValueError is the promise; whose words it has is not
        parse_timestamp(written)


@given(st.floats(min_value=0, max_value=4_102_444_800))
def test_an_instant_survives_the_wire_to_the_millisecond(instant: float) -> None:
    written = format_timestamp(instant)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", written)
    # Cut, not rounded: a reader never takes an instant for later than it was. A microsecond is datetime's own
    # resolution.
    assert -0.000_001 <= instant - parse_timestamp(written) < 0.001_001


@given(st.lists(st.floats(min_value=0, max_value=4_102_444_800), min_size=2, max_size=2))
def test_written_instants_sort_like_the_instants(pair: list[float]) -> None:
    earlier, later = sorted(pair)
    assert format_timestamp(earlier) <= format_timestamp(later)
