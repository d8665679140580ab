"""Run many histories on all cores, or print one step by step. Exit code 1 if an invariant breaks."""

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.simulation.conditions.choice import kind_of
from tests.simulation.history import History, HistoryResult, run, simulated
from tests.simulation.known import known

# Histories that one process runs before it returns a result.
CHUNK = 250
CHUNKS_A_PROCESS = 4
# Violations that are printed in full.
SHOWN = 3
REPORT_SECONDS = 10.0


@dataclass(slots=True)
class Sum:
    """The results of many histories. `broken`: the seeds that break an invariant. `told`: the first of them in full."""

    histories: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    known: Counter[str] = field(default_factory=Counter)
    broken: list[int] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def take(self, told: HistoryResult) -> None:
        self.histories += 1
        self.seen += told.seen
        if told.violation is None:
            return
        mistake = known(told.violation, told.condition)
        if mistake is not None:
            self.known[mistake.why] += 1
            return
        self.broken.append(told.seed)
        if len(self.told) < SHOWN:
            self.told.append(str(told))

    def add(self, other: "Sum") -> None:
        self.histories += other.histories
        self.seen += other.seen
        self.known += other.known
        self.broken += other.broken
        self.told = (self.told + other.told)[:SHOWN]


def of(seeds: Sequence[int]) -> Sum:
    """Run these seeds."""
    sum_ = Sum()
    with simulated():
        for seed in seeds:
            sum_.take(run(seed))
    return sum_


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--histories", type=int, default=100_000, help="how many (100000)")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the first one's seed (0)")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="how many at a time (one for each core)"
    )
    parser.add_argument("--seed", type=int, help="run this one only")
    parser.add_argument("--condition", help="with --histories: only histories of this condition")
    parser.add_argument("--trace", action="store_true", help="with --seed: print every step")
    given = parser.parse_args(arguments)
    if given.seed is not None:
        return _one(given.seed, trace=given.trace)
    seeds: Sequence[int] = range(given.first, given.first + given.histories)
    if given.condition is not None:
        seeds = [seed for seed in seeds if kind_of(seed).name == given.condition]
    return _many(seeds, given.processes)


def _one(seed: int, *, trace: bool) -> int:
    with simulated():
        told = History(seed).run()
    if trace:
        print(told.trace.told())
    print(f"seed {seed}: {told.violation or 'every invariant holds'}")
    return 0 if told.violation is None else 1


def _many(seeds: Sequence[int], processes: int) -> int:
    chunks = [seeds[place : place + CHUNK] for place in range(0, len(seeds), CHUNK)]
    began = said = time.monotonic()
    all_ = Sum()
    # A history in twenty keeps its loop alive, with all it held: 10 GiB after 32,000 in one process (measured).
    with multiprocessing.Pool(processes, maxtasksperchild=CHUNKS_A_PROCESS) as pool:
        for part in pool.imap_unordered(of, chunks):
            all_.add(part)
            if time.monotonic() - said > REPORT_SECONDS:
                said = time.monotonic()
                rate = all_.histories / (said - began)
                print(
                    f"{all_.histories:>8} of {len(seeds)} histories, {rate:.0f}/s, broken: {sorted(all_.broken)[:20] or 'none'}",
                    flush=True,
                )
    _report(all_, seeds, time.monotonic() - began)
    return 1 if all_.broken else 0


def _report(all_: Sum, seeds: Sequence[int], seconds: float) -> None:
    print(
        f"{all_.histories} histories (seeds {seeds[0]} to {seeds[-1]}) in {seconds:.0f} s, {all_.histories / seconds:.0f}/s"
    )
    for name, count in sorted(all_.seen.items()):
        print(f"{count:>10}  {name}")
    for why, count in all_.known.items():
        print(f"{count:>10}  histories ended by a known mistake: {why}")
    if not all_.broken:
        print("every invariant holds in all others" if all_.known else "every invariant holds")
        return
    print(f"{len(all_.broken)} histories break an invariant, seeds {sorted(all_.broken)[:20]}\n")
    print("\n\n".join(all_.told))


if __name__ == "__main__":
    sys.exit(main())
