"""Real processes for tests and benchmarks: how to start, watch and stop them, and what the kernel says of them.

Tests and benchmarks import this package; it imports neither of them.
"""
