"""Names on the wire: who reads them relies on every letter."""

import pytest

from parley.broker.core import headers_and_ids
from parley.broker.core.headers_and_ids import REPLY_TO, find_header


def test_a_request_without_a_name_is_called_by_its_place_in_the_stream() -> None:
    assert headers_and_ids.own_name(17) == "d-17"
    assert headers_and_ids.OWN_NAME.fullmatch(headers_and_ids.own_name(17))
    for other in ("d-", "d-1x", "D-1", "d-1\n"):
        assert not headers_and_ids.OWN_NAME.fullmatch(other)


def test_a_msg_id_is_of_one_message_only() -> None:
    work = headers_and_ids.work_msg_id("t-1", "agent-dev-001", 1, 7)
    assert headers_and_ids.ending_msg_id("t-1") == "t-1:ending"
    assert headers_and_ids.outcome_msg_id("t-1", "agent-dev-001", 1) == "t-1:agent-dev-001:1"
    assert work == "t-1:agent-dev-001:1:request:7"
    assert headers_and_ids.work_msg_id("t-1", "agent-dev-001", 1, 8) != work


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({}, None),
        ({"parley-reply-to": "a"}, "a"),
        ({"PARLEY-REPLY-TO": "a"}, "a"),
        ({"parley-reply-to": "b", "Parley-Reply-To": "a"}, "a"),
        ({"Parley-Reply": "a"}, None),
    ],
    ids=str,
)
def test_a_header_is_found_in_any_case_and_as_written_first(
    headers: dict[str, str], found: str | None
) -> None:
    assert find_header(headers, REPLY_TO) == found
