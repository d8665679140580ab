"""What `python -m benchmarks deliberate` measures: how good a choice is, and how sure that figure is."""
