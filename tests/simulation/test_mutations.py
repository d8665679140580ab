"""Tests of the tests: each rule broken on purpose is noticed, by the invariant that is there for it, within a few
seeds."""

import pytest

from tests.simulation.choice_mutations import CHOICE_MUTATIONS
from tests.simulation.condition_mutations import CONDITION_MUTATIONS
from tests.simulation.conditions.choice import seeds_of
from tests.simulation.history import run, simulated
from tests.simulation.invariants import Invariant
from tests.simulation.job_mutations import JOB_MUTATIONS
from tests.simulation.mutations import MUTATIONS, Mutation

# Of histories with the condition. The one that needs most, a pull request that is never given up, needs 293.
SEEDS = 600
ALL = (*MUTATIONS, *JOB_MUTATIONS, *CONDITION_MUTATIONS, *CHOICE_MUTATIONS)


@pytest.mark.parametrize("mutation", ALL, ids=lambda mutation: mutation.name)
def test_a_broken_rule_is_noticed(mutation: Mutation) -> None:
    with simulated(), mutation.breaking():
        for seed in seeds_of(mutation.condition, SEEDS):
            violation = run(seed, mutation.blind).violation
            if violation is not None and violation.invariant is mutation.trips:
                return
    pytest.fail(f"{SEEDS} seeds, and none shows that the service {mutation.broken}")


def test_every_invariant_is_tripped_by_some_mutation() -> None:
    assert {mutation.trips for mutation in ALL} == set(Invariant)


def test_invariants_are_numbered_in_order() -> None:
    assert [invariant.number for invariant in Invariant] == list(range(1, len(Invariant) + 1))
