"""What the machine knows of processes and ports."""

import os
import socket
from contextlib import suppress
from pathlib import Path


def descendants(pid: int) -> list[int]:
    """Process ids of everything that was started below `pid`. From /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it ended meanwhile
                # "pid (name) state ppid …"; a name may hold brackets and spaces.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found[1:]


def cpu_seconds(pid: int) -> float:
    """CPU time of `pid` and everything below it so far, those that ended there included. From /proc."""
    ticks = 0
    for each in [pid, *descendants(pid)]:
        with suppress(OSError):
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))  # user, system, and both of its children that ended
    return ticks / os.sysconf("SC_CLK_TCK")


def cpu_model() -> str:
    """The processor's name, as the kernel has it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def free_port() -> int:
    """A port of loopback that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
