"""Memory from /proc, of this process."""

import os

from benchmarks.memory import OURS, ours_mib, overflows, proportional_mib
from benchmarks.service import resident_mib


def test_a_page_that_others_share_counts_by_its_share() -> None:
    assert 1.0 < proportional_mib(os.getpid()) <= resident_mib(os.getpid()) + 1.0


def test_a_process_that_has_ended_takes_nothing() -> None:
    assert proportional_mib(2**22 + 1) == 0.0


def test_ours_is_told_by_kind() -> None:
    found = ours_mib(os.getpid())
    assert tuple(found) == OURS
    assert found["service"] > 1.0
    assert found["Ray actors"] == 0.0


def test_refused_connections_only_ever_add_up() -> None:
    before = overflows()
    assert 0 <= before <= overflows()
