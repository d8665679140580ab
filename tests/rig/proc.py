"""What the kernel knows of processes and ports. Reads /proc."""

import os
import re
import socket
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

# The title that Ray gives to the processes of our actors.
ACTOR_TITLE = "ray::LoggingActor"
_PSS = re.compile(r"^Pss:\s+(\d+) kB", re.MULTILINE)


def free_port() -> int:
    """A port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def descendants(pid: int) -> list[int]:
    """Process ids of all that was started below `pid`."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it has just ended
                # "pid (name) state ppid …"; a name may hold brackets and spaces.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found[1:]


def with_command(pids: Iterable[int], text: str) -> list[int]:
    """Those of `pids` whose command line holds `text`."""
    found = []
    for pid in pids:
        with suppress(OSError):  # it has just ended
            if text.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def actors(pid: int) -> list[int]:
    """Process ids of our Ray actors below `pid`. Those of another service on this machine are not among them."""
    return with_command(descendants(pid), ACTOR_TITLE)


def cpu_seconds(pid: int) -> float:
    """CPU time so far of `pid` and all below it, ended children included."""
    ticks = 0
    for each in [pid, *descendants(pid)]:
        with suppress(OSError):
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))  # user and system time, its own and that of ended children
    return ticks / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    """RSS of one process now, in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def proportional_mib(pid: int) -> float:
    """PSS in MiB: a page that n processes share counts 1/n. RSS where the kernel has no PSS, 0 for a process that has
    ended."""
    with suppress(OSError):
        found = _PSS.search(Path(f"/proc/{pid}/smaps_rollup").read_text())
        if found is not None:
            return int(found[1]) / 1024
    with suppress(OSError):
        return resident_mib(pid)
    return 0.0


def open_files(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def listen_overflows() -> int:
    """Connections of any process that found a listening socket's queue full since the machine was started."""
    lines = [
        line.split()
        for line in Path("/proc/net/netstat").read_text().splitlines()
        if line.startswith("TcpExt:")
    ]
    return int(dict(zip(*lines, strict=True))["ListenOverflows"])


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"
