"""The bytes and subjects that settle messages and ask for them."""

import json

import nats.errors
import pytest

from parley.broker.jetstream.acks_and_pulls import (
    batch_limit,
    nak,
    next_subject,
    parse_reply,
    pull_request,
    reply_pattern,
)

PLAIN = "$JS.ACK.DELIBERATIONS.intake.3.41.7.1763800000123456789.5"
DOMAIN = "$JS.ACK.hub.AbCdEf.DELIBERATIONS.intake.3.41.7.1763800000123456789.5"


@pytest.mark.parametrize("reply", [PLAIN, DOMAIN, DOMAIN + ".x9", DOMAIN.replace("hub", "_")])
def test_a_reply_subject_says_the_place_the_time_and_the_count(reply: str) -> None:
    seq, stored_at, count = parse_reply(reply)
    assert (seq, count) == (41, 3)
    assert stored_at == pytest.approx(1763800000.123456789, abs=1e-6)
    assert reply_pattern("DELIBERATIONS", "intake").fullmatch(reply)
    assert not reply_pattern("DELIBERATIONS", "cancel").fullmatch(reply)


@pytest.mark.parametrize("reply", ["", "_INBOX.abc", "$JS.ACK.x", ".".join(["x"] * 9), ".".join(["x"] * 11)])
def test_any_other_subject_is_no_reply_subject(reply: str) -> None:
    with pytest.raises(nats.errors.NotJSMessageError):
        parse_reply(reply)


def test_a_message_is_given_back_at_once_or_after_a_delay() -> None:
    assert nak() == nak(0.0) == b"-NAK"
    assert nak(1.5) == b'-NAK {"delay": 1500000000}'


def test_a_pull_request_waits_at_the_server_or_not() -> None:
    assert json.loads(pull_request(3, expires_seconds=0.5)) == {"batch": 3, "expires": 500_000_000}
    assert json.loads(pull_request(3)) == {"batch": 3, "no_wait": True}
    assert json.loads(pull_request(3, max_bytes=10)) == {"batch": 3, "no_wait": True, "max_bytes": 10}
    assert next_subject("S", "c") == "$JS.API.CONSUMER.MSG.NEXT.S.c"


@pytest.mark.parametrize(
    ("description", "limit"),
    [
        ("Exceeded MaxRequestBatch of 10", 10),
        ("Exceeded MaxRequestBatch of 0", 1),
        ("Exceeded MaxRequestExpires of 10s", None),
        ("Exceeded MaxWaiting", None),
        ("", None),
    ],
)
def test_a_status_tells_how_many_messages_a_request_may_ask_for(description: str, limit: int | None) -> None:
    assert batch_limit(description) == limit
