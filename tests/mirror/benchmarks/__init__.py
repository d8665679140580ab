"""One test file a source file of `benchmarks`; what only measures is tested by running it."""
