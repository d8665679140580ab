"""A trace goes on only if it is one."""

import pytest

from parley.broker.core.traceparent import parse_traceparent

GOOD = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_trace_goes_on_to_the_letter() -> None:
    assert parse_traceparent(GOOD) == GOOD


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "x",
        f"{GOOD}\r\nx: y",
        GOOD.replace("00-4", "ff-4"),
        GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32),
        GOOD.upper(),
    ],
)
def test_what_is_none_is_ignored(value: str | None) -> None:
    assert parse_traceparent(value) is None
