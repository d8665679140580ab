"""A real vLLM on the CPU: its installation, a model without weights, and its server as a child process."""
