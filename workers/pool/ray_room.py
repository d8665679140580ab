"""Whether a Ray cluster has CPUs for the actors. Pure: the shell asks Ray, this counts."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# Ray counts resources in ten-thousandths of a CPU.
_SMALLEST = 1e-4


@dataclass(frozen=True, slots=True)
class NodeRoom:
    """CPUs of one live node, and those of them that nothing has reserved."""

    cpus: float
    free: float


def node_rooms(
    nodes: Iterable[Mapping[str, Any]], available: Mapping[str, Mapping[str, float]]
) -> list[NodeRoom]:
    """From what `ray.nodes()` and Ray's `available_resources_per_node` answer."""
    return [
        NodeRoom(
            float(node["Resources"].get("CPU", 0.0)), float(available.get(node["NodeID"], {}).get("CPU", 0.0))
        )
        for node in nodes
        if node["Alive"]
    ]


@dataclass(frozen=True, slots=True)
class Lack:
    """Actors find no place. `lasting`: they would not, were everything else to stop."""

    reason: str
    remedy: str
    lasting: bool

    def __str__(self) -> str:
        return f"{self.reason}. {self.remedy}"


def lack(rooms: Iterable[NodeRoom], *, actors: int, waiting: int, cpus: float) -> Lack | None:
    """Why some of `actors` actors of `cpus` CPUs each find no place; None if they do. `waiting`: those that have none
    yet."""
    rooms = list(rooms)
    offered = ", ".join(f"{room.cpus:g}" for room in rooms)
    nodes = f"{_many(len(rooms), 'node')} with {offered} CPU{'s' * (offered != '1')}"
    if not rooms:
        nodes = "no node that is alive"
    each = f"{_many(actors, 'actor')} of {_many(cpus, 'CPU')}"
    fitting = sum(_fit(room.cpus, cpus, actors) for room in rooms)
    if fitting < actors:
        place = f"room for {fitting} of them" if fitting else "no room for one of them"
        reason = f"this dispatcher wants {each} and the cluster, {nodes}, has {place}"
        remedy = f"Add CPUs, or lower PARLEY_POOL_ACTORS (it is {actors}) or PARLEY_RAY_ACTOR_CPUS (it is {cpus:g})"
        return Lack(reason, remedy, lasting=True)
    if sum(_fit(room.free, cpus, actors) for room in rooms) < waiting:
        free = ", ".join(f"{room.free:g}" for room in rooms)
        reason = (
            f"{waiting} of {each} wait for a place, and the cluster's CPUs are taken ({nodes}, {free} free)"
        )
        remedy = "Stop what uses them (another dispatcher?), add CPUs, or lower PARLEY_POOL_ACTORS or PARLEY_RAY_ACTOR_CPUS"
        return Lack(reason, remedy, lasting=False)
    return None


def _many(count: float, what: str) -> str:
    return f"{count:g} {what}{'s' * (count != 1)}"


def _fit(room: float, cpus: float, most: int) -> int:
    return most if cpus < _SMALLEST else min(most, int(room / cpus + _SMALLEST))
