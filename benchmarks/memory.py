"""What /proc knows: memory of processes, each page counted once however many share it, and connections that were refused."""

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from benchmarks.machine import descendants
from benchmarks.service import resident_mib
from benchmarks.soak import actors

SERVICE, ACTORS, RAY = "service", "Ray actors", "Ray's own processes"
OURS = (SERVICE, ACTORS, RAY)
_PSS = re.compile(r"^Pss:\s+(\d+) kB", re.MULTILINE)


def proportional_mib(pid: int) -> float:
    """PSS: a page that n processes share counts 1/n. RSS where the kernel does not tell. 0 for a process that has ended."""
    with suppress(OSError):
        told = _PSS.search(Path(f"/proc/{pid}/smaps_rollup").read_text())
        if told is not None:
            return int(told[1]) / 1024
    with suppress(OSError):
        return resident_mib(pid)
    return 0.0


def ours_mib(service_pid: int) -> dict[str, float]:
    """By kind of process: the service itself, its Ray actors, and what Ray runs besides."""
    crew = set(actors(service_pid))
    rest = [pid for pid in descendants(service_pid) if pid not in crew]
    return {SERVICE: proportional_mib(service_pid), ACTORS: _sum(crew), RAY: _sum(rest)}


def others_mib(service_pid: int, nats_pid: int) -> dict[str, float]:
    """What is beside ours, all started by this process: nats-server, the simulated models, and this process, which is the load."""
    known = {service_pid, nats_pid, *descendants(service_pid)}
    models = [pid for pid in descendants(os.getpid()) if pid not in known]
    return {
        "nats-server": proportional_mib(nats_pid),
        "simulated models": _sum(models),
        "load": proportional_mib(os.getpid()),
    }


def _sum(pids: Iterable[int]) -> float:
    return sum(map(proportional_mib, pids))


def overflows() -> int:
    """Connections that found a listening socket's queue full since the machine was started, whoever's they were."""
    lines = [
        line.split()
        for line in Path("/proc/net/netstat").read_text().splitlines()
        if line.startswith("TcpExt:")
    ]
    return int(dict(zip(*lines, strict=True))["ListenOverflows"])
