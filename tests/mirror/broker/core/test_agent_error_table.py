"""The table of error types: whole, and as the contract shows it."""

from parley.broker.core.agent_error_table import POLICIES, Signal
from parley.broker.core.messages import ErrorType


def test_every_error_type_has_a_policy() -> None:
    assert set(POLICIES) == set(ErrorType)


def test_slow_is_a_word_for_probes_only() -> None:
    assert Signal.SLOW not in {policy.signal for policy in POLICIES.values()}


def test_an_error_that_is_final_is_not_retried() -> None:
    assert not any(policy.final and policy.retried for policy in POLICIES.values())
