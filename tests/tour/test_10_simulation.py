"""The simulation runs the service on a virtual clock against a modelled NATS, and breaks it at random.

A seed is a whole history: requests, kills, lost answers, doubled deliveries. The same seed gives the same steps, so a
failure can be read step by step: `python -m tests.simulation --seed 0 --trace`.
"""

from tests.simulation.history import History, simulated


def test_one_seed_told_step_by_step() -> None:
    with simulated():
        history = History(0).run()
    assert history.violation is None
    steps = history.trace.told()
    print(steps)
    # A request is stored; its tally, its deadline and its agents' work follow, in this order; later its ending.
    places = [
        steps.index(step) for step in ("deliberation.requested", "tally ", "timer ", "work ", "ending ")
    ]
    assert places == sorted(places)
