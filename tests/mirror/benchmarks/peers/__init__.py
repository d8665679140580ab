"""One test file a source file of `benchmarks/peers`; what only measures is tested by running it."""
