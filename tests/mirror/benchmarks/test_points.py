"""Which points are measured, and with how many deliberations."""

from benchmarks.points import AGENTS, IN_FLIGHT, LONGEST_SECONDS, Pace, Point, fanned, points, rotated


def test_both_curves_are_measured_and_no_point_twice() -> None:
    found = points()
    assert [point.concurrency for point in found if point.agents == AGENTS] == [1, 4, 16, 64, 128]
    assert {point.agents: point.concurrency for point in found if point.agents != AGENTS} == {
        1: 192,
        8: 24,
        16: 12,
        64: 3,
    }
    assert len(found) == len(set(found)) == 9


def test_quick_has_fewer_points_of_the_same_curves() -> None:
    assert set(points(quick=True)) < set(points())
    assert {Point(1, AGENTS), fanned(AGENTS), fanned(64)} <= set(points(quick=True))


def test_the_calls_in_flight_stay_the_same_while_agents_vary() -> None:
    assert [fanned(agents).calls for agents in (1, 3, 8, 16, 64)] == [IN_FLIGHT] * 5
    assert fanned(500) == Point(1, 500)


def test_whoever_is_not_known_yet_is_measured() -> None:
    assert Pace().affords(Point(128, 3))


def test_what_would_take_too_long_is_left_out() -> None:
    pace = Pace()
    pace.learn(Point(1, 3), 0.5)  # 1.5 calls a second
    assert pace.affords(Point(4, 3))
    assert not pace.affords(Point(16, 3))
    assert 2 * Point(16, 3).calls / pace.calls_per_second > LONGEST_SECONDS


def test_the_best_pace_decides_what_is_affordable() -> None:
    pace = Pace()
    pace.learn(Point(1, 3), 20.0)
    pace.learn(Point(4, 3), 1.0)
    assert pace.calls_per_second == 60.0


def test_a_point_is_given_as_many_deliberations_as_fill_its_time() -> None:
    pace = Pace()
    pace.learn(Point(16, 3), 100.0)
    assert pace.knows(Point(16, 3))
    assert not pace.knows(Point(1, 3))
    assert pace.count(Point(16, 3), seconds=4.0) == 400
    assert pace.count(Point(16, 3), seconds=0.01) == 16  # once round at the least


def test_each_run_begins_with_another() -> None:
    assert [rotated(["a", "b", "c"], run) for run in range(4)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
        ["a", "b", "c"],
    ]
