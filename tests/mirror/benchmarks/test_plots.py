"""Which figures are on which curve. Drawing needs matplotlib and is tried by hand."""

from typing import Any

from benchmarks.peers.roster import PEERS
from benchmarks.plots import PLOTS, STYLES, caption, lines
from benchmarks.points import points
from benchmarks.turn import BARE, PARLEY


def rows() -> list[dict[str, Any]]:
    return [
        {
            "system": name,
            "concurrency": point.concurrency,
            "agents": point.agents,
            "calls_per_second": point.calls,
            "p50_ms": 1,
        }
        for name in (BARE, PARLEY)
        for point in points()
    ]


def test_every_system_has_a_style_of_its_own() -> None:
    assert set(STYLES) == {PARLEY, BARE, *PEERS}
    for part in range(3):
        assert len({style[part] for style in STYLES.values()}) == len(STYLES)


def test_a_curve_goes_from_left_to_right_over_its_own_points() -> None:
    throughput, latency, agents = (lines(plot, rows()) for plot in PLOTS)
    assert [x for x, _ in throughput[PARLEY]] == [x for x, _ in latency[BARE]] == [1, 4, 16, 64, 128]
    assert agents[PARLEY] == [(1, 192), (3, 192), (8, 192), (16, 192), (64, 192)]


def test_who_was_not_measured_has_no_curve() -> None:
    assert list(lines(PLOTS[0], rows())) == [PARLEY, BARE]


def test_the_caption_says_what_was_measured_on_what() -> None:
    found = {
        "machine": {"cpu": "A chip", "cores": 2},
        "runs": [{}],
        "model_latency_ms": 50.0,
        "date": "2026-01-02T03:04:05+00:00",
    }
    assert caption(found) == "model 50 ms, medians of 1 run, all on one machine: A chip, 2 cores, 2026-01-02"
