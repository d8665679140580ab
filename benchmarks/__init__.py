"""Measurements: `python -m benchmarks NAME`. docs/performance.md has the results."""
