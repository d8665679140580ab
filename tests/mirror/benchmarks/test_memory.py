"""Memory from /proc, of this process."""

import os
import subprocess
import sys

from benchmarks.memory import OURS, ours_mib, overflows, proportional_mib
from benchmarks.service import resident_mib


def test_a_page_that_others_share_counts_by_its_share() -> None:
    assert 1.0 < proportional_mib(os.getpid()) <= resident_mib(os.getpid()) + 1.0


def test_a_process_that_has_ended_takes_nothing() -> None:
    assert proportional_mib(2**22 + 1) == 0.0


def test_ours_is_told_by_kind() -> None:
    # Not this process, which other tests have given actors of its own.
    waiting = "import sys; print(flush=True); sys.stdin.read()"
    alone = subprocess.Popen([sys.executable, "-c", waiting], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with alone:
        assert alone.stdout is not None
        alone.stdout.readline()
        found = ours_mib(alone.pid)
        assert alone.stdin is not None
        alone.stdin.close()
    assert tuple(found) == OURS
    assert found["service"] > 1.0
    assert (found["Ray actors"], found["Ray's own processes"]) == (0.0, 0.0)


def test_refused_connections_only_ever_add_up() -> None:
    before = overflows()
    assert 0 <= before <= overflows()
