"""Names on the wire: who reads them relies on every letter."""

from parley.broker.core import header_names


def test_a_request_without_a_name_is_called_by_its_place_in_the_stream() -> None:
    assert header_names.own_name(17) == "d-17"
    assert header_names.OWN_NAME.fullmatch(header_names.own_name(17))
    for other in ("d-", "d-1x", "D-1", "d-1\n"):
        assert not header_names.OWN_NAME.fullmatch(other)


def test_a_msg_id_is_of_one_message_only() -> None:
    work = header_names.work_msg_id("t-1", "agent-dev-001", 1, 7)
    assert header_names.ending_msg_id("t-1") == "t-1:ending"
    assert header_names.outcome_msg_id("t-1", "agent-dev-001", 1) == "t-1:agent-dev-001:1"
    assert work == "t-1:agent-dev-001:1:request:7"
    assert header_names.work_msg_id("t-1", "agent-dev-001", 1, 8) != work
