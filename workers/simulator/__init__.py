"""A simulated model server for demos, tests and benchmarks. It speaks vLLM's OpenAI-compatible API and runs no model.

It comes with the wheel because the commands of the extra `server` start it as a child process when VLLM_URL is not set.
A deployment that sets VLLM_URL never imports it.
"""

from parley.workers.simulator.behaviour import DEFAULT_MODEL, FAULTS

__all__ = ["DEFAULT_MODEL", "FAULTS"]
