"""How fast it is, measured on real parts. `make bench`, or `python -m benchmarks --help`."""
