"""Whether the actors find a place, and what is said if they do not."""

import pytest

from parley.workers.pool.ray_room import NodeRoom, lack, node_rooms

ROOM = {
    "one each": ([(1, 1), (1, 1)], 2, 2, 1.0),
    "two on one": ([(2, 2)], 2, 2, 1.0),
    "shares": ([(1, 1)], 10, 10, 0.1),
    "no CPUs wanted": ([(0, 0)], 4, 4, 0.0),
    "the last": ([(0, 0), (2, 1)], 2, 1, 1.0),
}


@pytest.mark.parametrize(("nodes", "actors", "waiting", "cpus"), ROOM.values(), ids=ROOM)
def test_there_is_room(nodes: list[tuple[float, float]], actors: int, waiting: int, cpus: float) -> None:
    assert lack([NodeRoom(*node) for node in nodes], actors=actors, waiting=waiting, cpus=cpus) is None


NONE = {
    "too few": ([(1, 1)], 2, 1, 1.0, True, "1 node with 1 CPU, has room for 1 of them"),
    "none": ([(0, 0)], 2, 2, 1.0, True, "1 node with 0 CPUs, has no room for one of them"),
    "no node": ([], 2, 2, 1.0, True, "no node that is alive"),
    "each too small": ([(1, 1), (1, 1)], 1, 1, 2.0, True, "2 nodes with 1, 1 CPUs"),
    "taken": ([(2, 0)], 2, 2, 1.0, False, "taken (1 node with 2 CPUs, 0 free)"),
    "one of them taken": ([(2, 1), (0, 0)], 2, 2, 1.0, False, "taken (2 nodes with 2, 0 CPUs, 1, 0 free)"),
}


@pytest.mark.parametrize(("nodes", "actors", "waiting", "cpus", "lasting", "said"), NONE.values(), ids=NONE)
def test_there_is_none(
    nodes: list[tuple[float, float]], actors: int, waiting: int, cpus: float, lasting: bool, said: str
) -> None:
    found = lack([NodeRoom(*node) for node in nodes], actors=actors, waiting=waiting, cpus=cpus)
    assert found is not None
    assert found.lasting == lasting
    assert said in found.reason
    assert "PARLEY_POOL_ACTORS" in found.remedy
    assert "PARLEY_RAY_ACTOR_CPUS" in found.remedy
    assert "\n" not in str(found)


def test_dead_nodes_and_missing_figures_are_no_room() -> None:
    nodes = [
        {"NodeID": "a", "Alive": True, "Resources": {"CPU": 2.0}},
        {"NodeID": "b", "Alive": False, "Resources": {"CPU": 8.0}},
        {"NodeID": "c", "Alive": True, "Resources": {}},
    ]
    assert node_rooms(nodes, {"a": {"CPU": 1.5}}) == [NodeRoom(2.0, 1.5), NodeRoom(0.0, 0.0)]
