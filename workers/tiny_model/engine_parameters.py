"""How llama.cpp serves the model: its bounds, its threads, what its HTTP side leaves out. Pure."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

MODEL_NAME = "SmolLM2-135M-Instruct"
# Answers made together; more requests wait, first come, first served.
SLOTS = 4
# Prompt and answer of one request together, in tokens. The model was trained with 8,192; half of it halves the memory.
CONTEXT_TOKENS = 4_096
# The longest answer to a request that names no `max_tokens`. What is longer repeats itself.
MAX_ANSWER_TOKENS = 512
# Prompts that are kept for requests with the same beginning. llama.cpp's own default is 8 GiB.
PROMPT_CACHE_MIB = 128
# More threads make so small a model no faster.
MAX_THREADS = 4
# A thread that waits for another one sleeps. Waiting busily, two threads on two cores that others use too are six times
# slower than one. OpenMP reads this when the engine is loaded.
ENVIRONMENT: Mapping[str, str] = {"OMP_WAIT_POLICY": "passive"}


def engine_parameters(model_file: Path, port: int, cores: int) -> dict[str, Any]:
    """Attributes of xllamacpp's `CommonParams`, by dotted name.

    `port`: 0 to 65,535, of 127.0.0.1; 0 takes a free one. `cores`: that this process may use, 1 or more.
    """
    threads = max(1, min(MAX_THREADS, cores))
    return {
        "model.path": str(model_file),
        "model_alias": {MODEL_NAME},
        "hostnames": ["127.0.0.1"],
        "port": port,
        "n_parallel": SLOTS,
        "cont_batching": True,
        "n_ctx": SLOTS * CONTEXT_TOKENS,
        "kv_unified": False,  # each slot has its own share of the context
        "ctx_shift": False,  # a full context ends the answer, rather than forgetting its prompt
        "n_predict": MAX_ANSWER_TOKENS,
        "cache_ram_mib": PROMPT_CACHE_MIB,
        "n_gpu_layers": 0,
        "cpuparams.n_threads": threads,
        "cpuparams_batch.n_threads": threads,
        "ui": False,
        "endpoint_slots": False,  # it shows the prompts of all
        "cors_origins": "http://127.0.0.1",  # no web page may read the answers
        "cors_credentials": False,
        "offline": True,
    }
