"""The table of error types: whole, and as the contract shows it."""

from parley.broker.core.error_policy import POLICIES, Signal, contract_rows
from parley.broker.core.messages import ErrorType


def test_every_error_type_has_a_policy() -> None:
    assert set(POLICIES) == set(ErrorType)


def test_slow_is_a_word_for_probes_only() -> None:
    assert Signal.SLOW not in {policy.signal for policy in POLICIES.values()}


def test_an_error_that_is_final_is_not_retried() -> None:
    assert not any(policy.final and policy.retried for policy in POLICIES.values())


def test_the_contract_shows_a_row_for_each_without_an_empty_cell_and_without_a_column_too_many() -> None:
    rows = list(contract_rows())
    assert len(rows) == len(ErrorType)
    assert all(cell and "|" not in cell for row in rows for cell in row)
    assert rows[0] == (
        "`rate_limited`",
        "HTTP 429",
        "yes, after `Retry-After` if given",
        "operator: more capacity",
    )
