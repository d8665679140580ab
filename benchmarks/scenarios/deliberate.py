"""How good a choice is: in a planted world, beside reference libraries, and with a real model's answers and ballots.

One table, each figure with its target and how sure it is. What this machine cannot run is left out, and said.
"""

import argparse
import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack

from benchmarks.choice import planted_figures, references, tiny_model
from benchmarks.report import Result, add_json, finish

TRIALS = 20_000
PROFILES = 10_000
SEED = 1
MODEL_PARTS = ("ballots", "sums")
PARTS = ("planted", "references", *MODEL_PARTS)

_began = time.monotonic()


def told(line: str) -> None:
    print(f"{time.monotonic() - _began:6.0f} s  {line}", flush=True)


async def with_model(parts: Sequence[str], url: str | None, seed: int, threads: int) -> list[Result]:
    """At `url`, or with a tiny model that is started here. VLLM_API_KEY is the server's key."""
    # Only now: the other parts run without what the service needs.
    from benchmarks.choice import model_ballots, model_sums
    from benchmarks.choice.model_calls import model_at

    async with AsyncExitStack() as stack:
        if url is None:
            reason = tiny_model.why_not()
            if reason:
                told(f"{', '.join(parts)}: left out, neither --model-url nor VLLM_URL is given, and {reason}")
                return []
            url = stack.enter_context(tiny_model.served(threads))
        model = await stack.enter_async_context(model_at(url, os.environ.get("VLLM_API_KEY")))
        told(f"model: {model.short_name} at {url}")
        results: list[Result] = []
        if "ballots" in parts:
            results += await model_ballots.measure(model, seed, told)
        if "sums" in parts:
            results += await model_sums.measure(model, seed, told)
        return results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--trials", type=int, default=TRIALS, help="of each planted world")
    parser.add_argument("--profiles", type=int, default=PROFILES, help="for each reference library")
    parser.add_argument("--processes", type=int, help="for planted worlds; default: one a core")
    parser.add_argument(
        "--model-url",
        default=os.environ.get("VLLM_URL") or None,
        help="an OpenAI-compatible server; default: VLLM_URL",
    )
    parser.add_argument(
        "--model-threads",
        type=int,
        default=max(1, len(os.sched_getaffinity(0)) // 2),
        help="of the tiny model",
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    add_json(parser)


def main(options: argparse.Namespace) -> int:
    results: list[Result] = []
    if "planted" in options.parts:
        results += planted_figures.measure(options.trials, options.seed, options.processes, told)
    if "references" in options.parts:
        results += references.measure(options.profiles, options.seed, told)
    if asked := [part for part in MODEL_PARTS if part in options.parts]:
        results += asyncio.run(with_model(asked, options.model_url, options.seed, options.model_threads))
    told(f"seed {options.seed}")
    return finish(results, options.json)
