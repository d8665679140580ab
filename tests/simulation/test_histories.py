"""Two thousand histories of `make simulate`. They replay, and they reach the dangerous situations."""

import os
import subprocess
import sys

import pytest

from tests.simulation.__main__ import Sum, of
from tests.simulation.history import run, simulated

HISTORIES = 2_000
# Situations that the histories must reach to prove anything: at least this often in `HISTORIES`.
SITUATIONS = {
    "compare-and-set refused": 200, "dropped by Msg-Id": 200, "redelivered": 200,
    "ending carried twice by core NATS": 50, "killed between record and fan-out": 10,
    "killed between verdict and ending": 10, "killed between ending and mark": 10, "outcome ignored": 100,
    "agent asked again": 1, "outcome of an agent stored again": 100, "dead letter": 100,
    "cancel for nobody": 50, "question answered with an ending": 100, "ended completed": 100,
    "ended failed": 50, "ended timeout": 100, "ended cancelled": 50, "ended rejected": 50,
    "fault: killed before a step": 50, "fault: killed between a step and its answer": 50,
    "fault: stopped before a step": 20, "fault: stopped between a step and its answer": 20,
    "fault: answer lost": 50, "fault: step lost": 20, "fault: step delayed": 20, "fault: delivery lost": 20,
    "fault: delivery late": 20, "fault: delivery doubled": 20, "fault: deadline fired early": 10,
    "fault: deadline fired late": 10, "fault: broker away": 20, "fault: pull request lost": 20,
    "fault: pull request expired": 20,
}  # fmt: skip
# Histories beyond `HISTORIES` that the model itself once broke, and what it had wrong.
BROKE = {
    14491: "DELIBERATIONS was purged and a tally forgotten: nothing told any more that the request had ended",
    17301: "an ending was dropped and its tally forgotten: nothing told any more that the request had ended",
    18960: "a status was on its way to a subscriber, which asks anew once that has come",
    26582: "requests of a process that stood still never expired, so it was sent each message sixty times",
}


@pytest.fixture(scope="module")
def thousands() -> Sum:
    return of(range(HISTORIES))


def test_every_deliberation_ends_exactly_once_whichever_process_dies(thousands: Sum) -> None:
    assert not thousands.broken, "\n\n".join(thousands.told)


@pytest.mark.parametrize("seed", BROKE)
def test_a_history_that_broke_by_a_mistake_of_the_model_holds(seed: int) -> None:
    with simulated():
        assert run(seed).violation is None


@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_histories_reach_the_dangerous_situations(thousands: Sum, situation: str) -> None:
    assert thousands.seen[situation] >= SITUATIONS[situation]


def test_a_history_is_the_same_each_time_and_in_each_process() -> None:
    seeds = range(40)
    with simulated():
        here = [run(seed).trace.digest for seed in seeds]
        again = [run(seed).trace.digest for seed in seeds]
    script = (
        "from tests.simulation.history import run, simulated\n"
        "with simulated():\n"
        f"    print(*[run(seed).trace.digest for seed in {list(seeds)}])\n"
    )
    other = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONHASHSEED": "7"}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert here == again
    assert here == other.stdout.split()


def test_a_failure_says_how_to_run_it_again() -> None:
    from tests.simulation.mutations import MUTATIONS

    broken = next(mutation for mutation in MUTATIONS if mutation.broken == "fans out before it records")
    with simulated(), broken.breaking():
        told = str(run(0))
    assert "seed 0 (ordinary): I12 (record first)" in told
    assert "python -m tests.simulation --seed 0 --trace" in told
    assert "agent-dev-001" in told
