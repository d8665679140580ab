"""A limit of a connection is told by its name, with the remedy."""

import pytest

from parley.broker.core.errors import BrokerUnavailable, LimitReached
from parley.broker.jetstream.connection import unavailable
from parley.broker.jetstream.nats_limit_errors import limit_reached


@pytest.mark.parametrize(
    ("said", "limit"),
    [
        ("nats: 'maximum connections exceeded'", "max_connections"),
        ("nats: maximum account active connections exceeded", "the account's limit of connections"),
        ("nats: 'Maximum Subscriptions Exceeded'", "max_subscriptions"),
        ("nats: 'maximum control line exceeded'", "max_control_line"),
        ("nats: maximum payload violation", "max_payload"),
    ],
)
def test_a_limit_is_named(said: str, limit: str) -> None:
    assert limit in (limit_reached(said) or "")
    error = unavailable("nats://x", Exception(said))
    assert isinstance(error, LimitReached)
    assert limit in str(error)
    assert "Is it running" not in str(error)


@pytest.mark.parametrize("said", ["", "nats: timeout", "nats: 'Authorization Violation'"])
def test_another_error_is_about_no_limit(said: str) -> None:
    assert limit_reached(said) is None
    assert type(unavailable("nats://x", Exception(said))) is BrokerUnavailable
