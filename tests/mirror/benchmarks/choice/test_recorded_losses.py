"""Lost ballots are compared with what the ending says of them."""

from random import Random

from benchmarks.choice.planted_world import LOSSES, PlantedMembers, World
from benchmarks.choice.recorded_losses import unnamed_losses
from benchmarks.choice.simulated_deliberation import deliberate
from parley.broker.core.tally import Tally


def with_losses(seed: int) -> tuple[Tally, PlantedMembers]:
    members = PlantedMembers(World(lost=0.5), Random(seed))
    return deliberate(members, f"losses-{seed}", agents=5), members


def test_every_kind_of_loss_is_named() -> None:
    kinds: set[object] = set()
    for seed in range(40):
        tally, members = with_losses(seed)
        assert unnamed_losses(tally, members.lost) == 0, f"seed {seed}"
        kinds.update(report and (report.said, report.error_type) for report in members.lost.values())
    assert len(kinds) == len(LOSSES)


def test_a_loss_that_the_ending_does_not_name_is_found() -> None:
    tally, members = next(found for found in map(with_losses, range(40)) if len(found[1].lost) == 1)
    (lost,) = members.lost
    (other,) = {f"judge-{number:03d}" for number in (1, 2)} - {lost} if lost != "judge-003" else {"judge-001"}
    # Taken for another judge's: one is not named, and one is named that was not lost.
    assert unnamed_losses(tally, {other: members.lost[lost]}) == 2
