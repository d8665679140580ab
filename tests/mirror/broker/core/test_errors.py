"""Each error names the thing and, where there is one, the remedy."""

import inspect

import pytest

from parley.broker.core import errors
from parley.broker.core.errors import (
    BrokerUnavailable,
    BrokerUnsuitable,
    Conflict,
    InvalidMessage,
    ParleyError,
    PayloadTooLarge,
    RightMissing,
    SettingsError,
    StoreFull,
    StreamNotFound,
    TopologyMismatch,
    Unavailable,
)
from parley.broker.core.url_masking import masked

SECRET_URL = "nats://s3cret-token@nats.example:4222"
EVERY_KIND = [
    kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, ParleyError)
]


def test_the_tree_is_the_one_drawn_in_the_docstring() -> None:
    assert {kind.__name__: kind.__base__.__name__ for kind in EVERY_KIND if kind.__base__ is not None} == {
        "ParleyError": "Exception", "SettingsError": "ParleyError", "Unavailable": "ParleyError",
        "BrokerUnavailable": "Unavailable", "RightMissing": "BrokerUnavailable", "StoreInUse": "BrokerUnavailable", "StoreFull": "BrokerUnavailable",
        "LimitReached": "BrokerUnavailable", "NoQuorum": "BrokerUnavailable", "Unanswered": "BrokerUnavailable",
        "ServiceSilent": "Unavailable", "AccessRefused": "BrokerUnavailable",
        "StreamSilent": "BrokerUnavailable", "Unacknowledged": "BrokerUnavailable",
            "ObjectNotStored": "BrokerUnavailable", "ObjectGone": "BrokerUnavailable",
        "BrokerUnsuitable": "Unavailable", "StreamNotFound": "Unavailable", "TopologyMismatch": "Unavailable", "TopologyRefused": "TopologyMismatch",
        "InvalidMessage": "ParleyError", "Conflict": "ParleyError", "Forgotten": "ParleyError",
        "PayloadTooLarge": "ParleyError",
    }  # fmt: skip
    drawing = inspect.getdoc(errors) or ""
    assert all(kind.__name__ in drawing for kind in EVERY_KIND)


def test_settings_errors_say_each_problem_once() -> None:
    error = SettingsError(["NATS_URL: not set", "PARLEY_POOL: ray or local"])
    assert error.problems == ("NATS_URL: not set", "PARLEY_POOL: ray or local")
    assert str(error) == "NATS_URL: not set; PARLEY_POOL: ray or local"


def test_an_unreachable_broker_is_named_with_why_and_what_to_look_at() -> None:
    error = BrokerUnavailable("nats://nats.example:4222", "connection refused")
    assert (error.url, error.reason) == ("nats://nats.example:4222", "connection refused")
    for word in ("nats://nats.example:4222", "connection refused", "NATS_URL"):
        assert word in str(error)


def test_a_right_that_lacks_is_named_and_nobody_asks_whether_nats_runs() -> None:
    error = RightMissing("nats://x", "this NATS user has no right to publish to agent.requested")
    assert str(error) == (
        "NATS at nats://x: this NATS user has no right to publish to agent.requested "
        "(docs/security.md has the rights of each role)"
    )


def test_an_unsuitable_broker_is_named_with_what_is_wrong_about_it() -> None:
    error = BrokerUnsuitable("nats://nats.example:4222", "is version 2.10.0; Parley needs 2.12 or newer")
    assert str(error) == "NATS at nats://nats.example:4222 is version 2.10.0; Parley needs 2.12 or newer"


def test_a_nats_without_our_streams_is_told_from_one_that_is_not_there() -> None:
    assert "no stream DEAD_LETTERS" in str(StreamNotFound("DEAD_LETTERS"))
    assert "parley serve" in str(StreamNotFound("DEAD_LETTERS"))


def test_a_mismatch_lists_every_difference_and_says_nothing_was_changed() -> None:
    error = TopologyMismatch(
        ["stream A: max_age is 1, declared 2", "consumer A/b: ack_wait is 3, declared 4"]
    )
    assert error.differences == (
        "stream A: max_age is 1, declared 2",
        "consumer A/b: ack_wait is 3, declared 4",
    )
    assert all(difference in str(error) for difference in error.differences)
    assert "left alone" in str(error)
    assert "parley provision" in str(error)


def test_a_bad_message_says_what_is_wrong_field_by_field() -> None:
    assert (
        str(InvalidMessage(["num_agents: too many", "role: unknown"]))
        == "num_agents: too many; role: unknown"
    )


def test_a_payload_too_large_says_for_what_and_by_how_much() -> None:
    error = PayloadTooLarge("deliberation.completed", 2_000_000, 1_048_576)
    assert str(error) == "2000000 bytes for deliberation.completed exceed the broker's max_payload of 1048576"


@pytest.mark.parametrize("error", [Unavailable("no such model"), Conflict("d-1"), ParleyError("no")])
def test_the_plain_kinds_say_what_they_were_given(error: ParleyError) -> None:
    assert str(error) == error.args[0]


@pytest.mark.parametrize(
    "error",
    [
        SettingsError(["a", "b"]),
        BrokerUnavailable("u", "r"),
        BrokerUnsuitable("u", "r"),
        StreamNotFound("S"),
        TopologyMismatch(["a"]),
        InvalidMessage(["a"]),
        PayloadTooLarge("s", 2, 1),
        Conflict("k"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_error_is_one_line_and_is_caught_as_the_root(error: ParleyError) -> None:
    assert str(error)
    assert "\n" not in str(error)
    with pytest.raises(ParleyError):
        raise error


@pytest.mark.parametrize("kind", [BrokerUnavailable, BrokerUnsuitable])
def test_a_masked_url_keeps_its_token_secret(kind: type[BrokerUnavailable] | type[BrokerUnsuitable]) -> None:
    error = kind(masked(SECRET_URL), "is not there")
    assert "s3cret-token" not in str(error) + repr(error)
    assert "nats.example:4222" in str(error)


def test_a_full_store_is_told_from_a_full_stream_and_from_an_absent_server() -> None:
    whole = str(StoreFull("nats://x", "DELIBERATIONS", "insufficient resources"))
    assert whole.startswith("JetStream stores nothing: no space left (insufficient resources)")
    assert "restarted" in whole
    one = str(StoreFull("nats://x", "AGENT_REQUESTS", "maximum bytes exceeded"))
    assert one.startswith("JetStream stores nothing more in AGENT_REQUESTS: maximum bytes exceeded")
    assert "cannot reach" not in whole + one
