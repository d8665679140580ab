"""`python -m parley.workers.simulator`: one simulated model server in this process, until SIGTERM or SIGINT."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence

import uvloop
from aiohttp import web

from parley.broker.process_tuning import tune_gc
from parley.workers.simulator.behaviour import FAULTS, Behaviour
from parley.workers.simulator.server import Simulator


async def serve(behaviour: Behaviour, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT. Prints the address as the first line of output."""
    # handler_cancellation: a client that leaves cancels its request, as vLLM aborts it.
    app = Simulator(behaviour).app()
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    address, bound = runner.addresses[0][:2]
    print(f"http://{address}:{bound}", flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await runner.cleanup()


def main(argv: Sequence[str] | None = None) -> int:
    default = Behaviour()
    about = "An OpenAI-compatible server without a model."
    parser = argparse.ArgumentParser(prog="python -m parley.workers.simulator", description=about)
    add = parser.add_argument
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=8000, help="0 takes a free one")
    add("--model", default=default.model)
    add("--api-key", default=None)
    add("--latency-ms", type=float, default=default.latency_ms)
    add("--tokens-per-second", type=float, default=default.tokens_per_second, help="0: all at once")
    add("--tokens", type=int, default=default.tokens)
    add("--slots", type=int, default=0, help="answers made at a time, the rest wait; 0: any number")
    add("--max-model-len", type=int, default=default.max_model_len, help="words, prompt and answer together")
    add("--seed", type=int, default=default.seed)
    add("--fault", action="append", default=[], metavar="NAME=SHARE", help=f"one of {', '.join(FAULTS)}")
    options = vars(parser.parse_args(argv))
    host, port, shares = options.pop("host"), options.pop("port"), options.pop("fault")
    faults = {}
    for text in shares:
        name, _, share = text.partition("=")
        if name not in FAULTS:
            parser.error(f"--fault {name}: not one of {', '.join(FAULTS)}")
        faults[name] = float(share or 1)
    tune_gc()
    uvloop.run(serve(Behaviour(**options, faults=faults), host, port))
    return 0


if __name__ == "__main__":
    sys.exit(main())
