"""A real model, very small: SmolLM2-135M-Instruct, served by llama.cpp in a process of its own. The extra `tiny`.

The demo and `parley up --model tiny` start it as a child process when VLLM_URL is not set. It needs no network and no
GPU. It is there to be asked, not to be believed.
"""

from parley.workers.tiny_model.engine_parameters import MODEL_NAME

__all__ = ["MODEL_NAME"]
