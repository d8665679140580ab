"""Every measurement, one command: `python -m benchmarks NAME`. `python -m benchmarks NAME --help` shows its options."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

# By name: the module of `benchmarks.scenarios`, what it measures, and arguments that come first.
COMMANDS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "smoke": ("smoke", "CPU time of a deliberation, as a ratio; half a minute", ()),
    "curves": ("curves", "throughput and latency beside the plain loop and other libraries", ()),
    "plots": ("plots", "draw what `curves` has written", ()),
    "scale": ("scale", "the next four, each with its target; about 15 minutes", ()),
    "in-flight": ("scale", "memory with 10,000 deliberations in flight", ("in-flight",)),
    "backlog": ("scale", "throughput over a queue of 100,000 requests", ("backlog",)),
    "startup": ("scale", "how long `parley up` takes", ("startup",)),
    "full-server": ("scale", "tokens a second of a simulated model that is full", ("full-server",)),
    "deadlines": ("deadlines", "how late endings come when 10,000 deadlines fall into one second", ()),
    "live": ("live", "tokens a second of a real vLLM that is full", ()),
    "deliberate": (
        "deliberate",
        "how good a choice is: planted, beside references, by a real model; minutes",
        (),
    ),
    "choice-overhead": ("choice_overhead", "what judges add beside two bare rounds of calls; a minute", ()),
    "gateway": ("gateway", "what the gateway adds, how many it takes, its memory; a minute", ()),
    "soak": ("soak", "what grows under constant load", ()),
    "aims": ("aims", "all targets of docs/performance.md; about an hour", ()),
}


def main(arguments: Sequence[str] | None = None) -> int:
    width = max(map(len, COMMANDS))
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog="\n".join(f"{name:<{width}}  {text}" for name, (_, text, _) in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=COMMANDS, metavar="NAME")
    parser.add_argument("options", nargs=argparse.REMAINDER, metavar="…")
    given = parser.parse_args(arguments)
    module, text, first = COMMANDS[given.name]
    # Loaded only now: `smoke` must not pay for what other scenarios import.
    scenario = import_module(f"benchmarks.scenarios.{module}")
    own = argparse.ArgumentParser(prog=f"python -m benchmarks {given.name}", description=text)
    scenario.add_arguments(own)
    return int(scenario.main(own.parse_args([*first, *given.options])))


if __name__ == "__main__":
    sys.exit(main())
