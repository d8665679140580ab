"""Forged messages are counted each, and logged once a kind."""

import logging

import pytest

from parley.broker.jetstream.forgery_counts import Forgeries, Forgery


def test_the_first_of_a_kind_is_logged_and_all_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    forgeries = Forgeries()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            forgeries.note(Forgery.DELIVERY, "intake")
        forgeries.note(Forgery.ENDING, "deliberation.get")
    assert forgeries.counts[Forgery.DELIVERY] == 3
    assert forgeries.counts[Forgery.ACKNOWLEDGEMENT] == 0
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["intake", "deliberation.get"]
